//! One node's copies of other homes' lines, and its reads that are under way.
//!
//! A copy may be read while the lease of its home lasts by this node's clock. A read that misses
//! leaves a placeholder; the home's answer is kept only if the placeholder is still there, because
//! an invalidation that came first has removed it. It never asks who is home now: an old home's
//! copies stay good until it says otherwise or its lease ends.

use std::collections::BTreeMap;

use super::lease;
use super::message::{Held, Value};
use super::{Key, Tag};
use crate::names::Origin;
use crate::stamp::Millis;

mod store;
#[cfg(test)]
mod tests;

use store::{Copy, Store};

/// A home's lease is renewed while one of its copies was read within this time.
pub const IDLE: Millis = Millis(10_000);

/// A renewal unanswered for this long is asked for again.
const RENEWAL_TIMEOUT: Millis = Millis(500);

/// One request to a home, and what it is called in the answer.
pub type FlightId = u64;

/// What the driver has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read at the home, then call [`Copies::landed`] or [`Copies::failed`].
    Ask {
        /// Name it so in the answer.
        flight: FlightId,
        /// Whom.
        home: Origin,
        /// What.
        key: Key,
    },
    /// Tell the waiting reader; `Err`: ask again, perhaps another home.
    Answer {
        /// Which.
        tag: Tag,
        /// The committed value at some instant since the reader came, if there was one.
        value: Result<Option<Held>, AskAgain>,
    },
}

/// The home could not be asked or refused: look at the ring again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskAgain;

/// The copies that one node holds.
#[derive(Clone, Debug)]
pub struct Copies {
    store: Store,
    leases: BTreeMap<Origin, Lease>,
    flights: BTreeMap<FlightId, Flight>,
    /// The flight whose answer may be kept, for each key.
    placeholders: BTreeMap<Key, FlightId>,
    next_flight: FlightId,
    next_period: u64,
}

/// What lets this node read copies of one home.
#[derive(Clone, Copy, Debug)]
struct Lease {
    until: Millis,
    /// Counts unbroken stretches of the lease. A copy from an earlier stretch is dead: the home may
    /// have stopped to wait for us in between.
    period: u64,
    used: Millis,
    renewing_since: Option<Millis>,
}

#[derive(Clone, Debug)]
struct Flight {
    key: Key,
    home: Origin,
    sent: Millis,
    /// Came before it was sent: whatever the home answers was true since.
    first: Vec<Tag>,
    /// Came later: they may have an answer only if we could have kept it.
    late: Vec<Tag>,
}

impl Copies {
    /// No copies yet, and never more than `bytes_max` of them.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            store: Store::new(bytes_max),
            leases: BTreeMap::new(),
            flights: BTreeMap::new(),
            placeholders: BTreeMap::new(),
            next_flight: 0,
            next_period: 0,
        }
    }

    /// The copy of `key`, if it may be read now: the value, or `Some(None)` for a known absence.
    pub fn lookup(&mut self, key: &str, now: Millis) -> Option<Option<Held>> {
        let copy = self.store.get_mut(key)?;
        let lease = self.leases.get_mut(&copy.home)?;
        if copy.period != lease.period || now >= lease.until {
            return None;
        }
        let left = copy.expires.map(|end| end.since(now));
        if left == Some(Millis(0)) {
            return None;
        }
        lease.used = now;
        copy.touched = true;
        Some(copy.held.clone().map(|held| Held { left, ..held }))
    }

    /// Reads `key` for the caller `tag`: joins a read that is under way, or asks `home`.
    pub fn read(&mut self, key: &Key, home: Origin, tag: Tag, now: Millis) -> Vec<Output> {
        let flight = self.placeholders.get(key).and_then(|id| self.flights.get_mut(id));
        match flight.filter(|flight| flight.home == home) {
            Some(flight) => {
                flight.late.push(tag);
                Vec::new()
            }
            None => vec![self.take_off(key.clone(), home, vec![tag], now)],
        }
    }

    fn take_off(&mut self, key: Key, home: Origin, first: Vec<Tag>, now: Millis) -> Output {
        self.next_flight += 1;
        let flight = self.next_flight;
        self.placeholders.insert(key.clone(), flight);
        let late = Vec::new();
        self.flights.insert(flight, Flight { key: key.clone(), home, sent: now, first, late });
        Output::Ask { flight, home, key }
    }

    /// The home answered. Keeps the value if that is still allowed, and tells the readers.
    pub fn landed(&mut self, id: FlightId, value: Value, now: Millis) -> Vec<Output> {
        let Some(flight) = self.flights.remove(&id) else { return Vec::new() };
        let in_place = self.clear_placeholder(&flight.key, id);
        let until = value.lease.map(|span| lease::held_until(flight.sent, span));
        let is_leased = until.is_some_and(|until| now < until);
        if let Some(until) = until
            && is_leased
        {
            let period = self.extend(flight.home, until, now);
            if in_place {
                self.keep(&flight, value.held.clone(), period);
            }
        }
        let mut outputs: Vec<Output> = answers(&flight.first, &Ok(value.held.clone())).collect();
        if is_leased {
            // The home waits for us before it commits another value, so this one was committed
            // when they came: they came while the placeholder stood.
            outputs.extend(answers(&flight.late, &Ok(value.held)));
        } else if !flight.late.is_empty() {
            // They may have come after a newer value was committed: ask for them anew.
            outputs.push(self.take_off(flight.key, flight.home, flight.late, now));
        }
        outputs
    }

    /// The home could not be reached or refused.
    pub fn failed(&mut self, id: FlightId) -> Vec<Output> {
        let Some(flight) = self.flights.remove(&id) else { return Vec::new() };
        self.clear_placeholder(&flight.key, id);
        answers(&flight.first, &Err(AskAgain)).chain(answers(&flight.late, &Err(AskAgain))).collect()
    }

    fn clear_placeholder(&mut self, key: &Key, id: FlightId) -> bool {
        let in_place = self.placeholders.get(key) == Some(&id);
        if in_place {
            self.placeholders.remove(key);
        }
        in_place
    }

    fn keep(&mut self, flight: &Flight, held: Option<Held>, period: u64) {
        let left = held.as_ref().and_then(|held| held.left);
        let expires = left.map(|left| lease::held_until(flight.sent, left));
        self.store.insert(flight.key.clone(), Copy::new(flight.home, period, held, expires));
    }

    /// A home grants or renews until `until`; returns the stretch that this belongs to.
    fn extend(&mut self, home: Origin, until: Millis, now: Millis) -> u64 {
        let lease = self.leases.entry(home).or_insert(Lease {
            until: Millis(0),
            period: 0,
            used: now,
            renewing_since: None,
        });
        if now >= lease.until {
            self.next_period += 1;
            lease.period = self.next_period;
        }
        lease.until = lease.until.max(until);
        lease.period
    }

    /// A home orders to forget `key`. Also removes a placeholder, so that a value which is on its
    /// way is not kept. Done when this returns.
    pub fn invalidate(&mut self, key: &str) {
        self.store.remove(key);
        self.placeholders.remove(key);
    }

    /// Homes whose lease is worth renewing now; each is asked once until it answers or is given up.
    /// Call it again within half a lease.
    pub fn renewals(&mut self, now: Millis) -> Vec<Origin> {
        self.leases.retain(|_, lease| now < lease.until);
        let mut due = Vec::new();
        for (home, lease) in &mut self.leases {
            let is_half_over = lease.until.since(now) < Millis(lease::LEASE.0 / 2);
            let is_used = now.since(lease.used) < IDLE;
            let is_asked = lease.renewing_since.is_some_and(|since| now.since(since) < RENEWAL_TIMEOUT);
            if is_half_over && is_used && !is_asked {
                lease.renewing_since = Some(now);
                due.push(*home);
            }
        }
        due
    }

    /// A home renewed its lease by `span`, asked for at `sent`. One that had ended meanwhile stays
    /// ended: its copies are dead.
    pub fn renewed(&mut self, home: Origin, sent: Millis, span: Millis, now: Millis) {
        let until = lease::held_until(sent, span);
        if let Some(lease) = self.leases.get_mut(&home)
            && now < lease.until
        {
            lease.until = lease.until.max(until);
            lease.renewing_since = None;
        }
    }

    /// Bytes of all copies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }
}

fn answers(tags: &[Tag], value: &Result<Option<Held>, AskAgain>) -> impl Iterator<Item = Output> {
    tags.iter().map(|tag| Output::Answer { tag: *tag, value: value.clone() })
}
