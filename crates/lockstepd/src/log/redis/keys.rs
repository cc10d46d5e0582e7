//! The names of everything that a cluster keeps in Redis. All keys of one shard share a hash tag, so
//! that they lie on one node of a Redis Cluster and scripts may touch them together.

use lockstep_core::names::ShardId;
use lockstep_core::{Epoch, Index};

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, shard: ShardId) -> Self {
        Self { tag: format!("{{{prefix}:{shard}}}") }
    }

    /// The stream.
    pub(super) fn log(&self) -> String {
        format!("{}:log", self.tag)
    }

    /// Exists once the stream has: a stream that is gone is not a new one.
    pub(super) fn born(&self) -> String {
        format!("{}:born", self.tag)
    }

    /// Which snapshot counts.
    pub(super) fn pointer(&self) -> String {
        format!("{}:snapshot", self.tag)
    }

    /// Names of every set of chunks that may exist.
    pub(super) fn sets(&self) -> String {
        format!("{}:sets", self.tag)
    }

    /// Names of every chunk of message bodies that may exist.
    pub(super) fn bodies(&self) -> String {
        format!("{}:bodies", self.tag)
    }

    /// A chunk of message bodies.
    pub(super) fn body_chunk(&self, number: u64) -> String {
        format!("{}:bodies:{}-{}", self.tag, number >> 32, number & u64::from(u32::MAX))
    }

    /// All pieces of a snapshot, for people.
    pub(super) fn pieces(&self, pointer: &super::snapshot::Pointer) -> String {
        format!("{}:chunk:{}-{}:*", self.tag, pointer.by, pointer.at.index)
    }

    /// One piece of the snapshot at `index`, taken in `epoch`.
    pub(super) fn chunk(&self, epoch: Epoch, index: Index, number: u32) -> String {
        format!("{}:chunk:{epoch}-{index}:{number}", self.tag)
    }
}

/// The key of the cluster's identity.
pub(super) fn cluster(prefix: &str) -> String {
    format!("{prefix}:cluster")
}

/// The key that an import leaves until it is complete.
pub(super) fn import(prefix: &str) -> String {
    format!("{prefix}:import")
}

/// The key of a node's last incarnation.
pub(super) fn incarnation(prefix: &str, node: lockstep_core::names::NodeId) -> String {
    format!("{prefix}:incarnation:{node}")
}
