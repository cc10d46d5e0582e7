//! One node's copies of other homes' lines, and its reads that are under way.
//!
//! A copy may be read while the lease of its home lasts by this node's clock. A read that misses
//! leaves a placeholder; the home's answer is kept only if the placeholder is still there, because
//! an order to forget that came first has removed it. It never asks who is home now: an old home's
//! copies stay good until it says otherwise or its lease ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::message::{CopyView, Held, Value};
use super::{Key, Tag, Version, lease, space};
use crate::names::{Incarnation, Origin};
use crate::stamp::Millis;

pub mod displaced;
mod owned;
mod store;
#[cfg(test)]
mod tests;

use owned::Returning;
use store::{Copy, Own, Store};

/// A home's lease is renewed while one of its copies was read within this time.
pub const IDLE: Millis = Millis(10_000);

/// A renewal unanswered for this long is asked for again.
const RENEWAL_TIMEOUT: Millis = Millis(500);

/// How many copies are looked at for one that can be compared.
const SAMPLED: usize = 16;

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
        /// Whether the line itself would be welcome.
        may_own: bool,
    },
    /// Give an owned line back, as [`Copies::returning`] says, and repeat while it says anything;
    /// then call [`Copies::returned`].
    Return {
        /// To whom.
        home: Origin,
        /// Which.
        key: Key,
        /// The number under which it was owned.
        grant: u64,
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

/// A copy that may be read now.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The value; `None`: a known absence. Its `left` is the one to ignore.
    pub held: Option<&'a Held>,
    /// What is left of its time to live.
    pub left: Option<Millis>,
    /// Its coherence state: `S`, `E` or `M`.
    pub state: char,
    /// What [`Copies::annotate`] attached to it.
    pub note: &'a Bytes,
}

/// Counters of what happened to copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Orders to forget that were carried out.
    pub forgotten: u64,
    /// Answers that were not kept because an order to forget came first.
    pub refused_fills: u64,
    /// Writes of owned lines, settled here.
    pub owned_writes: u64,
    /// Copies dropped to make room.
    pub evictions: u64,
    /// Leases of homes that ended.
    pub lapsed_leases: u64,
    /// Copies that went because their line moved.
    pub displaced: u64,
}

/// The copies that one node holds.
#[derive(Clone, Debug)]
pub struct Copies {
    store: Store,
    leases: BTreeMap<Origin, Lease>,
    flights: BTreeMap<FlightId, Flight>,
    /// The flight whose answer may be kept, for each key.
    placeholders: BTreeMap<Key, FlightId>,
    /// How often each home has flushed a namespace: copies from before are dead.
    flushed: Flushed,
    returning: BTreeMap<Key, Returning>,
    /// What recalls were answered with: an answer may be lost, and the order comes again.
    recalled: BTreeMap<Key, Returning>,
    recalls: VecDeque<(Millis, Key, u64)>,
    displaced: displaced::Queue,
    process: Option<Incarnation>,
    next_flight: FlightId,
    next_period: u64,
    stats: Stats,
}

/// How often each home has flushed each namespace.
type Flushed = BTreeMap<Origin, BTreeMap<Arc<str>, u64>>;

/// What lets this node read copies of one home.
#[derive(Clone, Copy, Debug)]
struct Lease {
    until: Millis,
    /// Counts unbroken stretches of the lease. A copy from an earlier stretch is dead: the home may
    /// have stopped to wait for us in between.
    period: u64,
    used: Millis,
    /// When a near client last used it.
    lent: Option<Millis>,
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
    /// The last grant of this line that was recalled since: an answer from before it is old.
    recalled: u64,
}

impl Flight {
    fn is_recalled(&self, value: &Value) -> bool {
        self.recalled > 0 && value.grant.is_none_or(|grant| grant.number <= self.recalled)
    }
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
            flushed: BTreeMap::new(),
            returning: BTreeMap::new(),
            recalled: BTreeMap::new(),
            recalls: VecDeque::new(),
            displaced: displaced::Queue::default(),
            process: None,
            next_flight: 0,
            next_period: 0,
            stats: Stats::default(),
        }
    }

    /// The copy of `key`, if it may be read now.
    pub fn look(&mut self, key: &str, now: Millis) -> Option<Seen<'_>> {
        let copy = self.store.get_mut(key)?;
        let lease = self.leases.get_mut(&copy.home)?;
        let left = copy.left(now);
        let is_over = copy.period != lease.period || now >= lease.until || left == Some(Millis(0));
        if is_over || copy.generation != generation(&self.flushed, copy.home, key) {
            return None;
        }
        lease.used = now;
        copy.touched = true;
        Some(Seen { held: copy.held.as_ref(), left, state: copy.state(), note: &copy.note })
    }

    /// Like [`Self::look`]: the value, or `Some(None)` for a known absence.
    pub fn lookup(&mut self, key: &str, now: Millis) -> Option<Option<Held>> {
        let seen = self.look(key, now)?;
        Some(seen.held.map(|held| Held { left: seen.left, ..held.clone() }))
    }

    /// The shared copy of `key` for a near client, if it may be read now: the value, whose line it is,
    /// and what this node has left of the lease. An owned line is lent to nobody: it is written here
    /// without a word to anybody.
    pub fn lend(&mut self, key: &str, now: Millis) -> Option<(Option<Held>, Origin, Millis)> {
        let held = self.lookup(key, now)?;
        let home = self.store.get(key).filter(|copy| copy.own.is_none())?.home;
        Some((held, home, self.lend_on(home, now)?))
    }

    /// What is left of the lease of `home`, which near clients go on using.
    pub fn lend_on(&mut self, home: Origin, now: Millis) -> Option<Millis> {
        let lease = self.leases.get_mut(&home).filter(|lease| now < lease.until)?;
        (lease.used, lease.lent) = (now, Some(now));
        Some(lease.until.since(now))
    }

    /// Attaches something to the copy of `key`, if it still has this version and state: it is
    /// counted, and gone with either.
    pub fn annotate(&mut self, key: &str, version: Version, state: char, note: Bytes) -> Vec<Output> {
        let squeezed = self.store.annotate(key, version, state, note);
        squeezed.into_iter().filter_map(|(key, copy)| self.give_back(key, copy)).collect()
    }

    /// The copy of `key`, seen from outside, if it may be read now.
    #[must_use]
    pub fn inspect(&self, key: &str, now: Millis) -> Option<CopyView> {
        let copy = self.store.get(key).filter(|_| self.is_readable(key, now))?;
        let lease = self.leases.get(&copy.home)?.until.since(now);
        Some(CopyView { state: copy.state(), version: copy.held.as_ref().map(|held| held.version), lease })
    }

    /// Whether the lease under which the copy of `key` was taken still lasts, unbroken.
    fn is_readable(&self, key: &str, now: Millis) -> bool {
        let Some(copy) = self.store.get(key) else { return false };
        let lease = self.leases.get(&copy.home);
        lease.is_some_and(|lease| copy.period == lease.period && now < lease.until)
            && copy.generation == generation(&self.flushed, copy.home, key)
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
        self.flights.insert(flight, Flight { key: key.clone(), home, sent: now, first, late, recalled: 0 });
        Output::Ask { flight, home, key, may_own: true }
    }

    /// The home answered. Keeps the value if that is still allowed, and tells the readers.
    pub fn landed(&mut self, id: FlightId, value: Value, now: Millis) -> Vec<Output> {
        let Some(flight) = self.flights.remove(&id) else { return Vec::new() };
        let in_place = self.clear_placeholder(&flight.key, id);
        let until = value.lease.map(|span| lease::held_until(flight.sent, span));
        let is_leased = until.is_some_and(|until| now < until);
        let mut outputs: Vec<Output> = answers(&flight.first, &Ok(value.held.clone())).collect();
        if let Some(until) = until
            && is_leased
        {
            let period = self.extend(flight.home, until, now);
            if in_place && flight.is_recalled(&value) {
                self.stats.refused_fills += 1;
            } else if in_place {
                outputs.extend(self.keep(&flight, &value, period));
            }
        }
        if is_leased && !flight.is_recalled(&value) {
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

    fn keep(&mut self, flight: &Flight, value: &Value, period: u64) -> Vec<Output> {
        let left = value.held.as_ref().and_then(|held| held.left);
        let copy = Copy {
            home: flight.home,
            period,
            generation: generation(&self.flushed, flight.home, &flight.key),
            held: value.held.clone(),
            expires: left.map(|left| lease::held_until(flight.sent, left)),
            own: value.grant.map(Own::new),
            note: Bytes::new(),
            touched: false,
            serial: 0,
        };
        let squeezed = self.store.insert(flight.key.clone(), copy);
        squeezed.into_iter().filter_map(|(key, copy)| self.give_back(key, copy)).collect()
    }

    /// A home grants or renews until `until`; returns the stretch that this belongs to.
    fn extend(&mut self, home: Origin, until: Millis, now: Millis) -> u64 {
        let lease = self.leases.entry(home).or_insert(Lease {
            until: Millis(0),
            period: 0,
            used: now,
            lent: None,
            renewing_since: None,
        });
        if now >= lease.until {
            self.next_period += 1;
            lease.period = self.next_period;
        }
        lease.until = lease.until.max(until);
        lease.period
    }

    /// Homes whose lease is worth renewing now; each is asked once until it answers or is given up.
    /// Call it again within half a lease. What is owned of the others goes back.
    pub fn renewals(&mut self, now: Millis) -> (Vec<Origin>, Vec<Output>) {
        self.renewals_unless_idle(IDLE, now)
    }

    /// Like [`Self::renewals`], of leases that were used within `idle`.
    pub(super) fn renewals_unless_idle(&mut self, idle: Millis, now: Millis) -> (Vec<Origin>, Vec<Output>) {
        self.forget_old_recalls(now);
        let before = self.leases.len();
        self.leases.retain(|_, lease| now < lease.until);
        self.stats.lapsed_leases += (before - self.leases.len()) as u64;
        let leases = &self.leases;
        self.flushed.retain(|home, _| leases.contains_key(home));
        let (mut due, mut unused) = (Vec::new(), Vec::new());
        for (home, lease) in &mut self.leases {
            // Near clients get a part of what is left: it must not become too little.
            let is_lent = lease.lent.is_some_and(|lent| now.since(lent) < lease::LEASE);
            let enough = if is_lent { lease::LEASE.0 / 4 * 3 } else { lease::LEASE.0 / 2 };
            let is_low = lease.until.since(now) < Millis(enough);
            let is_used = now.since(lease.used) < idle;
            let is_asked = lease.renewing_since.is_some_and(|since| now.since(since) < RENEWAL_TIMEOUT);
            if !is_used && self.store.owns(*home) {
                unused.push(*home);
            }
            if is_low && is_used && !is_asked {
                lease.renewing_since = Some(now);
                due.push(*home);
            }
        }
        let outputs = unused.into_iter().flat_map(|home| self.give_all_back(Some(home))).collect();
        (due, outputs)
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

    /// A home did not renew its lease, for now.
    pub fn not_renewed(&mut self, home: Origin) {
        if let Some(lease) = self.leases.get_mut(&home) {
            lease.renewing_since = None;
        }
    }

    /// A shared copy to be compared with its home's line, behind the key `after`: its version, and a
    /// number that [`Self::is_still`] knows it by.
    #[must_use]
    pub fn sample(&self, after: Option<&str>, now: Millis) -> Option<(Key, Version, u64)> {
        let readable = |key: &Key, copy: &Copy| {
            let version = copy.held.as_ref().map(|held| held.version)?;
            let is_plain = copy.own.is_none() && copy.expires.is_none() && self.is_readable(key, now);
            is_plain.then(|| (key.clone(), version, copy.serial))
        };
        self.store.after(after).take(SAMPLED).find_map(|(key, copy)| readable(key, copy))
    }

    /// Whether the copy of `key` is the one that was sampled, and may be read still.
    #[must_use]
    pub fn is_still(&self, key: &str, serial: u64, now: Millis) -> bool {
        self.store.get(key).is_some_and(|copy| copy.serial == serial) && self.is_readable(key, now)
    }

    /// Bytes of all copies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// How many copies there are, readable or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there is no copy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    /// Whose line the copy of `key` is of, readable or not.
    #[cfg(test)]
    pub(crate) fn home_of(&self, key: &str) -> Option<Origin> {
        self.store.get(key).map(|copy| copy.home)
    }

    /// Whether everything is forgotten that has ended, and given back that was not used within `idle`.
    #[cfg(test)]
    pub(crate) fn is_tidy(&self, idle: Millis, now: Millis) -> bool {
        let is_used = |home: &Origin, lease: &Lease| now.since(lease.used) < idle || !self.store.owns(*home);
        self.leases.iter().all(|(home, lease)| now < lease.until && is_used(home, lease))
            && self.flushed.keys().all(|home| self.leases.contains_key(home))
    }

    /// Without what decides nothing.
    #[cfg(test)]
    pub(crate) fn uncounted(&self) -> Self {
        Self { stats: Stats::default(), displaced: displaced::Queue::default(), ..self.clone() }
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { evictions: self.store.evictions(), ..self.stats.clone() }
    }
}

fn answers(tags: &[Tag], value: &Result<Option<Held>, AskAgain>) -> impl Iterator<Item = Output> {
    tags.iter().map(|tag| Output::Answer { tag: *tag, value: value.clone() })
}

fn generation(flushed: &Flushed, home: Origin, key: &str) -> u64 {
    let of_home = if flushed.is_empty() { None } else { flushed.get(&home) };
    of_home.and_then(|of| of.get(space::of(key))).copied().unwrap_or(0)
}
