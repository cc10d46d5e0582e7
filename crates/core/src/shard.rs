//! One shard: composes the machines behind one pure `apply`.

use bytes::Bytes;

use crate::command::{Command, Effect, Reply};
use crate::names::{MessageId, ShardId, Ticket};
use crate::query::{Answer, Outcome, Query};
use crate::stamp::{Epoch, Index, Millis, Stamp};

/// What a shard is told once, at its creation, and keeps in its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// The most that one entry may advance log time: at most one election time-out.
    pub max_step: Millis,
    /// How many requests are remembered at once ([`crate::Refusal::MemoFull`]).
    pub memo_max: u32,
    /// Waiters per lock ([`crate::Refusal::TooManyWaiters`]).
    pub waiters_max: u32,
    /// Messages per queue in this shard ([`crate::Refusal::QueueFull`]).
    pub messages_max: u64,
    /// Payload bytes per queue in this shard ([`crate::Refusal::QueueFull`]).
    pub bytes_max: u64,
}

/// The state of one shard.
#[derive(Clone, Debug)]
pub struct Shard {}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Written by another version of Lockstep.
    #[error("snapshot has version {found}, this binary reads {expected}")]
    Version {
        /// In the bytes.
        found: u8,
        /// By this binary.
        expected: u8,
    },
    /// Not what was written.
    #[error("snapshot is damaged")]
    Damaged,
}

#[allow(unused_variables)]
impl Shard {
    /// An empty shard.
    pub fn new(id: ShardId, settings: Settings) -> Self {
        unimplemented!()
    }
    /// Applies one command. First everything that is due by `at.now` expires.
    pub fn apply(&mut self, at: Stamp, command: &Command) -> (Reply, Vec<Effect>) {
        unimplemented!()
    }
    /// Applies an entry without commands (a tick, or the blank entry of a new leader).
    pub fn advance(&mut self, at: Stamp) -> Vec<Effect> {
        unimplemented!()
    }
    /// The earliest log time at which something expires.
    pub fn next_deadline(&self) -> Option<Millis> {
        unimplemented!()
    }
    /// Log time as of the last applied entry.
    pub fn now(&self) -> Millis {
        unimplemented!()
    }
    /// The epoch of the last applied entry.
    pub fn epoch(&self) -> Epoch {
        unimplemented!()
    }
    /// The index of the last applied entry.
    pub fn applied(&self) -> Index {
        unimplemented!()
    }
    /// Answers a read from this state.
    pub fn query(&self, query: &Query) -> Answer {
        unimplemented!()
    }
    /// What became of a waiting acquire's ticket.
    pub fn outcome(&self, ticket: Ticket) -> Outcome {
        unimplemented!()
    }
    /// Bodies that no message and no memo needs any more since the last call. Not part of the
    /// state: after a snapshot is installed, ask [`Self::body_lives`] instead.
    pub fn take_dead_bodies(&mut self) -> Vec<MessageId> {
        unimplemented!()
    }
    /// Whether the body of `id` is still needed.
    pub fn body_lives(&self, id: MessageId) -> bool {
        unimplemented!()
    }
    /// The whole state as bytes, led by a version; bodies are not included.
    pub fn snapshot(&self) -> Bytes {
        unimplemented!()
    }
    /// The state that [`Self::snapshot`] wrote.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        unimplemented!()
    }
}
