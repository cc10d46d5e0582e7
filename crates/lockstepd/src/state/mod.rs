//! One shard's state on this node: what the log's driver applies to and everybody else reads.
//!
//! It keeps the bodies of messages beside the pure shard, which knows only their names. It proposes
//! nothing and waits for nothing but a disk that is asked for bodies: see `replica.rs` for that.

mod save;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lockstep_core::command::new_bodies;
use lockstep_core::names::{MessageId, ShardId};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Op, Pack, Reply, Stamp};

use crate::store::bodies::{self, Bodies, Damaged, Directory, Disk, Found, Image, Place};
use crate::waiters::Waiters;

pub use save::Frozen;

/// A replica's state, shared by the log's driver (which alone changes it) and readers.
pub struct State {
    id: ShardId,
    /// What this node would have the shard decide by, once it leads.
    wanted: Settings,
    inner: Mutex<Inner>,
    waiters: Arc<Waiters>,
    /// How often another state has taken this one's place.
    replaced: AtomicU64,
    /// Held while a snapshot becomes the shard's.
    saving: Mutex<()>,
}

struct Inner {
    shard: Shard,
    bodies: Bodies,
}

/// What [`State::snapshot`] holds beyond the shard's own bytes.
#[derive(serde::Serialize)]
struct Whole {
    shard: Bytes,
    bodies: Vec<(MessageId, Bytes)>,
}

impl State {
    /// An empty state of shard `id` that keeps bodies in memory. It begins as every replica's does;
    /// `wanted` holds as soon as this node leads and has said so in the log.
    pub fn new(id: ShardId, wanted: Settings) -> Arc<Self> {
        let directory = Directory::open(Disk::memory(), bodies::Settings::default());
        Self::with_bodies(id, wanted, directory.expect("memory answers"))
    }

    /// The same with bodies in `directory`.
    pub fn with_bodies(id: ShardId, wanted: Settings, directory: Directory) -> Arc<Self> {
        let inner = Inner { shard: Shard::new(id, Settings::default()), bodies: Bodies::empty(directory) };
        Arc::new(Self {
            id,
            wanted,
            inner: Mutex::new(inner),
            waiters: Arc::default(),
            replaced: AtomicU64::new(0),
            saving: Mutex::default(),
        })
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

    /// A message's payload, while anybody may still need it: `None` when nobody does. May wait for the
    /// disk. Errors: what the disk holds is not what was written; it is never served.
    pub fn body(&self, id: MessageId) -> Result<Option<Bytes>, Damaged> {
        match self.find_body(id) {
            Found::Here(body) => Ok(Some(body)),
            Found::Gone => Ok(None),
            Found::There(place) => self.read_body(&place),
        }
    }

    /// Where a body is: at hand, or somewhere that has to be waited for.
    pub fn find_body(&self, id: MessageId) -> Found {
        self.lock().bodies.find(id)
    }

    /// Reads a body from where it was found. Waits for a disk or the network, unless [`Self::is_in_memory`].
    pub fn read_body(&self, place: &Place) -> Result<Option<Bytes>, Damaged> {
        let read = place.read()?;
        let body = read.first().map(|(_, body)| body.clone());
        self.lock().bodies.remember(read);
        Ok(body)
    }

    /// Whether no body has to be waited for.
    pub fn is_in_memory(&self) -> bool {
        self.lock().bodies.directory().is_memory()
    }

    /// Another member's copy of a body that was found damaged here takes its place.
    pub fn mend(&self, id: MessageId, body: &[u8]) -> std::io::Result<()> {
        self.lock().bodies.mend(id, body)
    }

    /// The whole state as bytes, bodies included, and the index of the last entry in it: for what is
    /// small. Errors: a body is damaged.
    pub fn snapshot(&self) -> std::io::Result<(Index, Bytes)> {
        let Frozen { shard, bodies, .. } = self.freeze();
        let bodies = bodies.all()?.into_iter().map(|(id, body)| (MessageId(id), body)).collect();
        let whole = Whole { shard: shard.snapshot(), bodies };
        let bytes = postcard::to_stdvec(&whole).expect("writing to memory cannot fail");
        Ok((shard.applied(), bytes.into()))
    }

    fn replace(&self, shard: Shard, bodies: Bodies, image: &Image) {
        let before = std::mem::replace(&mut *self.lock(), Inner { shard, bodies });
        before.bodies.discard(image);
        self.waiters.wake_all();
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
                self.bodies.put(id, body.clone());
            }
        }
    }

    fn drop_dead_bodies(&mut self) {
        for id in self.shard.take_dead_bodies() {
            self.bodies.remove(id);
        }
    }
}
