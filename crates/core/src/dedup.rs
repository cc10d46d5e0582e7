//! Remembers the first answer of a request, so that asking again is harmless.
//!
//! It never forgets early: a full memory refuses new requests. What an answer *means* by now (a
//! lock may be lost since) is for the machine to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Delivered, Refusal, Reply, RequestKey};
use crate::deadlines::Deadlines;
use crate::names::{MessageId, Origin};
use crate::stamp::Millis;

/// How long an answer is remembered, in log time; no command may be applied later than this after
/// it was made.
pub const WINDOW: Millis = Millis(60_000);

/// The answers that a shard remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memos {
    named_max: u32,
    named: BTreeMap<Arc<str>, Named>,
    /// Log times at which named answers are forgotten, first one first.
    forget: Deadlines<Arc<str>>,
    origins: BTreeMap<Origin, Node>,
    idle: Deadlines<Origin>,
    /// How many answers still speak of a delivered message: its body must stay.
    pins: BTreeMap<MessageId, u32>,
    #[serde(skip)]
    unpinned: Vec<MessageId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    fingerprint: u64,
    reply: Reply,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    settled_below: u64,
    replies: BTreeMap<u64, Reply>,
}

/// What is known of a command before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Not seen: apply it.
    New,
    /// Seen: this was the answer.
    Answered(Reply),
    /// Not to be applied, for this reason.
    Refused(Refusal),
}

impl Memos {
    /// Remembers nothing yet, and at most `named_max` answers under names that clients chose.
    pub fn new(named_max: u32) -> Self {
        Self {
            named_max,
            named: BTreeMap::new(),
            forget: Deadlines::default(),
            origins: BTreeMap::new(),
            idle: Deadlines::default(),
            pins: BTreeMap::new(),
            unpinned: Vec::new(),
        }
    }

    /// Remembers at most so many from now on.
    pub fn set_max(&mut self, named_max: u32) {
        self.named_max = named_max;
    }

    /// Looks a command up. A memo wins over `not_after`: what was done stays done.
    pub fn look_up(&mut self, command: &Command, now: Millis) -> Known {
        let known = match &command.request {
            RequestKey::Named { id, fingerprint } => self.look_up_named(id, *fingerprint, now),
            RequestKey::Node { origin, seq, settled_below } => {
                self.look_up_node(*origin, *seq, *settled_below, now)
            }
        };
        let in_time = command.not_after >= now && command.not_after <= now.plus(WINDOW);
        match known {
            Known::New if !in_time => Known::Refused(Refusal::TooLate),
            Known::New if self.is_full_for(&command.request) => Known::Refused(Refusal::MemoFull),
            known => known,
        }
    }

    /// Keeps the first answer of `request`.
    pub fn remember(&mut self, request: &RequestKey, reply: &Reply, now: Millis) {
        self.pin(reply);
        match request {
            RequestKey::Named { id, fingerprint } => {
                self.named.insert(id.clone(), Named { fingerprint: *fingerprint, reply: reply.clone() });
                self.forget.set(id.clone(), now.plus(WINDOW));
            }
            RequestKey::Node { origin, seq, .. } => {
                self.origins.entry(*origin).or_default().replies.insert(*seq, reply.clone());
            }
        }
    }

    /// Whether an answer of a request of this name is remembered.
    pub fn remembers(&self, id: &str) -> bool {
        self.named.contains_key(id)
    }

    /// Whether this very request has been answered, whatever it asked.
    pub fn knows(&self, request: &RequestKey) -> bool {
        match request {
            RequestKey::Named { id, .. } => self.remembers(id),
            RequestKey::Node { origin, seq, .. } => {
                self.origins.get(origin).is_some_and(|node| node.replies.contains_key(seq))
            }
        }
    }

    /// Forgets what is old enough.
    pub fn expire(&mut self, now: Millis) {
        while let Some(id) = self.forget.pop_due(now) {
            if let Some(named) = self.named.remove(&id) {
                self.unpin(&named.reply);
            }
        }
        while let Some(origin) = self.idle.pop_due(now) {
            for reply in self.origins.remove(&origin).unwrap_or_default().replies.values() {
                self.unpin(reply);
            }
        }
    }

    /// Whether an answer still speaks of this message.
    pub fn pins(&self, id: MessageId) -> bool {
        self.pins.contains_key(&id)
    }

    /// Messages of which no answer speaks any more since the last call.
    pub fn take_unpinned(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.unpinned)
    }

    fn look_up_named(&mut self, id: &Arc<str>, fingerprint: u64, now: Millis) -> Known {
        match self.named.get(id) {
            None => Known::New,
            Some(named) if named.fingerprint != fingerprint => Known::Refused(Refusal::RequestConflict),
            Some(named) => {
                self.forget.set(id.clone(), now.plus(WINDOW));
                Known::Answered(named.reply.clone())
            }
        }
    }

    fn look_up_node(&mut self, origin: Origin, seq: u64, settled_below: u64, now: Millis) -> Known {
        self.idle.set(origin, now.plus(WINDOW));
        let node = self.origins.entry(origin).or_default();
        if settled_below > node.settled_below {
            node.settled_below = settled_below;
            let open = node.replies.split_off(&settled_below);
            let settled = std::mem::replace(&mut node.replies, open);
            settled.values().for_each(|reply| self.unpin(reply));
        }
        let Some(node) = self.origins.get(&origin) else { return Known::New };
        match node.replies.get(&seq) {
            Some(reply) => Known::Answered(reply.clone()),
            None if seq < node.settled_below => Known::Refused(Refusal::Settled),
            None => Known::New,
        }
    }

    fn is_full_for(&self, request: &RequestKey) -> bool {
        matches!(request, RequestKey::Named { .. }) && self.named.len() >= self.named_max as usize
    }

    fn pin(&mut self, reply: &Reply) {
        for message in delivered(reply) {
            *self.pins.entry(message.id).or_default() += 1;
        }
    }

    fn unpin(&mut self, reply: &Reply) {
        for message in delivered(reply) {
            if let Some(count) = self.pins.get_mut(&message.id) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(&message.id);
                    self.unpinned.push(message.id);
                }
            }
        }
    }
}

/// The messages that an answer delivers.
pub fn delivered(reply: &Reply) -> &[Delivered] {
    match reply {
        Reply::Popped(one) => one.as_slice(),
        Reply::Received(many) => many,
        _ => &[],
    }
}
