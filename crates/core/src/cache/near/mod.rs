//! Copies in the processes of a node's clients: who may hold what, and which orders wait for them.
//!
//! A near client may read what its node let it keep while its lease lasts. Before the node answers an
//! order to forget, every client that may hold the copy has said that it is gone, or its lease has
//! run out. The lease is at most a quarter of what the node itself has from that home, so the node
//! answers well inside its own, however slow a client is (`hard-cases.md` 31). What a client has to
//! forget is numbered; it acknowledges with the last number that it has carried out, and is told
//! everything again behind that. It knows no values, and sends nothing itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::message::{Forget, Order};
use super::{Key, Tag, lease, space};
use crate::names::Origin;
use crate::stamp::Millis;

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;

/// The longest lease of a near client.
pub const LEASE: Millis = Millis(lease::LEASE.0 / PART);

/// A client gets at most one part in this many of what its node has.
const PART: u64 = 4;

/// A lease shorter than this is not worth granting.
pub const SHORTEST: Millis = Millis(20);

/// A client that has not acknowledged for so long gets no further lease.
pub const OVERDUE: Millis = Millis(100);

/// A client of which nothing was heard for so long, its leases long over, is forgotten.
pub const GONE: Millis = Millis(10_000);

/// What a client has not acknowledged beyond this many numbers becomes one: forget everything.
pub const UNTOLD_MAX: usize = 4_096;

/// One near client of this node.
pub type ClientId = u64;

/// How much near clients may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at once.
    pub clients_max: usize,
    /// Keys that one client may hold; beyond it, it is told to forget what it has held longest.
    pub keys_max: usize,
    /// Keys that all clients together may hold; beyond it nothing more may be kept.
    pub keys_max_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients_max: 256, keys_max: 50_000, keys_max_total: 500_000 }
    }
}

/// Why a client got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many clients as there may be.
    TooManyClients,
    /// No such client, or no longer: it opens anew, and holds nothing.
    Unknown,
}

/// What the driver has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// There is something to tell this client.
    Wake(ClientId),
    /// No client can read what this order named any more: it may be answered.
    Forgotten(Tag),
}

/// Something for a client to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Goes up by one with every note to this client.
    pub seq: u64,
    /// What.
    pub subject: Subject,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One key.
    Key(Key),
    /// Every key of a namespace.
    Namespace(Arc<str>),
    /// Everything: the client was too slow to be told what exactly.
    Everything,
}

/// Counters of what happened to near clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What clients were told to forget.
    pub invalidations: u64,
    /// Waits that ended with a client's lease instead of its word.
    pub lease_expiries: u64,
    /// Clients that had to forget everything, because they were too slow.
    pub resets: u64,
}

/// Every near client of one node.
#[derive(Clone, Debug)]
pub struct Near {
    limits: Limits,
    clients: BTreeMap<ClientId, Client>,
    holders: BTreeMap<Key, BTreeMap<ClientId, Held>>,
    held: usize,
    /// How much each order still waits for.
    waits: BTreeMap<Tag, usize>,
    /// Clients of this node's former process may read until then.
    quiet_until: Millis,
    quiet: Vec<Tag>,
    stats: Stats,
}

#[derive(Clone, Debug, Default)]
struct Client {
    heard: Millis,
    /// From then on it reads no copy of this home's lines, as this node counts.
    owed: BTreeMap<Origin, Millis>,
    /// The number of the last note.
    last: u64,
    /// Not acknowledged, with the time when they came up.
    notes: VecDeque<(Note, Millis)>,
    /// Orders that wait for the acknowledgement of a number.
    awaited: BTreeMap<u64, Vec<(Tag, Origin)>>,
    /// What it may hold, longest held first. Entries whose number is another are about former copies.
    order: VecDeque<(Key, u64)>,
    keys: BTreeMap<Key, u64>,
    next_age: u64,
}

/// A key that a client may hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    home: Origin,
    /// The last note to the client when it was given the copy: later ones are about it.
    since: u64,
    /// The last note about it; 0 if there is none since.
    told: u64,
}

impl Near {
    /// No clients yet. Clients of a former process of this node may hold copies until their leases
    /// have run out, counted from `now`: orders are not answered before.
    #[must_use]
    pub fn new(limits: Limits, now: Millis) -> Self {
        Self {
            limits,
            clients: BTreeMap::new(),
            holders: BTreeMap::new(),
            held: 0,
            waits: BTreeMap::new(),
            quiet_until: lease::owed_until(now, LEASE),
            quiet: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// A client comes, under a name that was never used before.
    pub fn open(&mut self, id: ClientId, now: Millis) -> Result<(), Refusal> {
        if self.clients.len() >= self.limits.clients_max {
            return Err(Refusal::TooManyClients);
        }
        self.clients.insert(id, Client { heard: now, ..Client::default() });
        Ok(())
    }

    /// A client says that it holds nothing any more.
    pub fn close(&mut self, id: ClientId) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(client) = self.clients.remove(&id) else { return outputs };
        for key in client.keys.into_keys() {
            self.unregister(&key, id);
        }
        for (tag, _) in client.awaited.into_values().flatten() {
            settle(&mut self.waits, tag, &mut outputs);
        }
        outputs
    }

    /// Lets a client keep a copy of a line of `home`, from which this node has a lease for `left`.
    /// Registered before this returns; whoever asks reads the value in the same step. `None`: the
    /// client may use the value once, and not keep it.
    pub fn keep(
        &mut self,
        id: ClientId,
        key: &Key,
        home: Origin,
        left: Millis,
        now: Millis,
    ) -> Result<Option<Millis>, Refusal> {
        let client = self.clients.get_mut(&id).ok_or(Refusal::Unknown)?;
        client.heard = now;
        let is_new = !client.keys.contains_key(key);
        if is_new && self.held >= self.limits.keys_max_total {
            return Ok(None);
        }
        let Some(span) = client.grant(home, left, now) else { return Ok(None) };
        client.next_age += 1;
        let age = client.next_age;
        client.keys.insert(key.clone(), age);
        client.order.push_back((key.clone(), age));
        self.held += usize::from(is_new);
        let held = Held { home, since: client.last, told: 0 };
        self.holders.entry(key.clone()).or_default().insert(id, held);
        self.bound(id, now);
        Ok(Some(span))
    }

    /// A client has carried out everything up to this number.
    pub fn acknowledged(&mut self, id: ClientId, seq: u64, now: Millis) -> Result<Vec<Output>, Refusal> {
        let client = self.clients.get_mut(&id).ok_or(Refusal::Unknown)?;
        client.heard = now;
        // A number that was never given out says nothing.
        let seq = seq.min(client.last);
        let mut done = Vec::new();
        while client.notes.front().is_some_and(|(note, _)| note.seq <= seq) {
            done.extend(client.notes.pop_front().map(|(note, _)| note));
        }
        let later = client.awaited.split_off(&(seq + 1));
        let over = std::mem::replace(&mut client.awaited, later);
        for note in done {
            self.carried_out(id, &note);
        }
        let mut outputs = Vec::new();
        for (tag, _) in over.into_values().flatten() {
            settle(&mut self.waits, tag, &mut outputs);
        }
        Ok(outputs)
    }

    /// Prolongs a client's leases; `left` says what this node has from a home. Nothing for a client
    /// that is late with an acknowledgement.
    pub fn renew(
        &mut self,
        id: ClientId,
        mut left: impl FnMut(Origin) -> Option<Millis>,
        now: Millis,
    ) -> Result<Vec<(Origin, Millis)>, Refusal> {
        let client = self.clients.get_mut(&id).ok_or(Refusal::Unknown)?;
        client.heard = now;
        client.owed.retain(|_, until| now.since(*until) < GONE);
        let homes: Vec<Origin> = client.owed.keys().copied().collect();
        let granted = homes.into_iter().filter_map(|home| {
            let span = client.grant(home, left(home)?, now)?;
            Some((home, span))
        });
        Ok(granted.collect())
    }

    /// What a client has not acknowledged, in order. Errors: [`Refusal::Unknown`].
    pub fn notes(&self, id: ClientId) -> Result<Vec<Note>, Refusal> {
        let client = self.clients.get(&id).ok_or(Refusal::Unknown)?;
        Ok(client.notes.iter().map(|(note, _)| note.clone()).collect())
    }

    /// Whether a client that has carried out everything up to `seq` has to be told anything.
    pub fn has_news(&self, id: ClientId, seq: u64) -> Result<bool, Refusal> {
        Ok(self.clients.get(&id).ok_or(Refusal::Unknown)?.last > seq)
    }

    /// This node was ordered to forget something: says [`Output::Forgotten`] with `tag` when no client
    /// can read it any more. Repeated orders get an answer each.
    pub fn forget(&mut self, tag: Tag, order: &Order, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.waits.insert(tag, 1);
        match &order.what {
            Forget::Copy { key } | Forget::Owned { key, .. } => {
                self.forget_key(tag, key, now, &mut outputs);
            }
            Forget::Namespace { namespace } => {
                self.forget_namespace(tag, namespace, order.home, now, &mut outputs);
            }
        }
        if now < self.quiet_until {
            self.quiet.push(tag);
        } else {
            settle(&mut self.waits, tag, &mut outputs);
        }
        outputs
    }

    fn forget_key(&mut self, tag: Tag, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let holders: Vec<(ClientId, Held)> = self
            .holders
            .get(key)
            .map(|of| of.iter().map(|(id, held)| (*id, *held)).collect())
            .unwrap_or_default();
        for (id, held) in holders {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if !client.may_read(held.home, now) {
                client.keys.remove(key);
                self.unregister(key, id);
                continue;
            }
            let seq = if held.told > held.since {
                held.told
            } else {
                self.tell(id, Subject::Key(key.clone()), now, outputs)
            };
            if let Some(held) = self.holders.get_mut(key).and_then(|of| of.get_mut(&id)) {
                held.told = seq;
            }
            self.wait(id, seq, tag, held.home);
        }
    }

    fn forget_namespace(
        &mut self,
        tag: Tag,
        namespace: &Arc<str>,
        home: Origin,
        now: Millis,
        outputs: &mut Vec<Output>,
    ) {
        let ids: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| client.may_read(home, now)).map(|(id, _)| *id).collect();
        for id in ids {
            let of_it = |key: &&Key| space::of(key) == &**namespace;
            if self.clients[&id].keys.keys().any(|key| of_it(&key)) {
                let seq = self.tell(id, Subject::Namespace(namespace.clone()), now, outputs);
                self.wait(id, seq, tag, home);
            }
        }
    }

    fn wait(&mut self, id: ClientId, seq: u64, tag: Tag, home: Origin) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.awaited.entry(seq).or_default().push((tag, home));
            *self.waits.entry(tag).or_default() += 1;
        }
    }

    /// Notes something down for a client; its number, or that of "everything" where it is too slow.
    fn tell(&mut self, id: ClientId, subject: Subject, now: Millis, outputs: &mut Vec<Output>) -> u64 {
        let Some(client) = self.clients.get_mut(&id) else { return 0 };
        client.last += 1;
        let seq = client.last;
        let since = client.notes.front().map_or(now, |(_, since)| *since);
        if client.notes.len() >= UNTOLD_MAX {
            client.notes.clear();
            client.notes.push_back((Note { seq, subject: Subject::Everything }, since));
            self.stats.resets += 1;
        } else {
            client.notes.push_back((Note { seq, subject }, now));
        }
        self.stats.invalidations += 1;
        outputs.push(Output::Wake(id));
        seq
    }

    /// A client has forgotten what a note named: copies that it was given before are gone.
    fn carried_out(&mut self, id: ClientId, note: &Note) {
        let keys: Vec<Key> = match (&note.subject, self.clients.get(&id)) {
            (_, None) => return,
            (Subject::Key(key), _) => vec![key.clone()],
            (Subject::Namespace(name), Some(client)) => {
                client.keys.keys().filter(|key| space::of(key) == &**name).cloned().collect()
            }
            (Subject::Everything, Some(client)) => client.keys.keys().cloned().collect(),
        };
        for key in keys {
            let held = self.holders.get(&key).and_then(|of| of.get(&id));
            if held.is_some_and(|held| held.since < note.seq) {
                self.unregister(&key, id);
                if let Some(client) = self.clients.get_mut(&id) {
                    client.keys.remove(&key);
                }
            }
        }
    }

    fn unregister(&mut self, key: &Key, id: ClientId) {
        if let Some(of) = self.holders.get_mut(key) {
            self.held -= usize::from(of.remove(&id).is_some());
            if of.is_empty() {
                self.holders.remove(key);
            }
        }
    }

    /// Tells a client that holds too much to forget what it has held longest.
    fn bound(&mut self, id: ClientId, now: Millis) {
        let mut outputs = Vec::new();
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            let (keys, order) = (&client.keys, &mut client.order);
            if order.len() > 2 * keys.len() + 64 {
                order.retain(|(key, age)| keys.get(key) == Some(age));
            }
            let untold = client.notes.len();
            if client.keys.len().saturating_sub(untold) <= self.limits.keys_max {
                return;
            }
            let Some((key, age)) = client.order.pop_front() else { return };
            if client.keys.get(&key) != Some(&age) {
                continue;
            }
            let seq = self.tell(id, Subject::Key(key.clone()), now, &mut outputs);
            if let Some(held) = self.holders.get_mut(&key).and_then(|of| of.get_mut(&id)) {
                held.told = seq;
            }
        }
    }

    /// Whether any client may hold this key.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        self.holders.contains_key(key)
    }

    /// Time has passed: clients whose leases have run out need not answer any more.
    pub fn tick(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        if now >= self.quiet_until {
            for tag in std::mem::take(&mut self.quiet) {
                settle(&mut self.waits, tag, &mut outputs);
            }
        }
        for client in self.clients.values_mut() {
            let owed = &client.owed;
            let is_over = |home: &Origin| owed.get(home).is_none_or(|until| *until <= now);
            for waiting in client.awaited.values_mut() {
                for (tag, _) in waiting.extract_if(.., |(_, home)| is_over(home)) {
                    self.stats.lease_expiries += 1;
                    settle(&mut self.waits, tag, &mut outputs);
                }
            }
            client.awaited.retain(|_, waiting| !waiting.is_empty());
        }
        let gone: BTreeSet<ClientId> =
            self.clients.iter().filter(|(_, client)| client.is_gone(now)).map(|(id, _)| *id).collect();
        for id in gone {
            outputs.extend(self.close(id));
        }
        outputs
    }

    /// When [`Self::tick`] has something to do; forgetting clients that are gone can wait.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let quiet = (!self.quiet.is_empty()).then_some(self.quiet_until);
        let until = |client: &Client| {
            let homes = client.awaited.values().flatten().map(|(_, home)| home);
            homes.map(|home| client.owed.get(home).copied().unwrap_or_default()).min()
        };
        self.clients.values().filter_map(until).chain(quiet).min()
    }

    /// How many clients there are, and how many keys they may hold.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.clients.len(), self.held)
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Client {
    /// A lease inside what the node has, unless an acknowledgement is overdue.
    fn grant(&mut self, home: Origin, left: Millis, now: Millis) -> Option<Millis> {
        let span = LEASE.min(Millis(left.0 / PART));
        let is_late = self.notes.front().is_some_and(|(_, since)| since.plus(OVERDUE) <= now);
        if is_late || span < SHORTEST {
            return None;
        }
        let owed = self.owed.entry(home).or_default();
        *owed = (*owed).max(lease::owed_until(now, span));
        Some(span)
    }

    fn may_read(&self, home: Origin, now: Millis) -> bool {
        self.owed.get(&home).is_some_and(|until| now < *until)
    }

    fn is_gone(&self, now: Millis) -> bool {
        now.since(self.heard) >= GONE && self.owed.values().all(|until| *until <= now)
    }
}

/// One thing less to wait for.
fn settle(waits: &mut BTreeMap<Tag, usize>, tag: Tag, outputs: &mut Vec<Output>) {
    let Some(left) = waits.get_mut(&tag) else { return };
    *left -= 1;
    if *left == 0 {
        waits.remove(&tag);
        outputs.push(Output::Forgotten(tag));
    }
}
