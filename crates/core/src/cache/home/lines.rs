//! The lines of one home, and how many bytes they and the directory take.
//!
//! It keeps books; what may happen to a line is decided in [`super`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::cache::message::{Held, Write};
use crate::cache::{Key, Tag, Version};
use crate::names::NodeId;
use crate::stamp::Millis;

/// What a line costs beside its key, value and sharers: map nodes and the line itself.
const LINE_BYTES: usize = 256;
/// What one sharer costs.
const SHARER_BYTES: usize = 32;

/// One key at its home.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) version: Version,
    /// The committed value.
    pub(super) value: Option<Bytes>,
    /// When it expires.
    pub(super) deadline: Option<Millis>,
    /// Who may hold a copy of the committed value, or of its absence.
    pub(super) sharers: BTreeSet<NodeId>,
    /// What waits for sharers to forget.
    pub(super) pending: Option<Pending>,
    /// Writes behind it, first come first.
    pub(super) queue: VecDeque<Queued>,
    age: u64,
    cost: usize,
}

/// A write and who waits for it.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) tag: Tag,
    pub(super) write: Write,
}

/// A change that waits until no sharer can read the old value.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) seq: u64,
    pub(super) why: Why,
    pub(super) awaiting: BTreeSet<NodeId>,
}

/// What happens to the line when nobody can read the old value.
#[derive(Clone, Debug)]
pub(super) enum Why {
    /// The new value is committed.
    Write(Queued),
    /// The line is dropped to make room.
    Evict,
    /// The line is dropped because another node is home now.
    Leave,
}

impl Line {
    /// The committed value, unless expired.
    pub(super) fn held(&self, now: Millis) -> Option<Held> {
        let value = self.value.clone()?;
        let left = self.deadline.map(|end| end.since(now));
        (left != Some(Millis(0))).then_some(Held { version: self.version, value, left })
    }

    /// The committed value's version, unless expired.
    pub(super) fn current(&self, now: Millis) -> Option<Version> {
        let is_live = self.value.is_some() && self.deadline.is_none_or(|end| now < end);
        is_live.then_some(self.version)
    }

    /// Whether it is dropped for good as soon as no sharer can read it.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.pending, Some(Pending { why: Why::Leave, .. }))
    }

    fn is_idle(&self) -> bool {
        self.pending.is_none() && self.queue.is_empty()
    }

    fn measure(&self, key: &str) -> usize {
        let sharers = self.sharers.len().max(self.pending.as_ref().map_or(0, |p| p.awaiting.len()));
        let queued: usize = self.queue.iter().map(Queued::bytes).sum();
        let pending = match &self.pending {
            Some(Pending { why: Why::Write(queued), .. }) => queued.bytes(),
            _ => 0,
        };
        cost(key, self.value.as_ref()) + sharers * SHARER_BYTES + queued + pending
    }
}

impl Queued {
    fn bytes(&self) -> usize {
        self.write.value.as_ref().map_or(0, Bytes::len) + LINE_BYTES
    }
}

/// What a line of this key and value takes at least.
pub(super) fn cost(key: &str, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + LINE_BYTES
}

/// All lines of a home.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    by_key: BTreeMap<Key, Line>,
    /// Idle lines, longest unwritten first.
    idle: BTreeMap<u64, Key>,
    next_age: u64,
    bytes: usize,
}

impl Lines {
    pub(super) fn get(&self, key: &str) -> Option<&Line> {
        self.by_key.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Line> {
        self.by_key.get_mut(key)
    }

    /// The line of `key`, made if need be. Call [`Self::settle`] when done with it.
    pub(super) fn entry(&mut self, key: &Key) -> &mut Line {
        self.by_key.entry(key.clone()).or_default()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_key.keys().cloned().collect()
    }

    pub(super) fn into_lines(self) -> impl Iterator<Item = Line> {
        self.by_key.into_values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Books what became of a line: counts its bytes, drops it if it says nothing, and lists it as
    /// idle, `fresh` ones last, if nothing happens to it.
    pub(super) fn settle(&mut self, key: &Key, fresh: bool) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        if line.is_idle() && line.value.is_none() && line.sharers.is_empty() {
            self.remove(key);
            return;
        }
        let cost = line.measure(key);
        self.bytes = self.bytes + cost - line.cost;
        line.cost = cost;
        if !line.is_idle() {
            self.idle.remove(&line.age);
        } else if fresh || !self.idle.contains_key(&line.age) {
            self.idle.remove(&line.age);
            self.next_age += 1;
            line.age = self.next_age;
            self.idle.insert(line.age, key.clone());
        }
    }

    /// Drops a line and all that is known of it.
    pub(super) fn remove(&mut self, key: &str) -> Option<Line> {
        let line = self.by_key.remove(key)?;
        self.idle.remove(&line.age);
        self.bytes -= line.cost;
        Some(line)
    }

    /// The idle line that was not written for the longest time.
    pub(super) fn oldest(&self) -> Option<Key> {
        self.idle.values().next().cloned()
    }
}
