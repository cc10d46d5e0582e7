//! Keys: the messages of one, in push order, of which one at a time may be delivered.
//!
//! A key's name is stored once, and its messages refer to it by a number. Messages without a key
//! have a group as well, one for each queue, but it orders nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chunks::Ids;
use super::slab::Slab;
use crate::names::MessageKey;

/// One key of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) queue: u32,
    pub(super) key: Option<MessageKey>,
    /// The first that waits; 0 for none. Most keys have no more than that.
    head: u64,
    rest: Option<Box<Ids>>,
    /// What stands in the queue's ready set for this key; 0 for nothing.
    pub(super) offered: u64,
    /// One is in flight.
    pub(super) busy: bool,
    /// Stopped behind a dead letter.
    pub(super) parked: bool,
}

impl Group {
    pub(super) fn first(&self) -> u64 {
        self.head
    }

    pub(super) fn insert(&mut self, id: u64) {
        let later = match self.head {
            0 => {
                self.head = id;
                return;
            }
            head if id < head => std::mem::replace(&mut self.head, id),
            _ => id,
        };
        self.rest.get_or_insert_default().insert(later, ());
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(rest) = &mut self.rest else {
            if self.head == id {
                self.head = 0;
            }
            return;
        };
        if self.head == id {
            self.head = rest.first().unwrap_or(0);
        } else if rest.remove(id).is_none() {
            return;
        }
        rest.remove(self.head);
        if rest.is_empty() {
            self.rest = None;
        }
    }

    /// What waits, in order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> {
        let head = (self.head != 0).then_some(self.head);
        head.into_iter().chain(self.rest.iter().flat_map(|rest| rest.after(0).map(|(id, ())| id)))
    }

    fn is_done(&self) -> bool {
        self.head == 0 && !self.busy && !self.parked
    }
}

/// Every key of every queue in the shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    slab: Slab<Group>,
    #[serde(skip)]
    index: BTreeMap<(u32, Option<MessageKey>), u32>,
}

impl Groups {
    pub(super) fn get(&self, at: u32) -> Option<&Group> {
        self.slab.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Group> {
        self.slab.get_mut(at)
    }

    pub(super) fn find(&self, queue: u32, key: Option<&MessageKey>) -> Option<u32> {
        self.index.get(&(queue, key.cloned())).copied()
    }

    pub(super) fn find_or_insert(&mut self, queue: u32, key: Option<&MessageKey>) -> u32 {
        if let Some(at) = self.find(queue, key) {
            return at;
        }
        let group =
            Group { queue, key: key.cloned(), head: 0, rest: None, offered: 0, busy: false, parked: false };
        let at = self.slab.insert(group);
        self.index.insert((queue, key.cloned()), at);
        at
    }

    /// Forgets a key of which nothing is left. Says whether it did.
    pub(super) fn forget_if_done(&mut self, at: u32) {
        if self.get(at).is_some_and(|group| group.key.is_some() && group.is_done()) {
            self.forget(at);
        }
    }

    pub(super) fn forget(&mut self, at: u32) {
        if let Some(group) = self.slab.remove(at) {
            self.index.remove(&(group.queue, group.key));
        }
    }

    /// The groups of one queue; that without a key comes first.
    pub(super) fn of(&self, queue: u32) -> impl Iterator<Item = (u32, &Group)> {
        let range = self.index.range((queue, None)..).take_while(move |((of, _), _)| *of == queue);
        range.filter_map(|(_, at)| Some((*at, self.get(*at)?)))
    }

    /// Finds every key by its name again: names are written down once.
    pub(super) fn reindex(&mut self) {
        let entry = |(at, group): (u32, &Group)| ((group.queue, group.key.clone()), at);
        self.index = self.slab.iter().map(entry).collect();
    }
}
