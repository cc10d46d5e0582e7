//! Copies that went because their line moves to another home: what to ask that one for again.
//!
//! Copies do not travel, because each lives under a lease of its home. So that the hit rate stays, whoever
//! had one asks the new home, in the background, and is registered there like any reader. A line that was
//! owned is asked for as a shared one: whoever goes on writing it is its owner again soon.

use std::collections::VecDeque;

use super::{Copies, Output};
use crate::cache::message::{Forget, Order};
use crate::cache::{Key, Tag};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

/// At most so many keys are remembered; further ones are left to be read when somebody wants them.
pub const DISPLACED_MAX: usize = 1 << 18;

/// For so long at most: within it, a ring settles or something is badly wrong.
pub const DISPLACED_FOR: Millis = Millis(30_000);

/// Keys that are looked at at once.
const LOOKED_AT: usize = 512;

/// A key that could be read here.
#[derive(Clone, Debug)]
pub struct Displaced {
    /// Which.
    pub key: Key,
    /// Who was its home.
    former: Origin,
    since: Millis,
    /// The ring under which that was still its home, once it was looked at.
    of: Option<u64>,
}

/// What is to be asked for, in the order in which it went.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Displaced>,
    /// Their new home is not known before there is a newer ring than this one.
    waiting: VecDeque<Displaced>,
    ring_epoch: u64,
}

impl Queue {
    fn len(&self) -> usize {
        self.ready.len() + self.waiting.len()
    }

    fn push(&mut self, displaced: Displaced) {
        if self.len() < DISPLACED_MAX {
            self.ready.push_back(displaced);
        }
    }

    /// Those that waited for a newer ring go on if this is one.
    fn look_at_ring(&mut self, ring_epoch: u64) {
        if ring_epoch != self.ring_epoch {
            self.ring_epoch = ring_epoch;
            self.ready.append(&mut self.waiting);
        }
    }
}

impl Copies {
    /// An order says that a line moves, and its copy may be read until it is carried out.
    pub(super) fn displace(&mut self, order: &Order, now: Millis) {
        let (Forget::Copy { key } | Forget::Owned { key, .. }) = &order.what else { return };
        let is_its = self.store.get(key).is_some_and(|copy| copy.home == order.home);
        if is_its && self.is_readable(key, now) {
            self.displaced_from(key.clone(), order.home, now);
        }
    }

    /// What `former`, perhaps this very node, let be read here is to be had from another home soon.
    pub fn displaced_from(&mut self, key: Key, former: Origin, now: Millis) {
        self.stats.displaced += 1;
        self.displaced.push(Displaced { key, former, since: now, of: None });
    }

    /// It could not be read yet: it comes again.
    pub fn still_displaced(&mut self, displaced: Displaced) {
        self.displaced.push(displaced);
    }

    /// How many keys wait to be asked for again.
    #[must_use]
    pub fn displaced(&self) -> usize {
        self.displaced.len()
    }

    /// How many of them may be asked for as soon as [`Self::take_displaced`] is called again.
    #[must_use]
    pub fn displaced_ready(&self) -> usize {
        self.displaced.ready.len()
    }

    /// At most `max` keys that have another home by now, which is not `me`, and cannot be read here yet.
    /// `home_of` speaks of the ring of this epoch. What would have to displace others is left.
    pub fn take_displaced(
        &mut self,
        max: usize,
        ring_epoch: u64,
        me: NodeId,
        home_of: impl Fn(&str) -> Option<Origin>,
        now: Millis,
    ) -> Vec<(Displaced, Origin)> {
        self.displaced.look_at_ring(ring_epoch);
        if !self.store.has_room() {
            self.displaced = Queue::default();
        }
        let is_over = |displaced: &Displaced| now.since(displaced.since) >= DISPLACED_FOR;
        while self.displaced.waiting.front().is_some_and(is_over) {
            self.displaced.waiting.pop_front();
        }
        let mut taken = Vec::new();
        for _ in 0..LOOKED_AT {
            if taken.len() == max {
                break;
            }
            let Some(mut displaced) = self.displaced.ready.pop_front() else { break };
            if is_over(&displaced) || self.is_readable(&displaced.key, now) {
                continue;
            }
            let is_newer = displaced.of.is_some_and(|of| ring_epoch > of);
            match home_of(&displaced.key) {
                Some(home) if home.node == me && home != displaced.former => {}
                Some(home) if home != displaced.former || is_newer => taken.push((displaced, home)),
                _ => {
                    displaced.of.get_or_insert(ring_epoch);
                    self.displaced.waiting.push_back(displaced);
                }
            }
        }
        taken
    }

    /// Reads what was taken for the caller `tag`, to have a shared copy again.
    pub fn reread(&mut self, displaced: &Displaced, home: Origin, tag: Tag, now: Millis) -> Vec<Output> {
        let mut outputs = self.read(&displaced.key, home, tag, now);
        for output in &mut outputs {
            if let Output::Ask { may_own, .. } = output {
                *may_own = false;
            }
        }
        outputs
    }
}
