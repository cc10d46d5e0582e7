//! One near client: the leases that it has, what it holds, and what it has yet to forget.
//!
//! It does not know the other clients.

use std::collections::{BTreeMap, VecDeque};

use super::types::{GONE, LEASE, Note, OVERDUE, PART, SHORTEST};
use crate::cache::{Key, Tag, lease};
use crate::names::Origin;
use crate::stamp::Millis;

#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub(super) heard: Millis,
    /// From then on it reads no copy of this home's lines, as this node counts.
    pub(super) owed: BTreeMap<Origin, Millis>,
    /// The number of the last note.
    pub(super) last: u64,
    /// Not acknowledged, with the time when they came up.
    pub(super) notes: VecDeque<(Note, Millis)>,
    /// Orders that wait for the acknowledgement of a number.
    pub(super) awaited: BTreeMap<u64, Vec<(Tag, Origin)>>,
    /// What it may hold, longest held first. Entries whose number is another are about former copies.
    pub(super) order: VecDeque<(Key, u64)>,
    pub(super) keys: BTreeMap<Key, u64>,
    pub(super) next_age: u64,
}

/// A key that a client may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) home: Origin,
    /// The last note to the client when it was given the copy: later ones are about it.
    pub(super) since: u64,
    /// The last note about it; 0 if there is none since.
    pub(super) told: u64,
}

impl Client {
    /// A lease inside what the node has, unless an acknowledgement is overdue.
    pub(super) fn grant(&mut self, home: Origin, left: Millis, now: Millis) -> Option<Millis> {
        let span = LEASE.min(Millis(left.0 / PART));
        let is_late = self.notes.front().is_some_and(|(_, since)| since.plus(OVERDUE) <= now);
        if is_late || span < SHORTEST {
            return None;
        }
        let owed = self.owed.entry(home).or_default();
        *owed = (*owed).max(lease::owed_until(now, span));
        Some(span)
    }

    pub(super) fn may_read(&self, home: Origin, now: Millis) -> bool {
        self.owed.get(&home).is_some_and(|until| now < *until)
    }

    pub(super) fn is_gone(&self, now: Millis) -> bool {
        now.since(self.heard) >= GONE && self.owed.values().all(|until| *until <= now)
    }
}
