//! Copies in the processes of a node's clients: who may hold what, and which orders wait for them.
//!
//! A near client may read what its node let it keep while its lease lasts. Before the node answers an
//! order to forget, every client that may hold the copy has said that it is gone, or its lease has
//! run out. The lease is at most a quarter of what the node itself has from that home, so the node
//! answers well inside its own, however slow a client is (`hard-cases.md` 31). What a client has to
//! forget is numbered; it acknowledges with the last number that it has carried out, and is told
//! everything again behind that. It knows no values, and sends nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Tag, lease};
use crate::names::Origin;
use crate::stamp::Millis;

mod client;
#[cfg(test)]
mod explore;
mod orders;
#[cfg(test)]
mod tests;
mod types;

pub use types::{
    ClientId, GONE, LEASE, Limits, Note, OVERDUE, Output, Refusal, SHORTEST, Stats, Subject, UNTOLD_MAX,
};

use client::{Client, Held};
use orders::settle;

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
