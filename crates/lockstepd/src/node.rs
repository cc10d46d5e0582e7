//! One node: the file that wires everything.
//!
//! Nothing here decides anything; it only says who knows whom, and in which order they start and stop.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::Millis;
use lockstep_core::cache::near;
use lockstep_core::names::{NodeId, Origin, ShardId};
use lockstep_core::{ring, shard};
use tokio::task::JoinSet;

use crate::cache::{self, Cache};
use crate::clock::Clock;
use crate::config::Serve;
use crate::engine::Engine;
use crate::forming;
use crate::http;
use crate::identity::{self, Identity};
use crate::log::{raft, redis};
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::peer::{self, Net, Peers, Service, TcpNet, Transport};
use crate::replica::Replica;
use crate::router::{Placement, Router};
use crate::store::snapshots::Snapshots;
use crate::store::wal::{self, MemoryDisk, Wal};

/// Copies of each queue shard; the coordination shard is on every member.
const REPLICAS: usize = 3;
/// How often a leader looks whether another member should lead instead.
const BALANCE_EVERY: Duration = Duration::from_secs(1);
/// How long a stopping node waits for others to take its shards over.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Why a node stopped, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Forming the cluster.
    #[error(transparent)]
    Forming(#[from] forming::Error),
    /// The log on disk.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// Replication.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// Redis as the store.
    #[error(transparent)]
    Redis(#[from] redis::Refusal),
    /// This process cannot be told from former ones.
    #[error("cannot count this start of the node: {0}")]
    Incarnation(String),
    /// The snapshots on disk.
    #[error("cannot use the snapshots in the data directory: {0}")]
    Snapshots(std::io::Error),
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
    /// No peer will talk to this node.
    #[error("every other member refuses this node: {why}. Check --members and --data")]
    Refused {
        /// The words of one of them.
        why: String,
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

impl Error {
    /// Whether starting again as told cannot help.
    pub fn is_mistake(&self) -> bool {
        matches!(self, Self::Redis(redis::Refusal::Mistake(_)))
    }
}

/// What a node stands on. Simulations bring their own.
pub struct Ground {
    /// How peers are reached.
    pub net: Arc<dyn Net>,
    /// What time it is.
    pub clock: Clock,
    /// Where the log and the snapshots are kept; `None`: in the data directory.
    pub disk: Option<(MemoryDisk, Snapshots)>,
    /// How patient the transport is.
    pub peer: peer::Settings,
}

impl Ground {
    /// TCP, the machine's clock, the data directory.
    pub fn real() -> Self {
        Self { net: Arc::new(TcpNet), clock: Clock::boot(), disk: None, peer: peer::Settings::default() }
    }
}

/// A running node, as far as other nodes see it. HTTP comes on top.
pub struct Node {
    /// Locks, queues, and what is known of the cluster.
    pub router: Arc<Router>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The connections to the peers.
    pub transport: Arc<Transport>,
    membership: Arc<Membership>,
    engine: Engine,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node: returns once it takes part in its cluster, which the first time needs all
    /// members.
    pub async fn start(config: &Serve, ground: Ground) -> Result<Self, Error> {
        let Ground { net, clock, disk, peer } = ground;
        let transport = Transport::new(config.node, config.members.clone(), net, peer);
        let peers: Arc<dyn Peers> = transport.clone();
        let mut engine = Engine::open(config, disk, &peers, clock.clone())?;
        let cache_limits = cache::Limits {
            home_bytes: config.limits.cache_home_bytes,
            copy_bytes: config.limits.cache_copy_bytes,
            near: near::Limits {
                clients_max: config.limits.near_clients,
                keys_max: config.limits.near_keys,
                keys_max_total: config.limits.near_keys.saturating_mul(10),
            },
            waiting_max: config.limits.cache_waiting,
            watchers_max: config.limits.cache_watchers,
        };
        let cache = Cache::new(config.node, clock.clone(), Arc::clone(&peers), cache_limits);
        let late = Arc::new(LateRouter::default());
        engine.serve_on(&transport);
        transport.serve(Service::Cache, cache.clone());
        transport.serve(Service::Router, late.clone());
        let address = config.peer.to_string();
        transport.start(&address).await.map_err(|source| Error::Listen {
            address,
            flag: "--peer",
            source,
        })?;

        let identity = engine.join(&*peers).await?;
        transport.set_cluster(&identity.cluster_id);
        tracing::info!(node = config.node.0, cluster = identity.cluster_id, "member of a cluster");
        let incarnations = engine.incarnations();
        let incarnation = incarnations.next().await.map_err(Error::Incarnation)?;
        let origin = Origin { node: config.node, incarnation };
        let placement = place(config, &identity);
        let replicas = placement.replicas.clone();
        let router = Router::new(origin, placement, Arc::clone(&peers), clock.clone());
        for (shard, nodes) in replicas.iter().filter(|(_, nodes)| nodes.contains(&config.node)) {
            let state = engine.state(*shard, shard_settings(config, identity.queue_shards))?;
            let log = engine.start_shard(*shard, nodes, Arc::clone(&state)).await?;
            router.add(Arc::new(Replica::new(state, log, clock.clone())));
        }
        late.set(Arc::clone(&router));
        let mut tasks = JoinSet::new();
        engine.begin(&*peers, &identity, &router, &mut tasks).await?;

        let membership = Membership::new(
            Arc::clone(&router),
            Arc::clone(&cache),
            incarnations,
            clock,
            config.advertise.clone(),
            config.timing.member_lease,
        );
        tasks.spawn(Arc::clone(&membership).follow());
        tasks.spawn(Arc::clone(&membership).keep());
        tasks.spawn(balance(Arc::clone(&router), replicas));
        for replica in router.replicas().into_iter().filter(|r| r.shard() != ShardId::COORDINATION) {
            tasks.spawn(Arc::clone(&replica).count());
            tasks.spawn(Arc::clone(&router).carry(replica));
        }
        if let Some(home) = router.replica(ShardId::COORDINATION) {
            for shard in (1..=identity.queue_shards).map(ShardId) {
                tasks.spawn(Arc::clone(&router).carry_ends(Arc::clone(&home), shard));
            }
        }
        tasks.spawn(Arc::clone(&router).copy_configs());
        Ok(Self { router, cache, transport, membership, engine, tasks })
    }

    /// Returns when a shard's log has failed for good, or every peer refuses this node: it is of no
    /// use any more.
    pub async fn failed(&self) -> Error {
        let mut watches = JoinSet::new();
        for replica in self.router.replicas() {
            watches.spawn(async move {
                let mut status = replica.watch();
                let failed = status.wait_for(|status| status.failed.is_some()).await;
                let why = failed.ok().and_then(|status| status.failed.clone()).unwrap_or_default();
                Error::Log { shard: replica.shard(), why }
            });
        }
        tokio::select! {
            Some(Ok(error)) = watches.join_next() => error,
            why = self.transport.refused_by_all() => Error::Refused { why },
        }
    }

    /// Refuses new work, hands every shard over that this node leads, and gives its lease back.
    pub async fn drain(&self) {
        self.router.drain();
        let handed = async {
            while self.router.hand_over_all().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(HAND_OVER, handed).await.is_err() {
            tracing::info!("nobody took this node's shards over; the others will elect a leader");
        }
        self.membership.leave().await;
    }

    /// Stops everything.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.engine.shutdown().await;
        self.transport.shutdown();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.transport.shutdown();
    }
}

/// Runs a node with its HTTP until `stop` completes, then lets go of everything in order.
pub async fn run(config: Serve, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let address = config.http.to_string();
    let listener = tokio::net::TcpListener::bind(config.http).await.map_err(|source| Error::Listen {
        address,
        flag: "--http",
        source,
    })?;
    let metrics = Arc::new(Metrics::default());
    let gate = http::Gate::new(config.node, Arc::clone(&metrics));
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let limits = http::server::Limits {
        connections_max: config.limits.connections,
        headers_max: config.limits.headers,
        head_bytes_max: 16 * 1024,
        header_time: config.limits.header_time,
        drain_time: config.limits.drain,
    };
    let app = http::app(Arc::clone(&gate));
    let hit = {
        let gate = Arc::clone(&gate);
        move |request: &axum::http::Request<hyper::body::Incoming>| http::hit(&gate, request)
    };
    let serving = tokio::spawn(http::server::serve(listener, hit, app, limits, async move {
        let _ = closed.await;
    }));

    tokio::pin!(stop);
    let node = tokio::select! {
        started = Node::start(&config, Ground::real()) => started?,
        () = &mut stop => return Ok(()),
    };
    gate.open(http::Api {
        router: Arc::clone(&node.router),
        cache: Arc::clone(&node.cache),
        store: node.engine.about(),
        limits: http::limits::Limits {
            requests_max: config.limits.requests,
            ..http::limits::Limits::around(config.limits.body_bytes)
        },
        metrics: Arc::clone(&metrics),
    });
    tracing::info!(node = config.node.0, url = config.advertise, "serving");
    let cache = Arc::clone(&node.cache);
    metrics.show("cache_write_stall_seconds", "How long writes waited at this home", move || cache.stalls());
    let measuring = tokio::spawn(measure(
        metrics,
        Arc::clone(&node.router),
        Arc::clone(&node.cache),
        node.engine.syncs(),
    ));
    let ended = tokio::select! {
        () = &mut stop => Ok(()),
        failed = node.failed() => Err(failed),
    };
    if ended.is_ok() {
        tracing::info!("stopping");
        node.drain().await;
        let _ = close.send(());
        let _ = serving.await;
    }
    measuring.abort();
    node.stop().await;
    ended
}

/// Keeps the gauges fresh.
async fn measure(metrics: Arc<Metrics>, router: Arc<Router>, cache: Arc<Cache>, wal: Option<Wal>) {
    loop {
        for shard in router.shards() {
            let of = shard.id.to_string();
            metrics.set("shard_epoch", &of, shard.epoch.0);
            metrics.set("shard_applied_index", &of, shard.applied);
            metrics.set("shard_leader", &of, shard.leader.map_or(0, |node| node.0));
        }
        metrics.set("ring_epoch", "", router.ring_epoch());
        let figures = cache.figures();
        for (name, value) in figures.plain {
            metrics.set("cache", name, value);
        }
        for (code, count) in router.guards_refused() {
            metrics.set("guards_refused", code, count);
        }
        if let Some(wal) = &wal {
            metrics.set("wal_syncs", "", wal.syncs());
        }
        tokio::time::sleep(BALANCE_EVERY).await;
    }
}

/// Answers forwarded requests as soon as there is a router; before that there is nobody to ask.
#[derive(Default)]
struct LateRouter(std::sync::OnceLock<Arc<Router>>);

impl LateRouter {
    fn set(&self, router: Arc<Router>) {
        let _ = self.0.set(router);
    }
}

#[async_trait::async_trait]
impl peer::Handler for LateRouter {
    async fn handle(&self, from: NodeId, payload: bytes::Bytes) -> Result<bytes::Bytes, peer::Error> {
        match self.0.get() {
            Some(router) => router.handle(from, payload).await,
            None => Err(peer::Error::Unreachable),
        }
    }
}

/// Moves leadership to where the ring wants it, so that load is spread.
async fn balance(router: Arc<Router>, replicas: BTreeMap<ShardId, Vec<NodeId>>) {
    loop {
        tokio::time::sleep(BALANCE_EVERY).await;
        let live: BTreeSet<NodeId> = router.live().1.iter().map(|member| member.node).collect();
        for replica in router.replicas().iter().filter(|replica| replica.shard() != ShardId::COORDINATION) {
            let preferred = replicas[&replica.shard()].iter().find(|node| live.contains(node));
            if let Some(preferred) = preferred.filter(|node| **node != router.node() && replica.leads()) {
                replica.log().hand_over(*preferred).await;
            }
        }
    }
}

fn place(config: &Serve, identity: &Identity) -> Placement {
    let replicas = replicas(identity.queue_shards, &identity.members);
    Placement { members: config.members.clone(), replicas }
}

/// Which nodes hold a replica of each shard, the preferred leader first.
pub fn replicas(queue_shards: u32, members: &BTreeSet<u64>) -> BTreeMap<ShardId, Vec<NodeId>> {
    let nodes: Vec<NodeId> = members.iter().map(|id| NodeId(*id)).collect();
    let queues: Vec<ShardId> = (1..=queue_shards).map(ShardId).collect();
    let mut replicas = ring::place(&queues, &nodes, REPLICAS);
    replicas.insert(ShardId::COORDINATION, nodes);
    replicas
}

fn shard_settings(config: &Serve, queue_shards: u32) -> shard::Settings {
    let ms = |time: Duration| Millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    shard::Settings {
        max_step: ms(config.timing.election_min),
        memo_max: config.limits.memo,
        waiters_max: config.limits.waiters,
        queue_shards,
        messages_max: config.limits.queue_messages,
        bytes_max: config.limits.queue_bytes,
    }
}
