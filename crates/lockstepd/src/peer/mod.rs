//! Node to node: framed, pipelined requests over TCP with deadlines, lanes and reconnection.
//!
//! It moves bytes between services and knows nothing of what they mean.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::NodeId;

/// Whom a request is for. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// Replication: votes, appends, snapshots.
    Raft = 1,
    /// Forwarded client requests.
    Router = 2,
    /// Cache coherence.
    Cache = 3,
    /// Forming a cluster, and who is who.
    Forming = 4,
}

/// A connection of its own to each peer, so that a big transfer never delays a small one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, heartbeats, forming, cache coherence: small and urgent.
    Control = 1,
    /// The log.
    Append = 2,
    /// Forwarded requests.
    Request = 3,
    /// Snapshots.
    Snapshot = 4,
}

/// Answers requests of one service.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request of `from`. Handlers of one connection are first polled in the order in
    /// which the requests arrived, and may finish in any order. The future is dropped when the
    /// caller has gone or has given up.
    async fn handle(&self, from: NodeId, payload: Bytes) -> Result<Bytes, Error>;
}

/// Sends requests to peers.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Sends one request and waits for its answer, at most `deadline`. Requests on one lane to one
    /// peer leave in the order in which the returned futures were first polled. Dropping the
    /// future tells the peer to drop its handler.
    async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Error>;
}

/// Why a call did not return an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Certainly not sent: no connection.
    #[error("peer is unreachable")]
    Unreachable,
    /// Sent, and no answer in time or the connection broke: it may have been done.
    #[error("no answer from peer")]
    NoAnswer,
    /// The peer refuses this node: another version, cluster or identity.
    #[error("peer refuses: {0}")]
    Refused(String),
    /// The peer could not make sense of it.
    #[error("peer could not read the request")]
    Malformed,
}
