//! What clients of one node do, drawn from the seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockstep_core::command::{Acquire, Claimant, LockOp, NewMessage};
use lockstep_core::names::{LockName, MessageKey, Owner, QueueName, Receipt, SessionId};
use lockstep_core::{Millis, Shard};
use lockstepd::node::Node;
use lockstepd::router::{Asked, Message, Receive};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::history::{History, What};

pub(super) const ASKED: Asked = Asked::plain(Duration::from_secs(3));

/// One node's clients; each boot of the node has others.
pub struct Clients {
    pub node: Arc<Node>,
    pub id: u64,
    pub boot: u64,
    pub history: History,
    /// Simulated time at which they stop.
    pub until: Duration,
    /// Their node serves nobody any more: what is under way ends, and nothing begins.
    pub closed: Arc<AtomicBool>,
}

pub(super) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Clients {
    /// Runs them, side by side, until their time is over.
    pub async fn run(self: Arc<Self>, seed: u64) {
        let clients = self;
        let mut tasks = tokio::task::JoinSet::new();
        for nth in 0..3u64 {
            let rng = SmallRng::seed_from_u64(seed ^ clients.id << 16 ^ clients.boot << 32 ^ nth << 48);
            tasks.spawn(Arc::clone(&clients).client(nth, rng));
        }
        tasks.spawn(Arc::clone(&clients).sample());
        while tasks.join_next().await.is_some() {}
    }

    fn is_open(&self) -> bool {
        now() < self.until && !self.closed.load(Ordering::Relaxed)
    }

    async fn client(self: Arc<Self>, nth: u64, mut rng: SmallRng) {
        let mut count = 0;
        if nth == 0 {
            self.configure().await;
        }
        while self.is_open() {
            count += 1;
            let name = format!("{}.{}.{nth}.{count}", self.id, self.boot);
            match rng.random_range(0..10u32) {
                0..2 => self.lock(&mut rng, name).await,
                2..5 => self.push(&mut rng, name).await,
                5 => self.consume(None).await,
                6 if rng.random_bool(0.3) => self.consume_in_a_session(&mut rng).await,
                6 => self.consume(None).await,
                7 => self.write(&mut rng, name).await,
                8 if rng.random_bool(0.05) => self.flush().await,
                8 if rng.random_bool(0.3) => self.load(&mut rng, name).await,
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

    async fn consume(&self, session: Option<SessionId>) {
        for message in self.receive(session).await {
            self.finish(message).await;
        }
    }

    pub(super) async fn receive(&self, session: Option<SessionId>) -> Vec<Message> {
        let begun = now();
        let receive = Receive {
            queue: QueueName("q".into()),
            max: 2,
            visibility: Some(Millis(4_000)),
            session,
            wait: Millis(200),
            acks: Vec::new(),
        };
        match self.node.router.receive(receive, &ASKED).await.messages {
            Ok(messages) => {
                for message in &messages {
                    let (payload, key) = (payload(message), message.delivered.key.as_ref());
                    let key = key.map(|key| key.0.to_string());
                    self.history.add(self.id, begun, What::Received { payload, key });
                }
                messages
            }
            Err(error) => {
                self.failed("receive", begun, &error);
                Vec::new()
            }
        }
    }

    pub(super) async fn finish(&self, message: Message) {
        let payload = payload(&message);
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
            self.consume(None).await;
            if self.history.len() == before {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Looks at every replica's state from time to time.
    async fn sample(self: Arc<Self>) {
        while self.is_open() {
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

    pub(super) fn failed(&self, op: &'static str, begun: Duration, why: &dyn std::fmt::Display) {
        self.history.add(self.id, begun, What::Failed { op, why: why.to_string() });
    }
}

fn payload(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}
