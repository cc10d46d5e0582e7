//! Clients that take locks of every kind and write down what they asked and what they were told.
//!
//! They ask again under the same request id until there is a definite answer, as the contract says,
//! at whichever node; their leases outlast the test, so nothing ends but by what they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::linear::Call;
use crate::kit::lock_model::{LockOp, Mode};
use crate::kit::{Answer, Http};

/// The lock that only exclusive holders take, and under which they push to the queue of its name.
pub const ALONE: &str = "alone";
/// The lock of readers and writers, of upgrades and downgrades.
pub const SHARED: &str = "shared";
/// The lock of two permits.
pub const PERMITS: &str = "permits";
/// How many permits it has.
pub const LIMIT: usize = 2;

/// Longer than any test.
const TTL_MS: u64 = 600_000;
/// Between two rounds, so that a lock's history is whole at the end.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a node may be silent before another is asked.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// A cluster that is whole again answers within this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);

/// What all clients share.
pub struct World {
    /// Whom to ask.
    pub nodes: Vec<Http>,
    /// Set when they should come to an end.
    pub stop: AtomicBool,
    start: Instant,
    owners: AtomicU32,
}

/// What one client has seen, by lock.
#[derive(Default)]
pub struct Seen {
    /// Calls of [`ALONE`], [`SHARED`] and [`PERMITS`].
    pub calls: [Vec<Call<LockOp>>; 3],
    /// Grants that were lost with the connection on which they came.
    pub lost: usize,
}

impl World {
    /// Clients of these nodes.
    pub fn new(nodes: Vec<Http>) -> Arc<Self> {
        let (stop, owners) = (AtomicBool::new(false), AtomicU32::new(1));
        Arc::new(Self { nodes, stop, start: Instant::now(), owners })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap()
    }
}

/// One client, until it is told to stop.
pub struct Client {
    world: Arc<World>,
    node: usize,
    seen: Seen,
}

impl Client {
    /// The `nth` client: it begins at another node than the one before.
    pub fn new(world: &Arc<World>, nth: usize) -> Self {
        Self { world: Arc::clone(world), node: nth, seen: Seen::default() }
    }

    /// Takes and gives back, and says what it saw.
    pub async fn run(mut self, nth: usize) -> Seen {
        for round in nth.. {
            if self.world.stop.load(Ordering::Relaxed) {
                break;
            }
            let owner = self.world.owners.fetch_add(1, Ordering::Relaxed);
            match round % 4 {
                0 => self.alone(owner).await,
                1 => self.permit(owner).await,
                2 => self.reader(owner).await,
                _ => self.writer(owner).await,
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.seen
    }

    async fn alone(&mut self, owner: u32) {
        let Some(token) = self.acquire(0, ALONE, owner, Mode::Exclusive, 1_500).await else { return };
        let guard = json!({"lock": ALONE, "token": token});
        let push = json!({"queue": ALONE, "key": ALONE, "payload": token, "guard": guard});
        let (_, pushed, _) = self.ask("/queue/push", push, owner, "push").await;
        assert_eq!(pushed.status, 200, "its holder is not fenced: {}", pushed.text);
        self.release(0, ALONE, owner, token).await;
    }

    async fn permit(&mut self, owner: u32) {
        let wait = if owner.is_multiple_of(2) { 0 } else { 1_000 };
        let Some(token) = self.acquire(2, PERMITS, owner, Mode::Permit, wait).await else { return };
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.release(2, PERMITS, owner, token).await;
    }

    async fn writer(&mut self, owner: u32) {
        let Some(token) = self.acquire(1, SHARED, owner, Mode::Exclusive, 1_000).await else { return };
        if owner.is_multiple_of(2) {
            self.convert("/lock/downgrade", owner, token).await;
        }
        self.release(1, SHARED, owner, token).await;
    }

    async fn reader(&mut self, owner: u32) {
        let Some(mut token) = self.acquire(1, SHARED, owner, Mode::Shared, 1_000).await else { return };
        tokio::time::sleep(Duration::from_millis(3)).await;
        if owner.is_multiple_of(2) {
            let upgraded = self.convert("/lock/upgrade", owner, token).await;
            if let Some(new) = upgraded {
                token = new;
                self.convert("/lock/downgrade", owner, token).await;
            }
        }
        self.release(1, SHARED, owner, token).await;
    }

    async fn acquire(&mut self, lock: usize, name: &str, owner: u32, mode: Mode, wait: u64) -> Option<u64> {
        let (word, limit) = match mode {
            Mode::Exclusive => ("exclusive", None),
            Mode::Shared => ("shared", None),
            Mode::Permit => ("permit", Some(LIMIT)),
        };
        let mut body = json!({"name": name, "mode": word, "ttl_ms": TTL_MS, "wait_ms": wait});
        if let Some(limit) = limit {
            body["limit"] = limit.into();
        }
        let (begun, answer, ended) = self.ask("/lock/acquire", body, owner, "acquire").await;
        let token = answer.json["token"].as_u64();
        match (answer.status, answer.code()) {
            (200, _) => self.saw(lock, begun, ended, LockOp::Grant(owner, mode, token)),
            (409, "held") => self.saw(lock, begun, ended, LockOp::Busy(mode)),
            (409, "wait_timeout") => self.saw(lock, begun, ended, LockOp::Nothing),
            // It was granted on a connection that broke, and was given back.
            (409, "lock_lost") => {
                self.may_have(lock, begun, ended, LockOp::Grant(owner, mode, None));
                self.may_have(lock, begun, ended, LockOp::GiveBack(owner));
            }
            _ => panic!("acquire {name}: {} {}", answer.status, answer.text),
        }
        token
    }

    async fn release(&mut self, lock: usize, name: &str, owner: u32, token: u64) {
        let body = json!({"name": name, "token": token});
        let (begun, answer, ended) = self.ask("/lock/release", body, owner, "release").await;
        match (answer.status, answer.code()) {
            (200, _) => self.saw(lock, begun, ended, LockOp::Release(owner)),
            _ => self.saw(lock, begun, ended, LockOp::NotHeld(owner)),
        }
    }

    /// The token after it.
    async fn convert(&mut self, route: &'static str, owner: u32, token: u64) -> Option<u64> {
        let up = route == "/lock/upgrade";
        let mut body = json!({"name": SHARED, "token": token});
        if up {
            body["wait_ms"] = 500.into();
        }
        let (begun, answer, ended) = self.ask(route, body, owner, route).await;
        let token = answer.json["token"].as_u64();
        match (answer.status, answer.code()) {
            (200, _) if up => self.saw(1, begun, ended, LockOp::Upgrade(owner, token)),
            (200, _) => self.saw(1, begun, ended, LockOp::Downgrade(owner)),
            (409, "wait_timeout" | "upgrade_conflict" | "deadlock" | "held") if up => {
                self.saw(1, begun, ended, LockOp::Nothing);
            }
            (409, "lock_lost") if up => {
                self.may_have(1, begun, ended, LockOp::Upgrade(owner, None));
                self.may_have(1, begun, ended, LockOp::Undo(owner));
            }
            _ => panic!("{route}: {} {}", answer.status, answer.text),
        }
        token
    }

    fn saw(&mut self, lock: usize, begun: u64, ended: u64, op: LockOp) {
        self.seen.calls[lock].push(Call { op, begun, ended: Some(ended), optional: false });
    }

    fn may_have(&mut self, lock: usize, begun: u64, ended: u64, op: LockOp) {
        self.seen.lost += usize::from(matches!(op, LockOp::GiveBack(_) | LockOp::Undo(_)));
        self.seen.calls[lock].push(Call { op, begun, ended: Some(ended), optional: true });
    }

    /// Asks until there is a definite answer: when it was first asked, and when that came.
    async fn ask(&mut self, route: &str, mut body: Value, owner: u32, what: &str) -> (u64, Answer, u64) {
        if route.starts_with("/lock") {
            body["owner"] = owner.to_string().into();
        }
        body["request_id"] = format!("{owner} {what}").into();
        let wait = Duration::from_millis(body["wait_ms"].as_u64().unwrap_or(0));
        let (begun, end) = (self.world.now(), Instant::now() + ANSWERED_WITHIN);
        loop {
            let node = self.world.nodes[self.node % self.world.nodes.len()];
            if let Ok(answer) = node.patient(PATIENCE + wait).post(route, &body).await
                && !matches!(answer.status, 503 | 504)
            {
                return (begun, answer, self.world.now());
            }
            assert!(Instant::now() < end, "no answer in {ANSWERED_WITHIN:?}: {route} {body}");
            self.node += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
