//! Node to node: framed, pipelined requests over TCP with deadlines, lanes and reconnection.
//!
//! It moves bytes between services and knows nothing of what they mean.

mod frame;
mod incoming;
mod net;
mod outgoing;
#[cfg(test)]
mod tests;
mod transport;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::NodeId;
use rand::RngExt;

pub use net::{Listener, Net, Stream, TcpNet};
pub use transport::Transport;

/// How patient the transport is, and how much it holds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pause after a first failed connection; doubled each time.
    pub reconnect_min: Duration,
    /// The longest such pause.
    pub reconnect_max: Duration,
    /// A connection that was silent for so long is asked for a sign of life.
    pub ping_every: Duration,
    /// A connection that gives none for so long is closed.
    pub silence_max: Duration,
    /// Bytes that may wait to be sent on one lane; above it calls fail at once.
    pub queue_bytes_max: usize,
    /// Connections that peers may hold open to this node.
    pub connections_max: usize,
    /// Whether pauses vary at random. Simulations switch it off.
    pub jitter: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(4),
            queue_bytes_max: 64 * 1024 * 1024,
            connections_max: 1024,
            jitter: true,
        }
    }
}

impl Settings {
    /// Callers ping well within this.
    fn idle_max(&self) -> Duration {
        (self.ping_every + self.silence_max) * 2
    }

    fn jitter(&self, pause: Duration) -> Duration {
        if self.jitter { pause.mul_f64(rand::rng().random_range(0.5..1.0)) } else { pause }
    }
}

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

impl Service {
    fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Raft),
            2 => Some(Self::Router),
            3 => Some(Self::Cache),
            4 => Some(Self::Forming),
            _ => None,
        }
    }
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
