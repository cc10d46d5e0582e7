//! One node: the file that wires everything.
//!
//! Nothing here decides anything; it only says who knows whom, and in which order they start and stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::Millis;
use lockstep_core::names::{Incarnation, NodeId, Origin, ShardId};
use lockstep_core::{ring, shard};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Serve;
use crate::forming::{self, Forming};
use crate::identity::{self, Directory, Identity};
use crate::log::raft;
use crate::membership::Membership;
use crate::peer::{self, Net, Service, Transport};
use crate::replica::Replica;
use crate::router::{Placement, Router};
use crate::state::State;

/// Copies of each queue shard; the coordination shard is on every member.
const REPLICAS: usize = 3;
/// How often a leader looks whether another member should lead instead.
const BALANCE_EVERY: Duration = Duration::from_secs(1);

/// Why a node stopped, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Forming the cluster.
    #[error(transparent)]
    Forming(#[from] forming::Error),
    /// The log or its store.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// A port.
    #[error("cannot listen on {address}: {source}. Is another process using it? Choose another with {flag}")]
    Listen {
        /// Which.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A shard's log has failed for good.
    #[error("the log of shard {shard} has stopped: {why}")]
    Log {
        /// Which.
        shard: ShardId,
        /// What happened.
        why: String,
    },
}
