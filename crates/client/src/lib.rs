//! The Rust client of Lockstep, and the wire contract.
