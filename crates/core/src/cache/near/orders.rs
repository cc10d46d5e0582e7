//! Orders to forget: who has to be told, and which order waits for whose word.
//!
//! It grants nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Near;
use super::client::Held;
use super::types::{ClientId, Note, Output, Refusal, Subject, UNTOLD_MAX};
use crate::cache::message::{Forget, Order};
use crate::cache::{Key, Tag, space};
use crate::names::Origin;
use crate::stamp::Millis;

impl Near {
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
    pub(super) fn tell(
        &mut self,
        id: ClientId,
        subject: Subject,
        now: Millis,
        outputs: &mut Vec<Output>,
    ) -> u64 {
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
}

/// One thing less to wait for.
pub(super) fn settle(waits: &mut BTreeMap<Tag, usize>, tag: Tag, outputs: &mut Vec<Output>) {
    let Some(left) = waits.get_mut(&tag) else { return };
    *left -= 1;
    if *left == 0 {
        waits.remove(&tag);
        outputs.push(Output::Forgotten(tag));
    }
}
