//! Three replicas in one process over a real Redis, which tests damage in every way they can.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::command::{NewMessage, QueueOp};
use lockstep_core::dedup::delivered;
use lockstep_core::names::{QueueName, Receipt};
use lockstep_core::{Epoch, Millis, Op, Shard};

use super::testing::RedisServer;
use super::*;
use crate::log::conformance::{self, Cluster as _, acquire, all, command, leader, settings, token, until};

struct Node {
    shards: Shards,
    log: Arc<RedisLog>,
    state: Arc<State>,
}

struct Cluster<'a> {
    redis: &'a RedisServer,
    shard: ShardId,
    name: String,
    settings: Settings,
    nodes: BTreeMap<NodeId, Node>,
}

fn fast() -> Settings {
    Settings {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(1_200),
        ..Settings::default()
    }
}

impl<'a> Cluster<'a> {
    /// Under a name of its own.
    fn new(redis: &'a RedisServer, shard: u32, settings: Settings) -> Self {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("test{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let mut cluster = Self { redis, shard: ShardId(shard), name, settings, nodes: BTreeMap::new() };
        all().into_iter().for_each(|node| cluster.start(node));
        cluster
    }

    fn start(&mut self, node: NodeId) {
        let address = Address::parse(&format!("{}?name={}", self.redis.url(), self.name)).unwrap();
        let shards = Shards::new(self.settings.clone(), node, Server::new(address).unwrap(), Clock::boot());
        let state = State::with_bodies(self.shard, settings(), shards.bodies(self.shard));
        let log = shards.start(self.shard, Arc::clone(&state));
        self.nodes.insert(node, Node { shards, log, state });
    }

    async fn stop(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.remove(&node) {
            node.shards.shutdown().await;
        }
    }

    fn key(&self) -> String {
        format!("{{lockstep:{}:{}}}:log", self.name, self.shard)
    }

    async fn caught_up(&self, node: NodeId, with: NodeId) {
        let applied = |node: NodeId| self.nodes[&node].state.read(Shard::applied);
        until(|| applied(node) >= applied(with)).await;
    }

    /// What `node` says of its failure, once it has failed.
    async fn failure(&self, node: NodeId) -> String {
        let status = self.nodes[&node].log.status();
        until(|| status.borrow().failed.is_some()).await;
        status.borrow().failed.clone().unwrap()
    }

    /// Everything that a node knows, bodies included.
    async fn image(&self, node: NodeId) -> Bytes {
        let state = Arc::clone(&self.nodes[&node].state);
        // Bodies come over the network, by the doing of this thread.
        tokio::task::spawn_blocking(move || state.snapshot().unwrap().1).await.unwrap()
    }

    /// Writes in the name of the reign `by`.
    fn writer(&self, by: Epoch) -> write::Writer {
        let address = Address::parse(&format!("{}?name={}", self.redis.url(), self.name)).unwrap();
        let keys = keys::Keys::new(&address.prefix(), self.shard);
        let link = link::Link::new(&Server::new(address).unwrap(), keys.log(), Duration::from_secs(5));
        write::Writer { link, keys, by, chunks: Arc::new(AtomicU64::new(1_000_000)) }
    }

    /// Through whoever leads: with time-outs this short it may be another after a busy moment.
    async fn propose(&self, command: Command) -> (Applied, Arc<State>) {
        loop {
            let Node { log, state, .. } = &self.nodes[&leader(self, None).await];
            match log.propose(command.clone()).await {
                Err(ProposeError::NotLeader { .. }) => {}
                applied => return (applied.unwrap(), Arc::clone(state)),
            }
        }
    }

    /// Takes everything: messages 1 to `count`, in order, whole.
    async fn drain(&self, count: u64, bytes: usize) {
        let (mut due, mut seq) = (1, count);
        while due <= count {
            let (queue, visibility) = (QueueName("q".into()), Some(Millis(600_000)));
            seq += 2;
            let receive = Op::Queue(QueueOp::Receive { queue, max: 50, visibility, session: None });
            let (applied, state) = self.propose(command(seq - 1, receive)).await;
            let messages = delivered(&applied.reply).to_vec();
            assert!(!messages.is_empty(), "nothing follows {due} of {count}");
            let mut receipts = Vec::new();
            for message in messages {
                let (state, id) = (Arc::clone(&state), message.id);
                let body = tokio::task::spawn_blocking(move || state.body(id).unwrap()).await.unwrap();
                assert!(body.is_some_and(|body| body == body_of(due, bytes)), "message {due} is another");
                receipts.push(Receipt { message: id, delivery: message.delivery });
                due += 1;
            }
            self.propose(command(seq, Op::Queue(QueueOp::Ack { receipts }))).await;
        }
    }

    async fn push(&self, leader: NodeId, seq: u64, bytes: usize) {
        self.nodes[&leader].log.propose(push(seq, bytes)).await.unwrap();
    }
}

fn body_of(seq: u64, bytes: usize) -> Bytes {
    let mut body = vec![u8::try_from(seq % 251).unwrap(); bytes];
    body[..8].copy_from_slice(&seq.to_le_bytes());
    body.into()
}

fn push(seq: u64, bytes: usize) -> Command {
    let body = body_of(seq, bytes);
    let message = NewMessage { body, ..NewMessage::default() };
    command(seq, Op::Queue(QueueOp::Push { queue: QueueName("q".into()), messages: vec![message] }))
}

#[async_trait]
impl conformance::Cluster for Cluster<'_> {
    fn log(&self, node: NodeId) -> Arc<dyn Log> {
        self.nodes[&node].log.clone()
    }

    fn state(&self, node: NodeId) -> Arc<State> {
        Arc::clone(&self.nodes[&node].state)
    }

    /// Another member takes over while the leader still believes that it leads.
    async fn depose(&mut self, leader: NodeId) {
        let other = all().into_iter().find(|node| *node != leader).unwrap();
        let log = &self.nodes[&other].log;
        while !log.status().borrow().leading {
            log.orders.send(driver::Order::Stand).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self) {
        for node in all() {
            self.stop(node).await;
        }
        for node in all() {
            self.start(node);
        }
    }
}

#[tokio::test]
async fn the_redis_driver_conforms() {
    let redis = RedisServer::start();
    conformance::everything(|| async { Cluster::new(&redis, 0, fast()) }).await;
}

#[tokio::test]
async fn proposals_that_wait_share_entries() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    let log = cluster.log(leader);
    let proposals = (1..=500).map(|n| log.propose(acquire(n, &format!("lock {n}"), 60_000)));
    let replies = futures::future::join_all(proposals).await;
    let entries: BTreeSet<_> = replies.iter().map(|reply| reply.as_ref().unwrap().index).collect();
    assert!(entries.len() < 20, "500 commands took {} entries", entries.len());
}

#[tokio::test]
async fn a_deposed_leaders_append_is_refused_and_its_reads_too() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, Settings { heartbeat: Duration::from_millis(500), ..fast() });
    let old = leader(&cluster, None).await;
    let log = cluster.log(old);
    let before = log.propose(acquire(1, "a", 600_000)).await.unwrap();
    cluster.depose(old).await;
    // It cannot know yet: nobody has told it, and its next heartbeat is half a second away.
    let believes = log.status().borrow().leading;
    let (proposed, read) = tokio::join!(log.propose(acquire(2, "b", 600_000)), log.barrier());
    assert!(believes, "it had noticed already: the test proves nothing");
    assert_eq!(proposed, Err(ProposeError::NotLeader { hint: None }));
    assert_eq!(read, Err(BarrierError::NotLeader { hint: None }));
    let new = leader(&cluster, Some(old)).await;
    let after = cluster.log(new).propose(acquire(3, "b", 600_000)).await.unwrap();
    assert!(token(&after.reply) > token(&before.reply) + (1 << 19));
    cluster.caught_up(old, new).await;
    let image = |node: NodeId| cluster.nodes[&node].state.read(Shard::snapshot);
    until(|| image(old) == image(new)).await;
}

#[tokio::test]
async fn leadership_is_handed_over_at_once() {
    let redis = RedisServer::start();
    let slow = Duration::from_secs(30);
    let cluster = Cluster::new(&redis, 0, Settings { election_min: slow, election_max: slow * 2, ..fast() });
    let old = leader(&cluster, None).await;
    let other = all().into_iter().find(|node| *node != old).unwrap();
    let begun = tokio::time::Instant::now();
    cluster.log(old).hand_over(other).await;
    assert_eq!(leader(&cluster, Some(old)).await, other);
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for an election time-out");
}

#[tokio::test]
async fn the_stream_is_trimmed_and_newcomers_begin_with_the_snapshot() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 200_000, ..fast() });
    let leader = leader(&cluster, None).await;
    let away = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.stop(away).await;
    let mut chunks = BTreeSet::new();
    for seq in 1..=3_000 {
        cluster.push(leader, seq, 1_000).await;
        if seq % 500 == 0 {
            chunks.extend(redis.cli(&["KEYS", "*chunk*"]).lines().map(str::to_owned));
        }
    }
    let length = || redis.cli(&["XLEN", &cluster.key()]).parse::<u64>().unwrap();
    until(|| length() < 1_000).await;
    cluster.start(away);
    cluster.caught_up(away, leader).await;
    // Heartbeats go on: between them both stand at one index. States that differ never have one image.
    tokio::time::timeout(Duration::from_secs(20), async {
        while cluster.image(away).await != cluster.image(leader).await {}
    })
    .await
    .expect("a newcomer has the same state, and the same bodies");
    // Two sets of pieces are kept, the others are gone.
    let kept: BTreeSet<String> = redis.cli(&["KEYS", "*chunk*"]).lines().map(str::to_owned).collect();
    let sets: BTreeSet<&str> = kept.iter().filter_map(|key| key.rsplit(':').nth(1)).collect();
    assert!(
        sets.len() <= 3 && chunks.iter().any(|chunk| !kept.contains(chunk)),
        "{sets:?} of {}",
        chunks.len()
    );
}

#[tokio::test]
async fn a_snapshot_writes_only_the_bodies_that_are_new_and_dead_ones_go() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 300_000, ..fast() });
    let leader = leader(&cluster, None).await;
    let chunks = || -> BTreeSet<String> {
        let keys = redis.cli(&["KEYS", "*:bodies:*"]);
        keys.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
    };
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    let index = || redis.cli(&["HGET", &pointer, "index"]).parse::<u64>().unwrap_or(0);
    let mut seq = 0;
    // Goes on until a snapshot has been taken, and tells which chunks there are then.
    let mut grow = async |cluster: &Cluster<'_>| {
        let before = index();
        while index() == before {
            seq += 1;
            cluster.push(leader, seq, 5_000).await;
        }
        chunks()
    };
    grow(&cluster).await;
    let first = grow(&cluster).await;
    let second = grow(&cluster).await;
    assert!(second.is_superset(&first) && second.len() > first.len(), "{first:?} {second:?}");
    assert!(second.len() <= first.len() + 2, "it has copied more than what is new: {first:?} {second:?}");
    assert!(seq > 90, "three snapshots came too early to show anything: {seq} messages");
    let in_memory = |node: NodeId| cluster.nodes[&node].state.bodies_in_memory();
    until(|| all().into_iter().all(|node| in_memory(node) < 350_000)).await;

    // Another node that never saw the pushes delivers everything, in order.
    for node in all().into_iter().filter(|node| *node != leader) {
        cluster.stop(node).await;
        cluster.start(node);
    }
    let other = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.caught_up(other, leader).await;
    cluster.depose(leader).await;
    let leader = conformance::leader(&cluster, Some(leader)).await;
    cluster.drain(seq, 5_000).await;

    // Nobody needs any of them now: the next snapshots take them away.
    for extra in 0..600 {
        cluster.push(leader, 1_000_000 + extra, 5_000).await;
        if extra % 20 == 0 && chunks().is_disjoint(&second) {
            return;
        }
    }
    panic!("chunks of dead bodies are still there: {:?}", chunks().intersection(&second));
}

#[tokio::test]
async fn a_deposed_leader_neither_writes_nor_deletes_chunks() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let old = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(old, seq, 5_000).await;
    }
    let at = {
        let log = cluster.log(old);
        let epoch = log.status().borrow().epoch;
        entry::Position { epoch, seq: 1, index: log.status().borrow().applied }
    };
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    until(|| redis.cli(&["HGET", &pointer, "index"]).parse::<u64>().is_ok_and(|index| index > 20)).await;
    let frozen = cluster.nodes[&old].state.freeze();
    cluster.depose(old).await;
    let keys = || redis.cli(&["KEYS", "*:1}*"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let new = leader(&cluster, Some(old)).await;
    until(|| cluster.nodes[&new].log.status().borrow().leading).await;
    let before = keys();
    let mut writer = cluster.writer(at.epoch);
    let everything = BTreeSet::new();
    writer.forget_others(&[], &everything).await.unwrap();
    assert!(keys().is_superset(&before), "it has deleted what the living leader needs");
    let written = cluster.writer(at.epoch).write(at, frozen, true).await.unwrap();
    assert!(matches!(written, write::Written::Superseded));
    let foreign = format!("bodies:{}-", at.epoch);
    let added: Vec<_> = keys().difference(&before).filter(|key| key.contains(&foreign)).cloned().collect();
    assert_eq!(added, Vec::<String>::new(), "it has written chunks");
    cluster.drain(60, 5_000).await;
}

/// A snapshot that counts need not be the one that the leader refers to: its writer may never have heard
/// so, or somebody has removed the pointer.
#[tokio::test]
async fn making_room_never_takes_chunks_that_the_state_refers_to() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let leader = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(leader, seq, 5_000).await;
    }
    let Node { log, state, .. } = &cluster.nodes[&leader];
    until(|| state.bodies_in_memory() < 150_000).await;
    let (epoch, index) = (log.status().borrow().epoch, log.status().borrow().applied);
    let at = entry::Position { epoch, seq: 1, index };
    redis.cli(&["DEL", &format!("{{lockstep:{}:1}}:snapshot", cluster.name)]);
    let written = cluster.writer(epoch).write(at, state.freeze(), true).await.unwrap();
    assert!(matches!(written, write::Written::Done { .. }));
    cluster.drain(60, 5_000).await;
}

#[tokio::test]
async fn a_snapshot_of_a_deposed_leader_does_not_count() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, fast());
    let old = leader(&cluster, None).await;
    let at = {
        let log = cluster.log(old);
        let applied = log.propose(acquire(1, "a", 600_000)).await.unwrap();
        let epoch = log.status().borrow().epoch;
        entry::Position { epoch, seq: 1, index: applied.index }
    };
    cluster.depose(old).await;
    until(|| !redis.cli(&["KEYS", "*:snapshot"]).is_empty()).await;
    let pointer = format!("{{lockstep:{}:0}}:snapshot", cluster.name);
    let look = || (redis.cli(&["KEYS", "*chunk*"]), redis.cli(&["HGETALL", &pointer]));
    let before = look();
    let frozen = cluster.nodes[&old].state.freeze();
    let bodies = frozen.into_parts().1.manifest();
    let written = cluster.writer(at.epoch).point(at, "stale".into(), bodies).await.unwrap();
    assert!(matches!(written, write::Written::Superseded));
    assert_eq!(look(), before, "it has written pieces, or moved the pointer");
}

/// Breaks the stream of a healthy cluster; what every node then says.
async fn broken_by(damage: impl Fn(&RedisServer, &str)) -> String {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    for n in 1..=20 {
        cluster.log(leader).propose(acquire(n, &format!("{n}"), 600_000)).await.unwrap();
    }
    for node in all() {
        cluster.caught_up(node, leader).await;
    }
    damage(&redis, &cluster.key());
    let mut said = Vec::new();
    for node in all() {
        said.push(cluster.failure(node).await);
    }
    let refused = cluster.log(leader).propose(acquire(99, "x", 1_000)).await;
    assert_eq!(refused, Err(ProposeError::Stopped));
    said.swap_remove(0)
}

#[tokio::test]
async fn a_foreign_entry_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["XADD", key, "*", "field", "value"]);
    });
    let said = said.await;
    assert!(said.contains("was not written by Lockstep") && said.contains("XDEL"), "{said}");
}

#[tokio::test]
async fn a_deleted_key_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["DEL", key]);
    });
    let said = said.await;
    assert!(said.contains("has lost acknowledged entries"), "{said}");
}

#[tokio::test]
async fn an_emptied_stream_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["XTRIM", key, "MAXLEN", "0"]);
    });
    let said = said.await;
    assert!(said.contains("has lost acknowledged entries"), "{said}");
}

#[tokio::test]
async fn a_lost_tail_stops_every_node() {
    let said = broken_by(|redis, key| {
        let last = |text: String| text.lines().next().unwrap_or_default().to_owned();
        // Takes the last entries out, as a fail-over to a replica that lags does.
        for _ in 0..3 {
            let id = last(redis.cli(&["XREVRANGE", key, "+", "-", "COUNT", "1"]));
            redis.cli(&["XDEL", key, &id]);
        }
    });
    let said = said.await;
    assert!(said.contains("has lost acknowledged entries") && said.contains("stores.md"), "{said}");
}

/// A node that starts on a damaged stream; what it says.
async fn refused_after(damage: impl Fn(&RedisServer, &str)) -> String {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    for n in 1..=20 {
        cluster.log(leader).propose(acquire(n, &format!("{n}"), 600_000)).await.unwrap();
    }
    for node in all() {
        cluster.stop(node).await;
    }
    damage(&redis, &cluster.key());
    cluster.start(NodeId(1));
    cluster.failure(NodeId(1)).await
}

#[tokio::test]
async fn a_gap_and_a_trimmed_beginning_stop_a_node_that_reads_them() {
    let gap = refused_after(|redis, key| {
        let ids = redis.cli(&["XRANGE", key, "-", "+", "COUNT", "7"]);
        let id =
            ids.lines().filter(|line| line.contains('-') && !line.contains(':')).nth(5).unwrap().to_owned();
        redis.cli(&["XDEL", key, id.trim()]);
    });
    let gap = gap.await;
    assert!(gap.contains("trimmed or deleted entries") && gap.contains("import"), "{gap}");
    let trimmed = refused_after(|redis, key| {
        redis.cli(&["XTRIM", key, "MAXLEN", "3"]);
    });
    let trimmed = trimmed.await;
    assert!(trimmed.contains("trimmed or deleted entries"), "{trimmed}");
    let gone = refused_after(|redis, key| {
        redis.cli(&["DEL", key]);
    });
    let gone = gone.await;
    assert!(gone.contains("somebody deleted"), "{gone}");
}

#[tokio::test]
async fn a_redis_that_is_away_refuses_quickly_and_everything_goes_on_when_it_is_back() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let first = leader(&cluster, None).await;
    let kept = cluster.log(first).propose(acquire(1, "kept", 600_000)).await.unwrap();
    redis.kill();
    let away = |node: NodeId| cluster.nodes[&node].log.status().borrow().away.is_some();
    until(|| all().into_iter().all(away)).await;
    let begun = tokio::time::Instant::now();
    for node in all() {
        assert_eq!(cluster.log(node).propose(acquire(2, "x", 1_000)).await, Err(ProposeError::Away));
        assert_eq!(cluster.log(node).barrier().await, Err(BarrierError::Away));
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "refusing took {:?}", begun.elapsed());
    redis.run();
    until(|| !all().into_iter().any(away)).await;
    let leader = leader(&cluster, None).await;
    let again = cluster.log(leader).propose(acquire(3, "kept", 600_000)).await.unwrap();
    assert_eq!(token(&again.reply), token(&kept.reply), "what was acknowledged is still there");
}

#[tokio::test]
async fn one_redis_holds_several_clusters_and_each_finds_its_own() {
    let redis = RedisServer::start();
    let home = |name: &str, node: u64| {
        let address = Address::parse(&format!("{}?name={name}", redis.url())).unwrap();
        Home::new(Server::new(address).unwrap(), NodeId(node))
    };
    let three = BTreeSet::from([1, 2, 3]);
    let a = home("a", 1).join(&three, None, 3).await.unwrap();
    assert_eq!(home("a", 2).join(&three, None, 5).await.unwrap(), a, "the first one decides");
    assert_ne!(home("b", 1).join(&three, None, 3).await.unwrap().cluster_id, a.cluster_id);
    let other = home("a", 1).join(&BTreeSet::from([1, 2]), None, 3).await.unwrap_err().to_string();
    assert!(other.contains("{1, 2, 3}") && other.contains("name=NAME"), "{other}");
    let shards = home("a", 1).join(&three, Some(8), 3).await.unwrap_err().to_string();
    assert!(shards.contains("queue shards 3") && shards.contains('8'), "{shards}");
    let first = home("a", 1).next_incarnation().await.unwrap();
    assert!(home("a", 1).next_incarnation().await.unwrap() > first);

    redis.cli(&["SET", "lockstep:c:cluster", "something else"]);
    redis.cli(&["LPUSH", "lockstep:d:cluster", "something else"]);
    for name in ["c", "d"] {
        let foreign = home(name, 1).join(&three, None, 3).await.unwrap_err().to_string();
        assert!(
            foreign.contains("not written by this version") && foreign.contains("name=NAME"),
            "{foreign}"
        );
    }
    assert_eq!(redis.cli(&["GET", "lockstep:c:cluster"]), "something else", "nothing was overwritten");
}
