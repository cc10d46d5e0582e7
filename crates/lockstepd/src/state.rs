//! One shard's state on this node: what the log's driver applies to and everybody else reads.
//!
//! It keeps the bodies of messages beside the pure shard, which knows only their names. It proposes
//! nothing and waits for nothing: see `replica.rs` for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lockstep_core::command::new_bodies;
use lockstep_core::names::{MessageId, ShardId};
use lockstep_core::shard::{Settings, Shard, SnapshotError};
use lockstep_core::{Epoch, Index, Millis, Op, Pack, Reply, Stamp};

use crate::waiters::Waiters;

/// A replica's state, shared by the log's driver (which alone changes it) and readers.
pub struct State {
    id: ShardId,
    /// What this node would have the shard decide by, once it leads.
    wanted: Settings,
    inner: Mutex<Inner>,
    waiters: Arc<Waiters>,
}

struct Inner {
    shard: Shard,
    bodies: BTreeMap<MessageId, Bytes>,
}

/// What a snapshot holds beyond the shard's own bytes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Image {
    shard: Bytes,
    bodies: Vec<(MessageId, Bytes)>,
}

impl State {
    /// An empty state of shard `id`. It begins as every replica's does; `wanted` holds as soon as this
    /// node leads and has said so in the log.
    pub fn new(id: ShardId, wanted: Settings) -> Arc<Self> {
        let inner = Inner { shard: Shard::new(id, Settings::default()), bodies: BTreeMap::new() };
        Arc::new(Self { id, wanted, inner: Mutex::new(inner), waiters: Arc::default() })
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Those who wait for something to happen to this state.
    pub fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    /// The settings that the next pack of this node must carry, if it leads.
    pub fn settings_due(&self) -> Option<Settings> {
        Some(self.wanted).filter(|wanted| *wanted != self.read(Shard::settings))
    }

    /// Applies one entry: every command of `pack` in order. Answers one reply per command.
    /// The driver calls it once for every index, in order, on every replica.
    pub fn apply(&self, index: Index, epoch: Epoch, pack: &Pack) -> Vec<Reply> {
        let at = Stamp { index, epoch, now: pack.now };
        let mut inner = self.lock();
        if let Some(settings) = pack.settings {
            inner.shard.set(settings);
        }
        let mut effects = inner.shard.advance(at);
        let mut replies = Vec::with_capacity(pack.commands.len());
        for command in &pack.commands {
            let (reply, more) = inner.shard.apply(at, command);
            inner.keep_bodies(&command.op, &reply);
            effects.extend(more);
            replies.push(reply);
        }
        inner.drop_dead_bodies();
        drop(inner);
        self.waiters.wake(&effects);
        replies
    }

    /// Applies an entry that carries no pack, such as a new leader's first.
    pub fn apply_blank(&self, index: Index, epoch: Epoch) {
        let now = self.read(Shard::now);
        self.apply(index, epoch, &Pack { now, ..Pack::default() });
    }

    /// Looks at the state. Keep it short: applying waits meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&Shard) -> R) -> R {
        look(&self.lock().shard)
    }

    /// When something is next due, in log time.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.read(Shard::next_deadline)
    }

    /// A message's payload, while anybody may still need it.
    pub fn body(&self, id: MessageId) -> Option<Bytes> {
        self.lock().bodies.get(&id).cloned()
    }

    /// The whole state as bytes, and the index of the last entry in it.
    pub fn snapshot(&self) -> (Index, Bytes) {
        let inner = self.lock();
        let image = Image {
            shard: inner.shard.snapshot(),
            bodies: inner.bodies.iter().map(|(id, body)| (*id, body.clone())).collect(),
        };
        let applied = inner.shard.applied();
        drop(inner);
        let bytes = postcard::to_stdvec(&image).expect("writing to memory cannot fail");
        (applied, bytes.into())
    }

    /// Replaces the state by what [`Self::snapshot`] wrote. On error nothing changes.
    pub fn install(&self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let image: Image = postcard::from_bytes(snapshot).map_err(|_| SnapshotError::Damaged)?;
        let shard = Shard::restore(&image.shard)?;
        *self.lock() = Inner { shard, bodies: image.bodies.into_iter().collect() };
        self.waiters.wake_all();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic inside apply has already stopped this node")
    }
}

impl Inner {
    fn keep_bodies(&mut self, op: &Op, reply: &Reply) {
        let Op::Queue(op) = op else { return };
        for (id, body) in new_bodies(op, reply) {
            // A repeated push answers its first ids; the body may be gone again by then.
            if self.shard.body_lives(id) {
                self.bodies.entry(id).or_insert_with(|| body.clone());
            }
        }
    }

    fn drop_dead_bodies(&mut self) {
        for id in self.shard.take_dead_bodies() {
            self.bodies.remove(&id);
        }
    }
}
