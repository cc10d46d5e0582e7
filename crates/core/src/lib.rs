//! The pure half of Lockstep: what a shard's state becomes when its log is applied.
//!
//! Everything here is a function of its arguments. There is no clock, no randomness, no I/O, no
//! `await` and no iteration over hash order, so that every replica that applies the same log holds
//! the same bytes. What moves bytes (consensus, disks, sockets) lives in `lockstepd`.

pub mod cache;
pub mod command;
pub mod configs;
pub mod context;
pub mod deadlines;
pub mod dedup;
pub mod guards;
pub mod locks;
pub mod members;
pub mod names;
pub mod query;
pub mod queue;
pub mod ring;
pub mod shard;
pub mod stamp;

pub use command::{Command, Effect, Op, Pack, Refusal, Reply};
pub use shard::Shard;
pub use stamp::{Epoch, Index, Millis, Stamp};
