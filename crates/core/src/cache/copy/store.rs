//! Where copies are kept, within a bound on their bytes.
//!
//! The oldest copy goes first, unless it was read since it was last considered. It does not tell
//! the home of copies: a home that invalidates one which is gone gets the same answer. Owned lines
//! that have to go are handed out instead, to be given back. It knows no leases.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::cache::message::{Grant, Held};
use crate::cache::{Key, Version};
use crate::names::Origin;
use crate::stamp::Millis;

/// What a copy costs beside its key, value and note.
const COPY_BYTES: usize = 256;

/// A value, or its absence, as the home once said or its owner wrote.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) home: Origin,
    /// The stretch of the home's lease in which it was registered.
    pub(super) period: u64,
    /// How often its namespace had been flushed by its home.
    pub(super) generation: u64,
    pub(super) held: Option<Held>,
    pub(super) expires: Option<Millis>,
    /// Set if the line is this node's own.
    pub(super) own: Option<Own>,
    /// What the driver made of the value; gone with it.
    pub(super) note: Bytes,
    pub(super) touched: bool,
    pub(super) serial: u64,
}

/// The right to write a line here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) grant: u64,
    /// The version of the last write, or the one before the first.
    pub(super) last: Version,
    /// How many more there may be.
    pub(super) left: u64,
    pub(super) ttl: Option<Millis>,
    pub(super) is_written: bool,
}

impl Own {
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant: grant.number, last: grant.after, left: grant.writes, ttl: grant.ttl, is_written: false }
    }
}

impl Copy {
    pub(super) fn state(&self) -> char {
        match self.own {
            None => 'S',
            Some(Own { is_written: false, .. }) => 'E',
            Some(Own { is_written: true, .. }) => 'M',
        }
    }

    /// What is left of its time to live: `None` if it has none, zero once it is over.
    pub(super) fn left(&self, now: Millis) -> Option<Millis> {
        self.expires.map(|end| end.since(now))
    }

    /// What was written under the grant, if anything.
    pub(super) fn written(&self, now: Millis) -> Option<Held> {
        let is_written = self.own.is_some_and(|own| own.is_written);
        let version = self.own.map(|own| own.last).unwrap_or_default();
        // A delete is given back as a value whose time is over.
        let gone = Held { version, value: Bytes::new(), left: Some(Millis(0)) };
        let held = self.held.clone().map(|held| Held { left: self.left(now), ..held });
        is_written.then(|| held.unwrap_or(gone))
    }

    fn cost(&self, key: &str) -> usize {
        let value = self.held.as_ref().map_or(0, |held| held.value.len());
        key.len() + value + self.note.len() + COPY_BYTES
    }
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    copies: BTreeMap<Key, Copy>,
    /// Owned lines by their home.
    owned: BTreeMap<(Origin, Key), ()>,
    /// Keys in the order in which they are considered for eviction. An entry whose serial is not
    /// the copy's own is about a former copy.
    order: VecDeque<(Key, u64)>,
    next_serial: u64,
    bytes: usize,
    bytes_max: usize,
    evictions: u64,
}

impl Store {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            copies: BTreeMap::new(),
            owned: BTreeMap::new(),
            order: VecDeque::new(),
            next_serial: 0,
            bytes: 0,
            bytes_max,
            evictions: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    pub(super) fn get(&self, key: &str) -> Option<&Copy> {
        self.copies.get(key)
    }

    /// Copies behind `key` in order of their keys, from the beginning without one.
    pub(super) fn after(&self, key: Option<&str>) -> impl Iterator<Item = (&Key, &Copy)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.copies.range::<str, _>((from, Bound::Unbounded))
    }

    /// The copy of `key`. Whoever changes what it costs calls [`Self::insert`] instead.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Copy> {
        self.copies.get_mut(key)
    }

    /// Whether there is room that nobody has to leave.
    pub(super) fn has_room(&self) -> bool {
        self.bytes <= self.bytes_max / 16 * 15
    }

    /// Whether a copy of these sizes would be kept.
    pub(super) fn fits(&self, key: &str, value: usize) -> bool {
        key.len() + value + COPY_BYTES <= self.bytes_max
    }

    /// Keeps a copy in place of any former one; one larger than the whole store is not kept. Returns
    /// owned lines that had to make room.
    pub(super) fn insert(&mut self, key: Key, mut copy: Copy) -> Vec<(Key, Copy)> {
        self.remove(&key);
        let cost = copy.cost(&key);
        if cost > self.bytes_max {
            return Vec::new();
        }
        self.next_serial += 1;
        copy.serial = self.next_serial;
        self.bytes += cost;
        self.order.push_back((key.clone(), copy.serial));
        if copy.own.is_some() {
            self.owned.insert((copy.home, key.clone()), ());
        }
        self.copies.insert(key, copy);
        self.make_room()
    }

    /// Attaches a note to a copy that still has this version and state. Returns owned lines that had
    /// to make room.
    pub(super) fn annotate(
        &mut self,
        key: &str,
        version: Version,
        state: char,
        note: Bytes,
    ) -> Vec<(Key, Copy)> {
        if let Some(copy) = self.copies.get_mut(key)
            && copy.held.as_ref().is_some_and(|held| held.version == version)
            && copy.state() == state
        {
            self.bytes = self.bytes + note.len() - copy.note.len();
            copy.note = note;
        }
        self.make_room()
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Copy> {
        let (key, copy) = self.copies.remove_entry(key)?;
        self.bytes -= copy.cost(&key);
        if copy.own.is_some() {
            self.owned.remove(&(copy.home, key));
        }
        Some(copy)
    }

    /// An owned line is a shared copy from now on. Returns it as it was.
    pub(super) fn share(&mut self, key: &str) -> Option<Copy> {
        let (key, home) = (Key::from(key), self.copies.get(key)?.home);
        self.owned.remove(&(home, key.clone()));
        let copy = self.copies.get_mut(&key)?;
        let before = copy.clone();
        // What was made of the value says that it was owned.
        self.bytes -= copy.note.len();
        copy.note = Bytes::new();
        copy.own = None;
        Some(before)
    }

    /// Every owned line, of one home or of all.
    pub(super) fn owned(&self, of: Option<Origin>) -> Vec<Key> {
        let of_home = |(home, _): &&(Origin, Key)| of.is_none_or(|of| of == *home);
        self.owned.keys().filter(of_home).map(|(_, key)| key.clone()).collect()
    }

    /// Whether this node owns a line of `home`.
    pub(super) fn owns(&self, home: Origin) -> bool {
        let first = self.owned.range((home, Key::from(""))..).next();
        first.is_some_and(|((of, _), ())| *of == home)
    }

    fn make_room(&mut self) -> Vec<(Key, Copy)> {
        let mut owned = Vec::new();
        // Entries about former copies must not pile up where keys change often.
        let crowded = self.order.len() > 2 * self.copies.len() + 64;
        while self.bytes > self.bytes_max {
            let Some((key, serial)) = self.order.pop_front() else { break };
            match self.copies.get_mut(&key) {
                Some(copy) if copy.serial == serial && copy.touched => {
                    copy.touched = false;
                    self.order.push_back((key, serial));
                }
                Some(copy) if copy.serial == serial => {
                    self.evictions += 1;
                    let gone = self.remove(&key).filter(|copy| copy.own.is_some());
                    owned.extend(gone.map(|copy| (key, copy)));
                }
                _ => {}
            }
        }
        if crowded {
            let copies = &self.copies;
            self.order.retain(|(key, serial)| copies.get(key).is_some_and(|copy| copy.serial == *serial));
        }
        owned
    }

    #[cfg(test)]
    pub(super) fn order_len(&self) -> usize {
        self.order.len()
    }
}
