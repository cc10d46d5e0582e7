//! Every queue that a shard knows: its part of the messages, counted, and what is ready.
//!
//! A queue without messages is forgotten after a while, unless something about it must be kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chunks::Ids;
use super::slab::Slab;
use crate::command::Room;
use crate::deadlines::Deadlines;
use crate::names::QueueName;
use crate::queue::QueueConfig;
use crate::stamp::Millis;

/// Queues in one shard at once.
pub const QUEUES_MAX: usize = 10_000;
/// How long an empty queue is remembered, with its totals.
const IDLE: Millis = Millis(600_000);
/// The largest priority; 0 is the smallest and the default.
pub const PRIORITY_MAX: u8 = 9;

/// Messages that a consumer may have now, in the order in which they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready(BTreeMap<u8, Ids>);

impl Ready {
    pub(super) fn insert(&mut self, priority: u8, id: u64) -> bool {
        self.0.entry(PRIORITY_MAX.saturating_sub(priority)).or_default().insert(id, ())
    }

    pub(super) fn remove(&mut self, priority: u8, id: u64) {
        let rank = PRIORITY_MAX.saturating_sub(priority);
        if let Some(ids) = self.0.get_mut(&rank) {
            ids.remove(id);
            if ids.is_empty() {
                self.0.remove(&rank);
            }
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.values().next()?.first()
    }

    /// The first of each priority.
    pub(super) fn firsts(&self) -> impl Iterator<Item = u64> {
        self.0.values().filter_map(Ids::first)
    }

    pub(super) fn len(&self) -> u64 {
        self.0.values().map(Ids::len).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.values().flat_map(|ids| ids.after(0).map(|(id, ())| id))
    }
}

/// What has become of messages since the queue is known here. Only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Accepted, repeats not counted.
    pub pushed: u64,
    /// How often any was delivered, repeats included.
    pub deliveries: u64,
    /// Acknowledged or popped.
    pub delivered: u64,
    /// Dropped at the end of their time to live.
    pub expired: u64,
    /// Dropped by a purge.
    pub purged: u64,
    /// Left for the dead-letter queue.
    pub dead_lettered: u64,
    /// Came back from it.
    pub redriven: u64,
    /// Came in as dead letters of other queues.
    pub dead_in: u64,
    /// Went back to the queues that they came from.
    pub dead_out: u64,
}

/// One shard's part of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queue {
    pub(super) name: QueueName,
    /// Of the configuration; 0 where there is none.
    pub(super) version: u64,
    pub(super) config: QueueConfig,
    /// This shard's part of the limits, as lent and borrowed.
    pub(super) room: Room,
    /// The same before anything was lent.
    pub(super) share: Room,
    pub(super) ready: Ready,
    /// Messages without a key that wait for their delay to end.
    pub(super) delayed_loose: Ids,
    pub(super) used: Room,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    /// Its messages that lie in a dead-letter queue.
    pub(super) dead: Ids,
    pub(super) parked: BTreeSet<u32>,
    pub(super) blocked: bool,
    pub(super) totals: Totals,
}

/// The queues of one shard, by name and by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registry {
    slab: Slab<Queue>,
    idle: Deadlines<u32>,
    #[serde(skip)]
    index: BTreeMap<QueueName, u32>,
}

impl Registry {
    pub(super) fn get(&self, at: u32) -> Option<&Queue> {
        self.slab.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Queue> {
        self.slab.get_mut(at)
    }

    pub(super) fn find(&self, name: &QueueName) -> Option<u32> {
        self.index.get(name).copied()
    }

    pub(super) fn by_name(&self, name: &QueueName) -> Option<&Queue> {
        self.get(self.find(name)?)
    }

    pub(super) fn is_full(&self) -> bool {
        self.index.len() >= QUEUES_MAX
    }

    /// The queue of this name; a new one begins with `share` of the limits.
    pub(super) fn find_or_insert(&mut self, name: &QueueName, share: Room) -> u32 {
        if let Some(at) = self.find(name) {
            return at;
        }
        let queue = Queue {
            name: name.clone(),
            version: 0,
            config: QueueConfig::default(),
            room: share,
            share,
            ready: Ready::default(),
            delayed_loose: Ids::default(),
            used: Room::default(),
            in_flight: 0,
            delayed: 0,
            dead: Ids::default(),
            parked: BTreeSet::new(),
            blocked: false,
            totals: Totals::default(),
        };
        let at = self.slab.insert(queue);
        self.index.insert(name.clone(), at);
        at
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Queue)> {
        self.index.values().filter_map(|at| Some((*at, self.get(*at)?)))
    }

    pub(super) fn after(&self, after: Option<&QueueName>) -> impl Iterator<Item = &QueueName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, |name| Excluded(name.clone()));
        self.index.range((start, Unbounded)).map(|(name, _)| name)
    }

    /// Something has happened to the queue: it stays for a while, or for as long as it must.
    pub(super) fn touch(&mut self, at: u32, now: Millis) {
        match self.get(at) {
            Some(queue) if queue.may_go() => self.idle.set(at, now.plus(IDLE)),
            _ => self.idle.remove(&at),
        }
    }

    /// The next queue that nobody will miss. Its groups must go with it.
    pub(super) fn forget_one(&mut self, now: Millis) -> Option<u32> {
        while let Some(at) = self.idle.pop_due(now) {
            if self.get(at).is_some_and(Queue::may_go)
                && let Some(queue) = self.slab.remove(at)
            {
                self.index.remove(&queue.name);
                return Some(at);
            }
        }
        None
    }

    pub(super) fn reindex(&mut self) {
        self.index = self.slab.iter().map(|(at, queue)| (queue.name.clone(), at)).collect();
    }
}

impl Queue {
    fn may_go(&self) -> bool {
        self.used.messages == 0
            && self.version == 0
            && self.dead.is_empty()
            && self.parked.is_empty()
            && !self.blocked
            && self.room == self.share
    }
}
