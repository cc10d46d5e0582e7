//! What a shard needs of replication: an ordered, durable log behind one trait.
//!
//! A driver orders packs, makes them durable on a majority, and feeds them to the shard's
//! [`State`](crate::state::State) in order, on every replica. Above this module nobody knows which
//! driver runs; in it nobody knows HTTP.

#[cfg(test)]
mod conformance;
mod due;
pub mod memory;
mod pack;
pub mod raft;
pub mod redis;
mod time;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::{MessageId, NodeId};
use lockstep_core::{Command, Epoch, Index, Reply};
use tokio::sync::watch;

/// The replicated log of one shard.
#[async_trait]
pub trait Log: Send + Sync {
    /// Orders `command`, and returns once it is durable on a majority and applied here.
    /// Commands that wait at the same time share one entry.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;

    /// A linearizable read point: the local state at the returned index or later holds everything
    /// that was acknowledged anywhere before this call. Concurrent callers share one round.
    async fn barrier(&self) -> Result<Index, BarrierError>;

    /// Leader, epoch and applied index, as they change.
    fn status(&self) -> watch::Receiver<Status>;

    /// Another member's copy of a message's body, for when this one's is damaged. Best effort.
    async fn fetch_body(&self, _id: MessageId) -> Option<Bytes> {
        None
    }

    /// Asks a preferred member to take over, if this node leads. Best effort.
    async fn hand_over(&self, to: NodeId);

    /// Stops taking part, after what is in flight.
    async fn shutdown(&self);
}

/// A command that is in the log for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry that carried it.
    pub index: Index,
    /// What applying it answered.
    pub reply: Reply,
}

/// Why a proposal did not return a reply: what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not proposed. Ask the leader, if one is known.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// It may still commit. Retry under the same request key.
    #[error("outcome unknown")]
    Unknown,
    /// Certainly not proposed: too much waits already.
    #[error("log is full")]
    Full,
    /// Certainly not proposed: where the log is kept cannot be reached, or takes no writes.
    #[error("the store is away")]
    Away,
    /// Certainly not proposed: a member's disk has no room for what it brings.
    #[error("storage is full")]
    StorageFull,
    /// Certainly not proposed: the driver has shut down or failed for good.
    #[error("log is stopped")]
    Stopped,
}

/// Why a barrier failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Ask the leader, if one is known.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// Where the log is kept cannot be reached.
    #[error("the store is away")]
    Away,
    /// No majority confirmed it in time.
    #[error("no majority answered")]
    Unavailable,
    /// The driver has shut down or failed for good.
    #[error("log is stopped")]
    Stopped,
}

/// Where a log stands, as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads, if anybody.
    pub leader: Option<NodeId>,
    /// Whether this node leads and has applied an entry of its own reign: it may serve.
    pub leading: bool,
    /// The latest reign that this node has heard of.
    pub epoch: Epoch,
    /// The last applied index.
    pub applied: Index,
    /// Why the log can take nothing for now, if it cannot: where it is kept is away.
    pub away: Option<Arc<str>>,
    /// Whether the driver has failed for good, and why.
    pub failed: Option<String>,
}

impl Status {
    /// Whether only [`Self::applied`] has moved on from `before`: nothing to wake anybody for. The very
    /// first entry is news, it shows that the shard has formed.
    pub fn only_went_on(&self, before: &Self) -> bool {
        let Self { leader, leading, epoch, applied, away, failed } = self;
        *leader == before.leader
            && *leading == before.leading
            && *epoch == before.epoch
            && *away == before.away
            && *failed == before.failed
            && (before.applied.0 > 0 || applied.0 == 0)
    }
}
