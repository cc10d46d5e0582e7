//! Where copies are kept, within a bound on their bytes.
//!
//! The oldest copy goes first, unless it was read since it was last considered. It does not tell
//! the home: a home that invalidates a copy which is gone gets the same answer. It knows no leases.

use std::collections::{BTreeMap, VecDeque};

use crate::cache::Key;
use crate::cache::message::Held;
use crate::names::Origin;
use crate::stamp::Millis;

/// What a copy costs beside its key and value.
const COPY_BYTES: usize = 192;

/// A value, or its absence, as the home once said.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) home: Origin,
    /// The stretch of the home's lease in which it was registered.
    pub(super) period: u64,
    pub(super) held: Option<Held>,
    pub(super) expires: Option<Millis>,
    pub(super) touched: bool,
    serial: u64,
}

impl Copy {
    pub(super) fn new(home: Origin, period: u64, held: Option<Held>, expires: Option<Millis>) -> Self {
        Self { home, period, held, expires, touched: false, serial: 0 }
    }

    fn cost(&self, key: &str) -> usize {
        key.len() + self.held.as_ref().map_or(0, |held| held.value.len()) + COPY_BYTES
    }
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    copies: BTreeMap<Key, Copy>,
    /// Keys in the order in which they are considered for eviction. An entry whose serial is not
    /// the copy's own is about a former copy.
    order: VecDeque<(Key, u64)>,
    next_serial: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Store {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { copies: BTreeMap::new(), order: VecDeque::new(), next_serial: 0, bytes: 0, bytes_max }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Copy> {
        self.copies.get_mut(key)
    }

    /// Keeps a copy in place of any former one; one larger than the whole store is not kept.
    pub(super) fn insert(&mut self, key: Key, mut copy: Copy) {
        self.remove(&key);
        let cost = copy.cost(&key);
        if cost > self.bytes_max {
            return;
        }
        self.next_serial += 1;
        copy.serial = self.next_serial;
        self.bytes += cost;
        self.order.push_back((key.clone(), copy.serial));
        self.copies.insert(key, copy);
        self.make_room();
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(copy) = self.copies.remove(key) {
            self.bytes -= copy.cost(key);
        }
    }

    fn make_room(&mut self) {
        // Entries about former copies must not pile up where keys change often.
        let crowded = self.order.len() > 2 * self.copies.len() + 64;
        while self.bytes > self.bytes_max {
            let Some((key, serial)) = self.order.pop_front() else { return };
            match self.copies.get_mut(&key) {
                Some(copy) if copy.serial == serial && copy.touched => {
                    copy.touched = false;
                    self.order.push_back((key, serial));
                }
                Some(copy) if copy.serial == serial => self.remove(&key),
                _ => {}
            }
        }
        if crowded {
            let copies = &self.copies;
            self.order.retain(|(key, serial)| copies.get(key).is_some_and(|copy| copy.serial == *serial));
        }
    }

    #[cfg(test)]
    pub(super) fn order_len(&self) -> usize {
        self.order.len()
    }
}
