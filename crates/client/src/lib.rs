//! The Rust client of Lockstep, and the wire contract that servers and clients share.
//!
//! Both sides build their JSON from [`wire`], so they cannot drift apart. Nothing here knows how a
//! server works inside.

pub mod wire;
