//! Three replicas in one process over a real Redis, which tests damage in every way they can.

mod away;
mod damage;
mod homes;
mod lost;
mod memory;
mod moving;
mod places;
mod proxy;
mod reigns;
mod snapshots;

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

/// For tests that hold everything up now and then: nobody else stands meanwhile.
fn calm() -> Settings {
    Settings { election_min: Duration::from_secs(10), election_max: Duration::from_secs(20), ..fast() }
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
        self.start_at(node, &self.redis.url());
    }

    /// Starts a node that knows another way to Redis.
    fn start_at(&mut self, node: NodeId, url: &str) {
        let shards = Shards::new(self.settings.clone(), node, self.server(url), Clock::boot());
        let state = State::with_bodies(self.shard, settings(), shards.bodies(self.shard));
        let log = shards.start(self.shard, Arc::clone(&state));
        self.nodes.insert(node, Node { shards, log, state });
    }

    fn server(&self, url: &str) -> Arc<Server> {
        Server::new(Address::parse(&format!("{url}?name={}", self.name)).unwrap()).unwrap()
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
        self.writer_at(by, &self.redis.url())
    }

    fn writer_at(&self, by: Epoch, url: &str) -> write::Writer {
        // No number is ever used twice.
        static CHUNKS: AtomicU64 = AtomicU64::new(1_000_000);
        let server = self.server(url);
        let keys = keys::Keys::new(&server.address().prefix(), self.shard);
        let link = link::Link::new(&server, keys.log(), Duration::from_secs(5));
        let chunks = AtomicU64::new(CHUNKS.fetch_add(1_000, Ordering::Relaxed));
        write::Writer { link, keys, by, chunks: Arc::new(chunks) }
    }

    /// Somebody who only looks, and has read to the end.
    async fn reader(&self) -> driver::Driver {
        let server = self.server(&self.redis.url());
        let shards = Shards::new(self.settings.clone(), NodeId(9), Arc::clone(&server), Clock::boot());
        let state = State::with_bodies(self.shard, settings(), shards.bodies(self.shard));
        let mut reader = driver::Driver::idle(&server, NodeId(9), self.shard, state);
        reader.catch_up().await.unwrap();
        reader
    }

    /// Where `node` stands, as if it wrote a snapshot there.
    fn place(&self, node: NodeId) -> entry::Position {
        let status = self.nodes[&node].log.status();
        let status = status.borrow();
        entry::Position { epoch: status.epoch, seq: 1, index: status.applied }
    }

    /// All of the shard's keys.
    fn keys(&self) -> BTreeSet<String> {
        let keys = self.redis.cli(&["KEYS", &format!("{{lockstep:{}:{}}}:*", self.name, self.shard)]);
        keys.lines().map(str::to_owned).collect()
    }

    /// Its chunks of bodies, in the order in which they were written.
    fn chunks(&self) -> Vec<String> {
        let number = |key: &String| key.rsplit('-').next()?.parse::<u64>().ok();
        let mut chunks: Vec<String> =
            self.keys().into_iter().filter(|key| key.contains(":bodies:")).collect();
        chunks.sort_by_key(number);
        chunks
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
