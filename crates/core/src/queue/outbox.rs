//! What one shard sends to another: each letter is numbered, kept until the other shard confirms it,
//! and taken there exactly once, in order.
//!
//! It sends nothing by itself: the shard's leader carries letters over and brings confirmations back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Cargo, Effect, Letter, NewMessage, Outgoing};
use crate::context::Context;
use crate::names::{MessageId, QueueName, ShardId};

/// Messages that may be on their way to one shard at once.
pub const OUTBOX_MAX: usize = 100_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outbox {
    lanes: BTreeMap<ShardId, Lane>,
    /// The last letter taken from each shard.
    taken: BTreeMap<ShardId, u64>,
    bodies: BTreeSet<MessageId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lane {
    last: u64,
    letters: BTreeMap<u64, Kept>,
}

/// A letter whose body, if it has one, is kept under a message id of this shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    queue: QueueName,
    cargo: Cargo,
    body: Option<MessageId>,
}

impl Outbox {
    pub(super) fn has_room(&self, to: ShardId) -> bool {
        self.lanes.get(&to).is_none_or(|lane| lane.letters.len() < OUTBOX_MAX)
    }

    /// Puts a letter into the lane to `to`. Answers its number there, and the name of its body.
    pub(super) fn send(
        &mut self,
        ctx: &mut Context<'_>,
        to: ShardId,
        queue: &QueueName,
        cargo: Cargo,
    ) -> (u64, MessageId) {
        let (cargo, body) = match cargo {
            Cargo::Message(message) => {
                let body = MessageId(ctx.counter.next());
                self.bodies.insert(body);
                (Cargo::Message(NewMessage { body: Bytes::new(), ..message }), Some(body))
            }
            room @ Cargo::Room { .. } => (room, None),
        };
        let lane = self.lanes.entry(to).or_default();
        lane.last += 1;
        lane.letters.insert(lane.last, Kept { queue: queue.clone(), cargo, body });
        if ctx.effects.last() != Some(&Effect::WakeOutbox) {
            ctx.effects.push(Effect::WakeOutbox);
        }
        (lane.last, body.unwrap_or(MessageId(0)))
    }

    /// The first letters to each shard, at most `max` each, with the names of their bodies.
    pub(super) fn waiting(&self, max: usize) -> Outgoing {
        let letter = |(seq, kept): (&u64, &Kept)| {
            (Letter { seq: *seq, queue: kept.queue.clone(), cargo: kept.cargo.clone() }, kept.body)
        };
        let lanes = self.lanes.iter().filter(|(_, lane)| !lane.letters.is_empty());
        lanes.map(|(to, lane)| (*to, lane.letters.iter().take(max).map(letter).collect())).collect()
    }

    pub(super) fn is_confirmed(&self, to: ShardId, seq: u64) -> bool {
        self.lanes.get(&to).is_none_or(|lane| lane.letters.first_key_value().is_none_or(|(at, _)| *at > seq))
    }

    /// Whether the letter is the next from its shard; if so, it is taken.
    pub(super) fn take(&mut self, from: ShardId, seq: u64) -> bool {
        let taken = self.taken.entry(from).or_default();
        let next = seq == *taken + 1;
        if next {
            *taken = seq;
        }
        next
    }

    pub(super) fn taken(&self, from: ShardId) -> u64 {
        self.taken.get(&from).copied().unwrap_or(0)
    }

    /// Forgets what `to` has taken. Answers the names of bodies that go with it.
    pub(super) fn confirm(&mut self, to: ShardId, up_to: u64) -> Vec<MessageId> {
        let Some(lane) = self.lanes.get_mut(&to) else { return Vec::new() };
        let left = lane.letters.split_off(&up_to.saturating_add(1));
        let gone = std::mem::replace(&mut lane.letters, left);
        let bodies: Vec<MessageId> = gone.values().filter_map(|kept| kept.body).collect();
        bodies.iter().for_each(|body| {
            self.bodies.remove(body);
        });
        bodies
    }

    pub(super) fn holds(&self, body: MessageId) -> bool {
        self.bodies.contains(&body)
    }
}
