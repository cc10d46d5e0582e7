//! What a node's logs stand on, and how it comes to be a member there: its data directory and raft,
//! or a Redis that holds everything while nodes keep nothing.
//!
//! It only chooses and delegates; what either does is told in `forming.rs` and in `log/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_core::names::{Incarnation, NodeId, ShardId};
use lockstep_core::shard::Settings;

use crate::clock::Clock;
use crate::config::{QUEUE_SHARDS, Serve, Store};
use crate::forming::Forming;
use crate::identity::{Directory, Identity};
use crate::log::Log;
use crate::log::raft::{self, Groups, RaftLog};
use crate::log::redis::{self, Home, Server, Shards};
use crate::node::Error;
use crate::peer::{Peers, Service, Transport};
use crate::router::Router;
use crate::space::{self, Space};
use crate::state::State;
use crate::store::bodies;
use crate::store::snapshots::Snapshots;
use crate::store::wal::{self, MemoryDisk, Wal};

/// On a small disk, files are this part of it, so that some can always be made and some be removed.
const DISK_PARTS: u64 = 64;

/// Numbers for the processes of one node, each larger than any before.
#[async_trait]
pub trait Incarnations: Send + Sync {
    /// The next one, kept before this returns. The error is for people.
    async fn next(&self) -> Result<Incarnation, String>;
}

/// Where the logs are.
pub(crate) enum Engine {
    Embedded(Embedded),
    Redis(Remote),
}

pub(crate) struct Embedded {
    forming: Arc<Forming>,
    wal: Wal,
    snapshots: Snapshots,
    /// How full the disk is, and from when on it is too full, of a hundred.
    space: (Arc<Space>, PathBuf, u64),
    groups: Groups,
    /// Whether the log on disk already held something.
    formed: bool,
    logs: BTreeMap<ShardId, (Arc<RaftLog>, Vec<NodeId>)>,
}

pub(crate) struct Remote {
    node: NodeId,
    members: BTreeSet<u64>,
    queue_shards: Option<u32>,
    server: Arc<Server>,
    home: Arc<Home>,
    shards: Shards,
}

/// What people are told of the store.
#[derive(Clone)]
pub struct About {
    kind: &'static str,
    server: Option<Arc<Server>>,
}

impl About {
    /// In the data directories of the nodes.
    pub fn embedded() -> Self {
        Self { kind: "embedded", server: None }
    }

    /// `embedded` or `redis`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// In what respect the store promises less than Lockstep does; empty when all is well.
    pub fn warnings(&self) -> Vec<String> {
        self.server.as_ref().map(|server| server.warnings()).unwrap_or_default()
    }
}

impl Engine {
    /// Opens what `config` says. Contacts nobody yet.
    pub(crate) fn open(
        config: &Serve,
        disk: Option<(MemoryDisk, Snapshots)>,
        peers: &Arc<dyn Peers>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let ids: BTreeSet<u64> = config.members.keys().map(|node| node.0).collect();
        if let Store::Redis(address) = &config.store {
            let server = Server::new(address.clone())?;
            return Ok(Self::Redis(Remote {
                node: config.node,
                members: ids,
                queue_shards: config.queue_shards,
                home: Arc::new(Home::new(Arc::clone(&server), config.node)),
                shards: Shards::new(redis_settings(config), config.node, Arc::clone(&server), clock),
                server,
            }));
        }
        let directory = Directory::open(&config.data)?;
        let forming = Forming::new(directory, config.node, ids, config.queue_shards, QUEUE_SHARDS)?;
        let (wal, snapshots) = match disk {
            Some((disk, snapshots)) => (Wal::memory(&disk), snapshots),
            None => open_store(config, forming.identity().borrow().is_some())?,
        };
        let formed = wal.has_recovered(ShardId::COORDINATION);
        if formed {
            forming.set_formed();
        }
        let space = Space::new();
        let groups = Groups::new(
            raft_settings(config),
            config.node,
            wal.clone(),
            snapshots.clone(),
            Arc::clone(&space),
            Arc::clone(peers),
            clock,
        );
        let space = (space, config.data.clone(), config.limits.storage_percent);
        let logs = BTreeMap::new();
        Ok(Self::Embedded(Embedded { forming, wal, snapshots, space, groups, formed, logs }))
    }

    /// Answers peers about forming and replication, where those are theirs to ask about.
    pub(crate) fn serve_on(&self, transport: &Transport) {
        if let Self::Embedded(Embedded { forming, groups, .. }) = self {
            transport.serve(Service::Forming, forming.clone());
            transport.serve(Service::Raft, groups.handler());
            if let Some(identity) = &*forming.identity().borrow() {
                transport.set_cluster(&identity.cluster_id);
            }
        }
    }

    /// Becomes a member: of the cluster that is there, or of one that forms now.
    pub(crate) async fn join(&self, peers: &dyn Peers) -> Result<Identity, Error> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.forming.join(peers).await?),
            Self::Redis(remote) => {
                let cluster = remote.home.join(&remote.members, remote.queue_shards, QUEUE_SHARDS).await?;
                let node = remote.node.0;
                Ok(Identity::new(node, cluster.cluster_id, cluster.queue_shards, cluster.members))
            }
        }
    }

    /// Where this node's incarnations are counted.
    pub(crate) fn incarnations(&self) -> Arc<dyn Incarnations> {
        match self {
            Self::Embedded(embedded) => embedded.forming.clone(),
            Self::Redis(remote) => remote.home.clone(),
        }
    }

    /// An empty state of a shard, which keeps bodies where this store does.
    pub(crate) fn state(&self, shard: ShardId, wanted: Settings) -> Result<Arc<State>, Error> {
        match self {
            Self::Embedded(embedded) => {
                let bodies = embedded.snapshots.bodies(shard).map_err(Error::Snapshots)?;
                Ok(State::with_bodies(shard, wanted, bodies))
            }
            Self::Redis(remote) => Ok(State::with_bodies(shard, wanted, remote.shards.bodies(shard))),
        }
    }

    /// Starts this node's replica of a shard, which feeds `state`; `nodes` hold replicas.
    pub(crate) async fn start_shard(
        &mut self,
        shard: ShardId,
        nodes: &[NodeId],
        state: Arc<State>,
    ) -> Result<Arc<dyn Log>, Error> {
        match self {
            Self::Embedded(embedded) => {
                let log = embedded.groups.start(shard, state).await?;
                embedded.logs.insert(shard, (Arc::clone(&log), nodes.to_vec()));
                Ok(log)
            }
            Self::Redis(remote) => Ok(remote.shards.start(shard, state)),
        }
    }

    /// Once every replica has started: makes sure that all agreed, and begins logs that hold nothing.
    /// In Redis the first to write begins them.
    pub(crate) async fn begin(
        &mut self,
        peers: &dyn Peers,
        identity: &Identity,
        router: &Arc<Router>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Result<(), Error> {
        let Self::Embedded(embedded) = self else { return Ok(()) };
        if embedded.forming.is_lowest() && !embedded.formed {
            embedded.forming.agree(peers, identity).await?;
        }
        if !embedded.wal.is_memory() {
            let (space, data, percent_max) = embedded.space.clone();
            tasks.spawn(space.watch(data, percent_max));
        }
        tasks.spawn(know_formed(Arc::clone(router), Arc::clone(&embedded.forming)));
        let logs = std::mem::take(&mut embedded.logs);
        let forms = form(logs, router.node(), until_formed(Arc::clone(router)));
        tasks.spawn(async move {
            if let Err(error) = forms.await {
                tracing::error!(%error, "cannot form the cluster");
            }
        });
        Ok(())
    }

    /// How often the log on disk has been synced.
    pub(crate) fn syncs(&self) -> Option<Wal> {
        match self {
            Self::Embedded(embedded) => Some(embedded.wal.clone()),
            Self::Redis(_) => None,
        }
    }

    /// For people.
    pub(crate) fn about(&self) -> About {
        match self {
            Self::Embedded(_) => About::embedded(),
            Self::Redis(remote) => About { kind: "redis", server: Some(Arc::clone(&remote.server)) },
        }
    }

    /// Stops every log.
    pub(crate) async fn shutdown(&self) {
        match self {
            Self::Embedded(embedded) => embedded.groups.shutdown().await,
            Self::Redis(remote) => remote.shards.shutdown().await,
        }
    }
}

#[async_trait]
impl Incarnations for Forming {
    async fn next(&self) -> Result<Incarnation, String> {
        self.next_incarnation().map(Incarnation).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Incarnations for Home {
    async fn next(&self) -> Result<Incarnation, String> {
        self.next_incarnation().await.map(Incarnation).map_err(|error| error.to_string())
    }
}

/// A member that finds no log has lost what it promised: it must not begin another.
fn open_store(config: &Serve, member: bool) -> Result<(Wal, Snapshots), Error> {
    let directory = config.data.join("wal");
    if member {
        Wal::must_exist(&directory)?;
    }
    let part = part_of_disk(&config.data);
    let wal = wal::Settings::default();
    let wal =
        wal::Settings { segment_bytes: wal.segment_bytes.min(part), bytes_max: wal.bytes_max.min(8 * part) };
    let wal = Wal::open(&directory, wal)?;
    let bodies = bodies::Settings {
        segment_bytes: bodies::Settings::default().segment_bytes.min(part),
        cache_bytes: config.limits.body_cache_bytes,
    };
    let snapshots = Snapshots::open(&config.data, bodies).map_err(Error::Snapshots)?;
    Ok((wal, snapshots))
}

/// The largest file that the disk below `data` should hold.
fn part_of_disk(data: &Path) -> u64 {
    let total = space::usage(data).map_or(u64::MAX, |usage| usage.total);
    (total / DISK_PARTS).max(1 << 20)
}

/// Begins every group that holds nothing yet: one member of each does, and doing it twice is harmless.
/// The coordination shard goes first, on the lowest member, which knows that all have agreed; once it
/// has committed anything, so do the others.
async fn form(
    logs: BTreeMap<ShardId, (Arc<RaftLog>, Vec<NodeId>)>,
    node: NodeId,
    formed: impl Future<Output = ()>,
) -> Result<(), raft::Error> {
    let mine =
        logs.iter().filter(|(_, (log, voters))| voters.iter().min() == Some(&node) && !log.was_formed());
    let mut formed = Some(formed);
    for (shard, (log, voters)) in mine {
        if *shard != ShardId::COORDINATION
            && let Some(formed) = formed.take()
        {
            formed.await;
        }
        log.initialize(&voters.iter().copied().collect()).await?;
    }
    Ok(())
}

/// From then on this node remembers all members, and tells one that comes back with nothing that it
/// may not.
async fn know_formed(router: Arc<Router>, forming: Arc<Forming>) {
    until_formed(router).await;
    forming.set_formed();
}

/// The first committed entry proves that every member has agreed.
async fn until_formed(router: Arc<Router>) {
    let Some(replica) = router.replica(ShardId::COORDINATION) else { return };
    if replica.watch().wait_for(|status| status.applied.0 > 0).await.is_err() {
        std::future::pending().await
    }
}

fn raft_settings(config: &Serve) -> raft::Settings {
    raft::Settings {
        heartbeat: config.timing.heartbeat,
        election_min: config.timing.election_min,
        election_max: config.timing.election_max,
        snapshot_bytes: config.limits.snapshot_bytes.min(4 * part_of_disk(&config.data)),
        ..raft::Settings::default()
    }
}

fn redis_settings(config: &Serve) -> redis::Settings {
    redis::Settings {
        heartbeat: config.timing.heartbeat,
        election_min: config.timing.election_min,
        election_max: config.timing.election_max,
        snapshot_bytes: config.limits.snapshot_bytes,
        memory_percent: config.limits.storage_percent,
        ..redis::Settings::default()
    }
}
