//! The queue machine.
