//! One line at its home: its value, who may read it, and what waits at it.
//!
//! It decides nothing; [`super`] does, and [`super::lines`] keeps the books.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::touched::Touched;
use crate::cache::message::{Change, Held, Load, Wish, Write};
use crate::cache::{Tag, Version};
use crate::names::{Incarnation, NodeId};
use crate::stamp::Millis;

/// What a line costs beside its key, value and sharers: map nodes and the line itself.
const LINE_BYTES: usize = 320;
/// What one sharer costs.
const SHARER_BYTES: usize = 32;

/// One key at its home.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) version: Version,
    /// The committed value, unless an owner has written since.
    pub(super) value: Option<Bytes>,
    /// When it expires.
    pub(super) deadline: Option<Millis>,
    /// Who may hold a copy of the committed value, or of its absence.
    pub(super) sharers: BTreeSet<NodeId>,
    /// Who alone may read and write it.
    pub(super) owner: Option<Owner>,
    /// What waits for sharers to forget.
    pub(super) pending: Option<Pending>,
    /// Behind it, first come first.
    pub(super) queue: VecDeque<Queued>,
    /// Who may fill the missing value in.
    pub(super) fill: Option<Fill>,
    /// Who waits for that, first come first.
    pub(super) loaders: VecDeque<Loader>,
    /// What the driver made of the value.
    pub(super) note: Option<Bytes>,
    /// Whether its value was read since it was last considered for eviction.
    pub(super) touched: Touched,
    /// Of its namespace when it was last looked at: flushes since have emptied it.
    pub(super) generation: u64,
    pub(super) age: u64,
    /// Bytes that it takes, as of when it was last settled.
    pub(super) cost: usize,
}

/// The only reader of a line, which may also write it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    pub(super) process: Incarnation,
    pub(super) grant: u64,
}

/// A write and who waits for it.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub(super) tag: Tag,
    pub(super) since: Millis,
    pub(super) write: Write,
}

/// What waits for its turn at a line.
#[derive(Clone, Debug)]
pub(super) enum Queued {
    Write(Writing),
    /// `from` another node, or this one.
    Read {
        tag: Tag,
        from: Option<NodeId>,
        wish: Wish,
    },
    Load {
        tag: Tag,
        load: Load,
    },
}

/// A right to fill a missing value in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) token: Version,
    pub(super) until: Millis,
}

/// Somebody who waits for a value, or for the right to fill it in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loader {
    pub(super) tag: Tag,
    pub(super) lease: Millis,
    pub(super) until: Millis,
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
    Write(Writing),
    /// The line is its home's again.
    Recall,
    /// The same, and its owner may go on reading it.
    Share,
    /// The line, counted as so many bytes, is dropped to make room.
    Evict(usize),
    /// The line goes to another home.
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

    /// Takes a value as it was elsewhere.
    pub(super) fn take(&mut self, held: Held, now: Millis) {
        self.version = held.version;
        self.deadline = held.left.map(|left| now.plus(left));
        self.put((held.left != Some(Millis(0))).then_some(held.value));
        self.owner = None;
    }

    /// The value is gone, and whoever owned it can read it no more.
    pub(super) fn lose(&mut self) {
        self.put(None);
        self.deadline = None;
        self.owner = None;
        self.sharers.clear();
    }

    /// Another value; what was made of the former one goes with it.
    pub(super) fn put(&mut self, value: Option<Bytes>) {
        self.value = value;
        self.note = None;
    }

    /// The right to fill, unless its time has passed.
    pub(super) fn filling(&self, now: Millis) -> Option<Fill> {
        self.fill.filter(|fill| now < fill.until)
    }

    /// Whether all that waits are other nodes' reads, beside which its owner may go on reading.
    pub(super) fn is_only_read(&self) -> bool {
        let owner = self.owner.map(|owner| owner.node);
        self.queue.iter().all(|queued| matches!(queued, Queued::Read { from, .. } if *from != owner))
    }

    /// Whether it goes to another home as soon as no sharer can read it.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.pending, Some(Pending { why: Why::Leave, .. }))
    }

    /// A flush since it was last looked at has emptied it.
    pub(super) fn refresh(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.lose();
            self.fill = None;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_none() && self.queue.is_empty() && self.fill.is_none() && self.loaders.is_empty()
    }

    pub(super) fn says_nothing(&self) -> bool {
        self.is_idle() && self.value.is_none() && self.sharers.is_empty() && self.owner.is_none()
    }

    pub(super) fn measure(&self, key: &str) -> usize {
        let sharers = self.sharers.len().max(self.pending.as_ref().map_or(0, |p| p.awaiting.len()));
        let queued: usize = self.queue.iter().map(Queued::bytes).sum();
        let pending = match &self.pending {
            Some(Pending { why: Why::Write(writing), .. }) => writing.bytes(),
            _ => 0,
        };
        let loaders = self.loaders.len() * SHARER_BYTES;
        let note = self.note.as_ref().map_or(0, Bytes::len);
        cost(key, self.value.as_ref().map_or(0, Bytes::len))
            + sharers * SHARER_BYTES
            + queued
            + pending
            + loaders
            + note
    }
}

impl Writing {
    fn bytes(&self) -> usize {
        self.write.change.bytes() + LINE_BYTES
    }
}

impl Queued {
    fn bytes(&self) -> usize {
        match self {
            Self::Write(writing) => writing.bytes(),
            Self::Read { .. } | Self::Load { .. } => LINE_BYTES,
        }
    }
}

impl Change {
    /// Bytes of the value that it brings.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Set(value) => value.len(),
            Self::Delete => 0,
            Self::Add(_) => 20,
        }
    }
}

/// What a line of this key and a value of so many bytes takes at least.
pub(super) fn cost(key: &str, value: usize) -> usize {
    key.len() + value + LINE_BYTES
}
