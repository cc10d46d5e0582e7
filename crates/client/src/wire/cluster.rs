//! The cluster on the wire.

use serde::{Deserialize, Serialize};

/// The reply to `GET /leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Who leads.
    pub leader: Node,
    /// Its reign: grows with every election.
    pub epoch: u64,
    /// Who answered.
    pub node: u64,
}

/// A node, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its URL.
    pub url: String,
}

/// The reply to `GET /cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Who answered.
    pub node: u64,
    /// Every member.
    pub members: Vec<Member>,
    /// Every shard, as the answering node sees it.
    pub shards: Vec<Shard>,
    /// How often the set of live members has changed.
    pub ring_epoch: u64,
    /// Where logs are kept: `embedded` or `redis`.
    pub store: String,
    /// In what respect the store promises less than Lockstep does; empty when all is well.
    #[serde(default)]
    pub store_warnings: Vec<String>,
    /// The version of the answering node.
    pub version: String,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// `leader` or `follower` of the coordination shard.
    pub role: String,
    /// Whether it holds a membership lease.
    pub alive: bool,
    /// Where clients reach it, while it is alive.
    pub url: Option<String>,
    /// Where peers reach it.
    pub peer: String,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// 0 coordinates; the others hold queues.
    pub id: u32,
    /// Who leads it.
    pub leader: Option<u64>,
    /// Who holds replicas.
    pub replicas: Vec<u64>,
    /// The leader's reign.
    pub epoch: u64,
    /// The last index applied at the answering node.
    pub applied: u64,
}

/// The reply to `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`: the process runs.
    pub status: String,
    /// Who answered.
    pub node: u64,
    /// Its version.
    pub version: String,
    /// What an operator should mend, one sentence each; empty when all is well.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The reply to `GET /ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether the node can serve.
    pub ready: bool,
    /// Why not; empty when it can.
    pub reasons: Vec<String>,
}
