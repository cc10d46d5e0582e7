//! Lines that this node owns: written here without asking their home, and given back.
//!
//! What was given back is kept until its home has said that it knows, because a recall may be on
//! its way; whoever answers a recall with nothing says that nothing was written.

use super::store::{Copy, Own};
use super::{Copies, Output};
use crate::cache::home::add;
use crate::cache::message::{Answer, Change, Forget, Had, Held, Order, Refusal, Write};
use crate::cache::{Key, Version, lease, space};
use crate::names::{Incarnation, Origin};
use crate::stamp::Millis;

/// How long the answer to a recall is kept. A home repeats a recall while the owner's lease may
/// last, and grants none while it waits: beyond this, nobody can ask.
const RECALLS_KEPT: Millis = Millis(2 * lease::LEASE.0 + lease::OVERDUE.0);

/// A line on its way back to its home.
#[derive(Clone, Debug)]
pub(super) struct Returning {
    home: Origin,
    grant: u64,
    copy: Copy,
}

impl Copies {
    /// This process, under the first name that it was admitted by; later ones change nothing.
    pub fn set_process(&mut self, process: Incarnation) {
        self.process.get_or_insert(process);
    }

    /// Under which name this process may own lines.
    #[must_use]
    pub fn process(&self) -> Option<Incarnation> {
        self.process
    }

    /// Carries a write out here, if this node owns the line and may; `None`: ask the home. A write
    /// with a request id, a guard or a right to fill is the home's to judge.
    pub fn write(&mut self, write: &Write, now: Millis) -> Option<(Answer, Vec<Output>)> {
        let is_homes = write.request_id.is_some() || write.guard.is_some() || write.fill.is_some();
        if is_homes || !self.is_readable(&write.key, now) {
            return None;
        }
        let copy = self.store.get(&write.key)?;
        let own = copy.own.filter(|own| own.left > 0)?;
        let is_live = copy.held.is_some() && copy.left(now) != Some(Millis(0));
        let current = copy.held.as_ref().filter(|_| is_live);
        let version = current.map(|held| held.version);
        let mismatch = (write.if_absent && version.is_some())
            || write.if_version.is_some_and(|wanted| version != Some(wanted));
        if mismatch {
            let refusal = Refusal::VersionMismatch { current: version };
            return Some((Answer::Refused(refusal), Vec::new()));
        }
        let (value, sum) = match &write.change {
            Change::Set(value) => (Some(value.clone()), None),
            Change::Delete if current.is_none() => return Some((Answer::Written(None), Vec::new())),
            Change::Delete => (None, None),
            Change::Add(by) => match add(current.map(|held| &held.value), *by) {
                Ok(sum) => (Some(sum.to_string().into()), Some(sum)),
                Err(refusal) => return Some((Answer::Refused(refusal), Vec::new())),
            },
        };
        let size = value.as_ref().map_or(0, bytes::Bytes::len);
        if !self.store.fits(&write.key, size) {
            return None;
        }
        let home = copy.home;
        let last = Version { counter: own.last.counter + 1, ..own.last };
        let keeps = sum.is_some() && is_live;
        let ttl = write.ttl.or(own.ttl).map(|ttl| now.plus(lease::shortened(ttl)));
        let next = Copy {
            expires: if keeps { copy.expires } else { ttl },
            held: value.map(|value| Held { version: last, value, left: None }),
            own: Some(Own { last, left: own.left - 1, is_written: true, ..own }),
            note: bytes::Bytes::new(),
            touched: true,
            ..copy.clone()
        };
        let squeezed = self.store.insert(write.key.clone(), next);
        let outputs = squeezed.into_iter().filter_map(|(key, copy)| self.give_back(key, copy)).collect();
        let answer = match sum {
            Some(value) => Answer::Counted { version: last, value },
            None => Answer::Written(Some(last)),
        };
        if let Some(lease) = self.leases.get_mut(&home) {
            lease.used = now;
        }
        self.stats.owned_writes += 1;
        Some((answer, outputs))
    }

    /// A home orders to forget something. Done when this returns; the answer is what was there.
    pub fn forget(&mut self, order: &Order, now: Millis) -> Had {
        self.stats.forgotten += 1;
        if order.moves {
            self.displace(order, now);
        }
        match &order.what {
            Forget::Copy { key } => {
                self.refuse_fill(order.home, key);
                self.forget_shared(order.home, key);
                Had::Nothing
            }
            Forget::Owned { key, grant, process, keeps } => {
                if !keeps || self.process != Some(*process) {
                    // Its home knows us as the owner, or a former process of us, and no more as a sharer.
                    self.forget_shared(order.home, key);
                }
                self.disown(order.home, key, *grant, *process, *keeps, now)
            }
            Forget::Namespace { namespace } => {
                let is_of = |key: &Key| space::of(key) == &**namespace;
                let flights = &self.flights;
                let before = self.placeholders.len();
                self.placeholders.retain(|key, id| {
                    !is_of(key) || flights.get(id).is_none_or(|flight| flight.home != order.home)
                });
                self.stats.refused_fills += (before - self.placeholders.len()) as u64;
                let flushed = self.flushed.entry(order.home).or_default();
                *flushed.entry(namespace.clone()).or_default() += 1;
                Had::Nothing
            }
        }
    }

    /// What is on its way from `home` is not kept.
    fn refuse_fill(&mut self, home: Origin, key: &Key) {
        let flight = self.placeholders.get(key).and_then(|id| self.flights.get(id));
        if flight.is_some_and(|flight| flight.home == home) {
            self.placeholders.remove(key);
            self.stats.refused_fills += 1;
        }
    }

    /// An order about a line that another home has granted since, or this one anew, is an old one.
    fn forget_shared(&mut self, home: Origin, key: &Key) {
        if self.store.get(key).is_some_and(|copy| copy.home == home && copy.own.is_none()) {
            self.store.remove(key);
        }
    }

    /// A grant up to this one that is on its way is over. A later one is the answer to whoever waits
    /// behind the recall, perhaps this very node.
    fn refuse_grant(&mut self, home: Origin, key: &Key, grant: u64) {
        let flight = self.placeholders.get(key).and_then(|id| self.flights.get_mut(id));
        if let Some(flight) = flight.filter(|flight| flight.home == home) {
            flight.recalled = flight.recalled.max(grant);
        }
    }

    /// Ends the ownership of a line; it `keeps` a shared copy if it had the line. The answer to a
    /// repeated order is the same.
    fn disown(
        &mut self,
        home: Origin,
        key: &Key,
        grant: u64,
        process: Incarnation,
        keeps: bool,
        now: Millis,
    ) -> Had {
        self.refuse_grant(home, key, grant);
        if self.process != Some(process) {
            return Had::Lost;
        }
        let is_it = |copy: &Copy| copy.home == home && copy.own.is_some_and(|own| own.grant == grant);
        if self.store.get(key).is_some_and(is_it)
            && let Some(copy) = if keeps { self.store.share(key) } else { self.store.remove(key) }
            && copy.own.is_some_and(|own| own.is_written)
        {
            self.recalls.push_back((now, key.clone(), grant));
            self.recalled.insert(key.clone(), Returning { home, grant, copy });
        }
        let of_it = |kept: &&Returning| kept.home == home && kept.grant == grant;
        let kept = self.recalled.get(key).filter(of_it).or(self.returning.get(key).filter(of_it));
        kept.and_then(|kept| kept.copy.written(now)).map_or(Had::Nothing, Had::Written)
    }

    pub(super) fn forget_old_recalls(&mut self, now: Millis) {
        while let Some((at, key, grant)) = self.recalls.front()
            && now.since(*at) >= RECALLS_KEPT
        {
            if self.recalled.get(key).is_some_and(|kept| kept.grant == *grant) {
                self.recalled.remove(key);
            }
            self.recalls.pop_front();
        }
    }

    /// An owned line leaves the store.
    pub(super) fn give_back(&mut self, key: Key, copy: Copy) -> Option<Output> {
        let grant = copy.own?.grant;
        let home = copy.home;
        self.returning.insert(key.clone(), Returning { home, grant, copy });
        Some(Output::Return { home, key, grant })
    }

    /// Gives every owned line back, of one home or of all.
    pub fn give_all_back(&mut self, home: Option<Origin>) -> Vec<Output> {
        let keys = self.store.owned(home);
        let gone: Vec<_> =
            keys.into_iter().filter_map(|key| self.store.remove(&key).map(|copy| (key, copy))).collect();
        gone.into_iter().filter_map(|(key, copy)| self.give_back(key, copy)).collect()
    }

    /// What to give back, for as long as it is not yet known that the home knows.
    #[must_use]
    pub fn returning(&self, key: &str, grant: u64, now: Millis) -> Option<Option<Held>> {
        let returning = self.returning.get(key).filter(|returning| returning.grant == grant)?;
        Some(returning.copy.written(now))
    }

    /// The home knows, or is no more.
    pub fn returned(&mut self, key: &str, grant: u64) {
        if self.returning.get(key).is_some_and(|returning| returning.grant == grant) {
            self.returning.remove(key);
        }
    }

    /// Whether every line that was owned here is its home's again.
    #[must_use]
    pub fn owns_nothing(&self) -> bool {
        self.returning.is_empty() && self.store.owned(None).is_empty()
    }

    /// What was written under `grant` and is still here, readable or not.
    #[cfg(test)]
    pub(crate) fn written(&self, key: &str, grant: u64, now: Millis) -> Option<Held> {
        let is_it = |copy: &&Copy| copy.own.is_some_and(|own| own.grant == grant);
        let returning = self.returning.get(key).map(|returning| &returning.copy);
        self.store.get(key).filter(is_it).or(returning.filter(is_it)).and_then(|copy| copy.written(now))
    }
}
