//! The Redis driver: a shard's log is a stream, and Redis refuses whoever no longer leads.
//!
//! Entry ids are `<epoch>-<seq>`. A reign begins with one append that names where the stream ended
//! for its author: it is election and fence at once, because whatever an older reign still sends no
//! longer fits. Nodes keep nothing; Redis' own durability is what makes an entry last.

mod address;
mod append;
mod barrier;
mod check;
mod chunks;
mod driver;
mod entry;
mod follow;
mod home;
mod import;
mod keys;
mod lead;
mod link;
mod lookup;
mod offline;
mod room;
mod server;
mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod write;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::{MessageId, NodeId, ShardId};
use lockstep_core::{Command, Index};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::due::Due;
use super::pack::{Waiting, brings_bodies};
use super::time::LogTime;
use super::{Applied, BarrierError, Log, ProposeError, Status};
use crate::clock::Clock;
use crate::state::State;
use crate::store::bodies::Directory;

pub use address::Address;
pub use home::{Cluster, Home};
pub use offline::Offline;
pub use server::{Refusal, Server};

/// Log bytes for each byte of the last snapshot: both are Redis' memory.
const LOG_PER_SNAPSHOT: u64 = 2;

/// How a shard's log behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A leader appends at least this often.
    pub heartbeat: Duration,
    /// The shortest silence after which another member stands.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// Log bytes between two snapshots of a shard.
    pub snapshot_bytes: u64,
    /// Commands that may wait for a shard's next pack; above it proposals are refused.
    pub waiting_max: usize,
    /// Bytes of commands in one pack, roughly.
    pub pack_bytes: usize,
    /// How much of Redis' memory may be in use, of a hundred, before pushes are refused.
    pub memory_percent: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(2_000),
            election_max: Duration::from_millis(4_000),
            snapshot_bytes: 64 * 1024 * 1024,
            waiting_max: 16_384,
            pack_bytes: 1024 * 1024,
            memory_percent: 80,
        }
    }
}

/// Why a shard's log stands still.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Redis cannot be used now. That may change.
    Away(String),
    /// What is in Redis is not what was written there.
    Broken(String),
}

impl Fault {
    fn away(failed: link::Failed) -> Self {
        let why = failed.why();
        // Waiting does not help where somebody has put something else.
        if !why.contains("WRONGTYPE") {
            return Self::Away(why);
        }
        Self::Broken(format!(
            "one of this cluster's keys holds something that Lockstep did not write ({why}). Restore Redis from a \
             backup, or import the last export; docs/stores.md has the permissions that prevent this"
        ))
    }
}

/// Every shard's log of one node.
pub struct Shards {
    settings: Settings,
    node: NodeId,
    server: Arc<Server>,
    clock: Clock,
    /// See [`driver::Driver::turns`].
    turns: Arc<Semaphore>,
    running: Mutex<Vec<Arc<RedisLog>>>,
}

impl Shards {
    /// A node's logs; none runs yet.
    pub fn new(settings: Settings, node: NodeId, server: Arc<Server>, clock: Clock) -> Self {
        let turns = Arc::new(Semaphore::new(1));
        Self { settings, node, server, clock, turns, running: Mutex::default() }
    }

    /// Where the state of a shard keeps its bodies.
    pub fn bodies(&self, shard: ShardId) -> Directory {
        let keys = keys::Keys::new(&self.server.address().prefix(), shard);
        chunks::directory(link::Link::new(&self.server, keys.log(), self.settings.election_min), keys)
    }

    /// Starts this node's replica of a shard, which feeds `state`; that keeps its bodies in
    /// [`Self::bodies`].
    pub fn start(&self, shard: ShardId, state: Arc<State>) -> Arc<RedisLog> {
        let keys = keys::Keys::new(&self.server.address().prefix(), shard);
        // An answer that takes longer than half an election time-out costs the reign anyway.
        let patience = self.settings.election_min / 2;
        let link = link::Link::new(&self.server, keys.log(), patience);
        let (status, _) = watch::channel(Status::default());
        let (commands, waiting) = mpsc::channel(self.settings.waiting_max);
        let (orders, ordered) = mpsc::channel(16);
        let (readers, reading) = mpsc::unbounded_channel();
        let (applied, reached) = watch::channel(Index(0));
        let barrier = barrier::run(link.another(), keys.clone(), status.subscribe(), reached, reading);
        let room = room::Room::new(self.settings.memory_percent);
        let driver = driver::Driver {
            node: self.node,
            shard,
            settings: self.settings.clone(),
            keys: keys.clone(),
            state: Arc::clone(&state),
            status: status.clone(),
            commands: waiting,
            orders: ordered,
            log_time: LogTime::new(self.clock.clone()),
            reader: link.another(),
            link: link.another(),
            tail: entry::Position::default(),
            author: None,
            due: Due::new(LOG_PER_SNAPSHOT),
            entries: 0,
            garbage: 0,
            again: false,
            adopted: Index(0),
            room: Arc::clone(&room),
            read_at_once: follow::READ,
            attempted: Index(0),
            out_of_memory: false,
            refused: false,
            turns: Arc::clone(&self.turns),
            applied,
        };
        let tasks = Mutex::new(Some((tokio::spawn(driver.run()), tokio::spawn(barrier))));
        let log = Arc::new(RedisLog { link, keys, state, room, commands, orders, readers, status, tasks });
        self.running.lock().expect("nothing panics while it holds this").push(Arc::clone(&log));
        log
    }

    /// Stops every log.
    pub async fn shutdown(&self) {
        let running = std::mem::take(&mut *self.running.lock().expect("nothing panics while it holds this"));
        futures::future::join_all(running.iter().map(|log| log.shutdown())).await;
    }
}

/// One shard's log at this node.
pub struct RedisLog {
    link: link::Link,
    keys: keys::Keys,
    state: Arc<State>,
    room: Arc<room::Room>,
    commands: mpsc::Sender<Waiting>,
    orders: mpsc::Sender<driver::Order>,
    readers: mpsc::UnboundedSender<barrier::Waiting>,
    status: watch::Sender<Status>,
    tasks: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
}

#[async_trait]
impl Log for RedisLog {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        use mpsc::error::TrySendError;
        refusal(&self.status.borrow())?;
        // What was done once is only answered again.
        if brings_bodies(&command.op)
            && self.room.is_full()
            && !self.state.read(|shard| shard.knows(&command.request))
        {
            return Err(ProposeError::StorageFull);
        }
        let (answer, applied) = oneshot::channel();
        self.commands.try_send((command, answer)).map_err(|error| match error {
            TrySendError::Full(_) => ProposeError::Full,
            TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        applied.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn barrier(&self) -> Result<Index, BarrierError> {
        let (answer, reached) = oneshot::channel();
        self.readers.send(answer).map_err(|_| BarrierError::Stopped)?;
        reached.await.unwrap_or(Err(BarrierError::Stopped))
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// From the chunks of the latest snapshot: those that this node knew of may be gone.
    async fn fetch_body(&self, id: MessageId) -> Option<Bytes> {
        match lookup::body(&mut self.link.another(), &self.keys, &self.state, id).await {
            Ok(body) => body,
            Err(Fault::Away(why)) => {
                tracing::warn!(shard = self.state.id().0, %why, "cannot look for the body of a message");
                None
            }
            Err(Fault::Broken(why)) => {
                // Full: it fails already, or will when it is asked again.
                let _ = self.orders.try_send(driver::Order::Fail(why));
                None
            }
        }
    }

    async fn hand_over(&self, to: NodeId) {
        // Full: it has been told often enough.
        let _ = self.orders.try_send(driver::Order::HandOver(to));
    }

    async fn shutdown(&self) {
        let tasks = self.tasks.lock().expect("nothing panics while it holds this").take();
        let Some((driver, barrier)) = tasks else { return };
        barrier.abort();
        let abort = driver.abort_handle();
        let _ = self.orders.send(driver::Order::Stop).await;
        if tokio::time::timeout(Duration::from_secs(2), driver).await.is_err() {
            abort.abort();
        }
    }
}

impl Drop for RedisLog {
    fn drop(&mut self) {
        if let Some((driver, barrier)) = self.tasks.get_mut().ok().and_then(Option::take) {
            driver.abort();
            barrier.abort();
        }
    }
}

/// Why nothing can be proposed here now, said before anything waits.
fn refusal(status: &Status) -> Result<(), ProposeError> {
    match status {
        Status { failed: Some(_), .. } => Err(ProposeError::Stopped),
        Status { away: Some(_), .. } => Err(ProposeError::Away),
        Status { leading: false, leader, .. } => Err(ProposeError::NotLeader { hint: *leader }),
        _ => Ok(()),
    }
}
