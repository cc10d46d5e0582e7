//! The lock machine.
