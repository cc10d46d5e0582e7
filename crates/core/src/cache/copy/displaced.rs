//! Copies that went because their line moves to another home: what to ask that one for again.
//!
//! Copies do not travel, because each lives under a lease of its home. So that the hit rate stays, whoever
//! had one asks the new home, in the background, and is registered there like any reader.

use std::collections::VecDeque;

use super::Copies;
use crate::cache::Key;
use crate::cache::message::{Forget, Order};
use crate::names::Origin;
use crate::stamp::Millis;

/// At most so many keys are remembered; the oldest are left to be read when somebody wants them.
pub const DISPLACED_MAX: usize = 1 << 18;

/// For so long at most: within it, a ring settles or something is badly wrong.
pub const DISPLACED_FOR: Millis = Millis(30_000);

/// A key that could be read here.
#[derive(Clone, Debug)]
pub struct Displaced {
    /// Which.
    pub key: Key,
    /// Who was its home.
    pub former: Origin,
    since: Millis,
}

/// In the order in which they went.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(VecDeque<Displaced>);

impl Queue {
    fn push(&mut self, displaced: Displaced) {
        if self.0.len() >= DISPLACED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(displaced);
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
        self.displaced.push(Displaced { key, former, since: now });
    }

    /// It could not be read yet: it comes again.
    pub fn still_displaced(&mut self, displaced: Displaced) {
        self.displaced.push(displaced);
    }

    /// How many keys wait to be asked for again.
    #[must_use]
    pub fn displaced(&self) -> usize {
        self.displaced.0.len()
    }

    /// At most `max` keys that have another home by now, as `home_of` says, and cannot be read here
    /// yet. The others wait on.
    pub fn take_displaced(
        &mut self,
        max: usize,
        home_of: impl Fn(&str) -> Option<Origin>,
        now: Millis,
    ) -> Vec<(Displaced, Origin)> {
        let mut taken = Vec::new();
        let mut waiting = VecDeque::new();
        while taken.len() < max
            && let Some(displaced) = self.displaced.0.pop_front()
        {
            if now.since(displaced.since) >= DISPLACED_FOR || self.is_readable(&displaced.key, now) {
                continue;
            }
            match home_of(&displaced.key) {
                Some(home) if home != displaced.former => taken.push((displaced, home)),
                _ => waiting.push_back(displaced),
            }
        }
        self.displaced.0.append(&mut waiting);
        taken
    }
}
