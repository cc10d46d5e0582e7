//! What clients of one node do, drawn from the seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::cache::space::{self, join};
use lockstep_core::command::{Acquire, Claimant, LockOp, NamespaceOp, NewMessage};
use lockstep_core::names::{LockName, MessageKey, Owner, QueueName, Receipt, ShardId};
use lockstep_core::{Millis, Op, Shard};
use lockstepd::cache::{Change, DEFAULT, Key, Write, Written};
use lockstepd::node::Node;
use lockstepd::router::{Asked, Message, Receive};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::history::{History, What};

/// A write-back namespace.
const BACK: &str = "back";
const ASKED: Asked = Asked::plain(Duration::from_secs(3));

/// One node's clients; each boot of the node has others.
pub struct Clients {
    pub node: Arc<Node>,
    pub id: u64,
    pub boot: u64,
    pub history: History,
    /// Simulated time at which they stop.
    pub until: Duration,
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Clients {
    /// Runs them, side by side, until their time is over.
    pub async fn run(self, seed: u64) {
        let clients = Arc::new(self);
        let mut tasks = tokio::task::JoinSet::new();
        for nth in 0..3u64 {
            let rng = SmallRng::seed_from_u64(seed ^ clients.id << 16 ^ clients.boot << 32 ^ nth << 48);
            tasks.spawn(Arc::clone(&clients).client(nth, rng));
        }
        tasks.spawn(Arc::clone(&clients).sample());
        while tasks.join_next().await.is_some() {}
    }

    async fn client(self: Arc<Self>, nth: u64, mut rng: SmallRng) {
        let mut count = 0;
        if nth == 0 {
            self.configure().await;
        }
        while now() < self.until {
            count += 1;
            let name = format!("{}.{}.{nth}.{count}", self.id, self.boot);
            match rng.random_range(0..10u32) {
                0..2 => self.lock(&mut rng, name).await,
                2..5 => self.push(&mut rng, name).await,
                5..7 => self.consume().await,
                7 => self.write(&mut rng, name).await,
                8 if rng.random_bool(0.05) => self.flush().await,
                _ => self.read(&mut rng).await,
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..150))).await;
        }
    }

    async fn lock(&self, rng: &mut SmallRng, owner: String) {
        let lock = format!("lock{}", rng.random_range(0..3u32));
        let (name, holder) = (LockName(lock.as_str().into()), Owner(owner.as_str().into()));
        let wait = Millis(if rng.random_bool(0.5) { 2_000 } else { 0 });
        let begun = now();
        let want = Acquire { wait, ..Acquire::exclusive(name.clone(), holder.clone(), Millis(1_500)) };
        match self.node.router.acquire(want, &ASKED).await {
            Ok(grant) => {
                self.history.add(self.id, begun, What::Granted { lock, owner, token: grant.token.0 });
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
                let op = LockOp::Release {
                    names: vec![name],
                    by: Claimant { owner: holder, session: None, token: Some(grant.token) },
                };
                if let Err(error) = self.node.router.lock(op, &ASKED).await {
                    self.failed("release", begun, &error);
                }
            }
            Err(error) => self.failed("acquire", begun, &error),
        }
    }

    async fn push(&self, rng: &mut SmallRng, payload: String) {
        let key =
            rng.random_bool(0.5).then(|| MessageKey(format!("key{}", rng.random_range(0..3u32)).into()));
        let body = payload.clone().into_bytes().into();
        let message = NewMessage { key, body, ..NewMessage::default() };
        let begun = now();
        let pushed = self.node.router.push(QueueName("q".into()), vec![message], &ASKED).await;
        self.history.add(self.id, begun, What::Pushed { payload, acknowledged: pushed[0].is_ok() });
    }

    async fn consume(&self) {
        let begun = now();
        let queue = QueueName("q".into());
        let receive = Receive {
            queue,
            max: 2,
            visibility: Some(Millis(4_000)),
            session: None,
            wait: Millis(200),
            acks: Vec::new(),
        };
        match self.node.router.receive(receive, &ASKED).await.messages {
            Ok(messages) => {
                for message in messages {
                    self.finish(begun, message).await;
                }
            }
            Err(error) => self.failed("receive", begun, &error),
        }
    }

    async fn finish(&self, begun: Duration, message: Message) {
        let payload = String::from_utf8(message.body.to_vec()).unwrap();
        let key = message.delivered.key.map(|key| key.0.to_string());
        self.history.add(self.id, begun, What::Received { payload: payload.clone(), key });
        let receipt = Receipt { message: message.delivered.id, delivery: message.delivered.delivery };
        let begun = now();
        match self.node.router.ack(vec![(message.shard, receipt)], &ASKED).await.pop() {
            Some(Ok(())) => self.history.add(self.id, begun, What::Acked { payload }),
            Some(Err(error)) => self.failed("ack", begun, &error),
            None => {}
        }
    }

    /// Everything that is left, at the end of a run.
    pub async fn drain(&self) {
        let until = now() + Duration::from_secs(12);
        while now() < until {
            let before = self.history.len();
            self.consume().await;
            if self.history.len() == before {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Half of the keys lie in a namespace whose lines have owners.
    fn key(&self, rng: &mut SmallRng) -> Key {
        let namespace = if rng.random_bool(0.5) && self.node.cache.knows(BACK) { BACK } else { DEFAULT };
        join(namespace, &format!("k{}", rng.random_range(0..3u32)))
    }

    /// Whatever comes of it: another client may have done it, or will.
    async fn configure(&self) {
        let op =
            NamespaceOp::Configure { name: BACK.into(), write_back: Some(true), bytes_max: None, ttl: None };
        let begun = now();
        if let Err(error) = self.node.router.execute(ShardId::COORDINATION, Op::Namespace(op), &ASKED).await {
            self.failed("configure", begun, &error);
        }
    }

    async fn write(&self, rng: &mut SmallRng, value: String) {
        let mut write = Write::new(self.key(rng), Change::Set(value.clone().into_bytes().into()));
        if rng.random_bool(0.2) {
            write = Write::new(join(space::of(&write.key), "n"), Change::Add(1));
        }
        if rng.random_bool(0.3) {
            write.request_id = Some(value);
        }
        let mut writes = vec![write];
        if rng.random_bool(0.2) {
            writes.push(Write::new(self.key(rng), Change::Set("\"many\"".into())));
        }
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let begun = now();
        for (key, outcome) in keys.into_iter().zip(self.node.cache.write_many(writes, ASKED.timeout).await) {
            match outcome {
                Ok(Written { version: Some(version), .. }) => {
                    let version = (version.epoch, version.counter);
                    self.history.add(self.id, begun, What::Wrote { key: key.to_string(), version });
                }
                Ok(_) => {}
                Err(error) => self.failed("write", begun, &error),
            }
        }
    }

    async fn flush(&self) {
        let begun = now();
        match self.node.cache.flush(DEFAULT, None, ASKED.timeout).await {
            Ok(()) => self.history.add(self.id, begun, What::Flushed),
            Err(error) => self.failed("flush", begun, &error),
        }
    }

    async fn read(&self, rng: &mut SmallRng) {
        let key = if rng.random_bool(0.2) { join(DEFAULT, "n") } else { self.key(rng) };
        let begun = now();
        match self.node.cache.get(&key, rng.random_bool(0.2), ASKED.timeout).await {
            Ok(entry) => {
                let version = entry.map(|entry| (entry.version.epoch, entry.version.counter));
                self.history.add(self.id, begun, What::Read { key: key.to_string(), version });
            }
            Err(error) => self.failed("read", begun, &error),
        }
    }

    /// Looks at every replica's state from time to time.
    async fn sample(self: Arc<Self>) {
        while now() < self.until {
            for replica in self.node.router.replicas() {
                let (index, bytes) = replica.state().snapshot().expect("no body is damaged");
                debug_assert!(index <= replica.state().read(Shard::applied));
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                let (shard, hash) = (replica.shard().0, hasher.finish());
                self.history.add(self.id, now(), What::State { shard, index: index.0, hash });
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    fn failed(&self, op: &'static str, begun: Duration, why: &dyn std::fmt::Display) {
        self.history.add(self.id, begun, What::Failed { op, why: why.to_string() });
    }
}
