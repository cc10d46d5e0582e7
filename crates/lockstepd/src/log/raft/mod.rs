//! The raft driver: one openraft group for each shard, all of a node's groups over one write-ahead
//! log and one connection to each peer.
//!
//! Its own work is the pack: everything that waits for a shard goes into one log entry. Consensus
//! itself is openraft's.

mod barrier;
mod follow;
mod machine;
mod network;
mod offline;
mod proposer;
mod receiver;
mod runtime;
mod storage;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::{MessageId, NodeId, ShardId};
use lockstep_core::{Command, Index};
use openraft::impls::EmptyNode;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::due;
use super::pack::brings_bodies;
use super::{Applied, BarrierError, Log, ProposeError, Status};
use crate::clock::Clock;
use crate::peer::{Handler, Peers};
use crate::space::{Space, Voters};
use crate::state::State;
use crate::store::snapshots::Snapshots;
use crate::store::wal::Wal;

pub use offline::{Begin, Stored};
pub use runtime::seed_this_thread;

/// Log bytes for each byte of the last snapshot: what is replayed at a start.
const LOG_PER_SNAPSHOT: u64 = 4;
/// Log of a shard that stays in memory, at most.
const RECENT_BYTES: usize = 16 * 1024 * 1024;

/// How a group behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// Log bytes between two snapshots of a shard.
    pub snapshot_bytes: u64,
    /// Commands that may wait for a shard's next pack; above it proposals are refused.
    pub waiting_max: usize,
    /// Bytes of commands in one pack, roughly.
    pub pack_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(2_000),
            election_max: Duration::from_millis(4_000),
            snapshot_bytes: 64 * 1024 * 1024,
            waiting_max: 16_384,
            pack_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Why a group cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the disk holds of it cannot be read.
    #[error("cannot read shard {shard}: {source}")]
    Storage {
        /// Which.
        shard: ShardId,
        /// Why.
        source: std::io::Error,
    },
    /// openraft refuses or has stopped.
    #[error("cannot start the log of shard {shard}: {why}")]
    Raft {
        /// Which.
        shard: ShardId,
        /// Its words.
        why: String,
    },
}

/// Every group of one node.
pub struct Groups {
    settings: Settings,
    node: NodeId,
    wal: Wal,
    snapshots: Snapshots,
    space: Arc<Space>,
    peers: Arc<dyn Peers>,
    clock: Clock,
    receiver: Arc<receiver::Receiver>,
    running: Mutex<BTreeMap<ShardId, Arc<RaftLog>>>,
}

impl Groups {
    /// A node's groups; none runs yet.
    pub fn new(
        settings: Settings,
        node: NodeId,
        wal: Wal,
        snapshots: Snapshots,
        space: Arc<Space>,
        peers: Arc<dyn Peers>,
        clock: Clock,
    ) -> Self {
        let receiver = Arc::new(receiver::Receiver::new(snapshots.clone(), Arc::clone(&space)));
        Self { settings, node, wal, snapshots, space, peers, clock, receiver, running: Mutex::default() }
    }

    /// Takes raft's messages from the peers.
    pub fn handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.receiver) as Arc<dyn Handler>
    }

    /// Starts this node's replica of a shard, which feeds `state`.
    pub async fn start(&self, shard: ShardId, state: Arc<State>) -> Result<Arc<RaftLog>, Error> {
        let storage = storage::Storage::open(shard, self.wal.clone(), self.recent_bytes())
            .map_err(|source| Error::Storage { shard, source })?;
        let formed = storage.is_formed();
        let (applied, applied_seen) = watch::channel(machine::Applied::default());
        let due = Arc::new(due::Due::new(LOG_PER_SNAPSHOT));
        let machine = machine::Machine::open(
            Arc::clone(&state),
            self.snapshots.clone(),
            applied,
            Arc::clone(&due),
            storage.purged(),
        )
        .await
        .map_err(|source| Error::Storage { shard, source })?;
        let disks = Voters::new(Arc::clone(&self.space), self.clock.clone());
        let factory = network::Factory {
            shard,
            peers: Arc::clone(&self.peers),
            due: Arc::clone(&due),
            disks: Arc::clone(&disks),
        };
        let config = Arc::new(self.config(shard)?);
        let raft = types::Raft::new(self.node.0, config, factory, storage.clone(), machine)
            .await
            .map_err(|error| Error::Raft { shard, why: error.to_string() })?;
        let heard = receiver::Heard::new(self.clock.clone());
        self.receiver.add(shard, raft.clone(), Arc::clone(&state), heard.clone());
        let (status, _) = watch::channel(Status::default());
        let follow = follow::Follow {
            node: self.node,
            shard,
            raft: raft.clone(),
            state: Arc::clone(&state),
            applied: applied_seen.clone(),
            status: status.clone(),
            wal: self.wal.clone(),
            storage,
            due,
            space: Arc::clone(&self.space),
            heard,
            settings: self.settings.clone(),
        };
        let (commands, waiting) = tokio::sync::mpsc::channel(self.settings.waiting_max);
        let proposer = proposer::Proposer::new(
            raft.clone(),
            Arc::clone(&state),
            self.clock.clone(),
            status.subscribe(),
            waiting,
            &self.settings,
        );
        let (readers, reading) = tokio::sync::mpsc::unbounded_channel();
        let barrier = barrier::run(raft.clone(), applied_seen, reading, self.settings.election_max);
        let tasks = vec![
            tokio::spawn(follow.run()).abort_handle(),
            tokio::spawn(proposer.run()).abort_handle(),
            tokio::spawn(barrier).abort_handle(),
        ];
        let log = Arc::new(RaftLog {
            node: self.node,
            shard,
            formed,
            raft,
            state,
            disks,
            peers: Arc::clone(&self.peers),
            commands,
            readers,
            status,
            tasks,
        });
        self.running.lock().expect("nothing panics while it holds this").insert(shard, Arc::clone(&log));
        Ok(log)
    }

    /// Stops every group.
    pub async fn shutdown(&self) {
        let running = std::mem::take(&mut *self.running.lock().expect("nothing panics while it holds this"));
        for log in running.values() {
            log.shutdown().await;
        }
    }

    /// Log that is kept in memory, and behind a snapshot.
    fn recent_bytes(&self) -> usize {
        usize::try_from(self.settings.snapshot_bytes / 4).unwrap_or(usize::MAX).min(RECENT_BYTES)
    }

    fn config(&self, shard: ShardId) -> Result<RaftConfig, Error> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = RaftConfig {
            cluster_name: format!("shard {shard}"),
            heartbeat_interval: ms(self.settings.heartbeat),
            election_timeout_min: ms(self.settings.election_min),
            election_timeout_max: ms(self.settings.election_max),
            install_snapshot_timeout: 120_000,
            // Entries are packs of any size: bytes decide what is sent and when to take a snapshot.
            max_payload_entries: 64,
            replication_lag_threshold: u64::MAX / 2,
            snapshot_policy: SnapshotPolicy::Never,
            // Bytes again decide what is kept behind a snapshot, see `follow.rs`.
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            // A few packs are in flight at most: the defaults would reserve megabytes for each group.
            api_channel_size: Some(1_024),
            notification_channel_size: Some(1_024),
            state_machine_channel_size: Some(256),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            ..RaftConfig::default()
        };
        config.validate().map_err(|error| Error::Raft { shard, why: error.to_string() })
    }
}

/// One shard's log at this node.
pub struct RaftLog {
    node: NodeId,
    shard: ShardId,
    formed: bool,
    raft: types::Raft,
    state: Arc<State>,
    disks: Arc<Voters>,
    peers: Arc<dyn Peers>,
    commands: tokio::sync::mpsc::Sender<super::pack::Waiting>,
    readers: tokio::sync::mpsc::UnboundedSender<barrier::Waiting>,
    status: watch::Sender<Status>,
    tasks: Vec<AbortHandle>,
}

impl RaftLog {
    /// Whether this node's disk held entries of the shard when it started: then the cluster has
    /// formed, and this node has promised things in it.
    pub fn was_formed(&self) -> bool {
        self.formed
    }

    /// Forms the group with these voters, on one node, the first time. Does nothing once it has formed.
    pub async fn initialize(&self, voters: &BTreeSet<NodeId>) -> Result<(), Error> {
        use openraft::errors::{InitializeError, RaftError};
        let members: BTreeMap<u64, EmptyNode> = voters.iter().map(|node| (node.0, EmptyNode {})).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Error::Raft { shard: self.shard, why: error.to_string() }),
        }
    }
}

#[async_trait]
impl Log for RaftLog {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        use tokio::sync::mpsc::error::TrySendError;
        // What was done once is only answered again.
        if brings_bodies(&command.op)
            && self.disks.any_full()
            && !self.state.read(|shard| shard.knows(&command.request))
        {
            return Err(ProposeError::StorageFull);
        }
        let (answer, applied) = tokio::sync::oneshot::channel();
        self.commands.try_send((command, answer)).map_err(|error| match error {
            TrySendError::Full(_) => ProposeError::Full,
            TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        applied.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn barrier(&self) -> Result<Index, BarrierError> {
        let (answer, reached) = tokio::sync::oneshot::channel();
        self.readers.send(answer).map_err(|_| BarrierError::Stopped)?;
        reached.await.unwrap_or(Err(BarrierError::Stopped))
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn fetch_body(&self, id: MessageId) -> Option<Bytes> {
        use openraft::async_runtime::WatchReceiver;
        let voters: Vec<u64> = self.raft.metrics().borrow_watched().membership_config.voter_ids().collect();
        for voter in voters.into_iter().map(NodeId).filter(|voter| *voter != self.node) {
            let fetched = network::fetch_body(&self.peers, self.shard, voter, id).await;
            if fetched.is_some() {
                return fetched;
            }
        }
        None
    }

    async fn hand_over(&self, to: NodeId) {
        if let Err(error) = self.raft.trigger().transfer_leader(to.0).await {
            tracing::debug!(shard = self.shard.0, %error, "could not hand leadership over");
        }
    }

    async fn shutdown(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Err(error) = self.raft.shutdown().await {
            tracing::debug!(shard = self.shard.0, %error, "the log did not stop cleanly");
        }
    }
}
