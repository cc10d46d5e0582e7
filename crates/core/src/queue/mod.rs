//! The queue machine: messages in order, each delivered until it is done.
//!
//! Messages of one key are delivered one at a time, in push order; different keys in parallel. A
//! message that waits costs about forty bytes: 32 for itself, 8 for its place in the order. Its
//! payload is not here, a key's name is stored once, and what only a message in flight or one with a
//! deadline needs is kept aside.

mod chunks;
mod config;
mod deliver;
mod groups;
mod outbox;
mod place;
mod poison;
mod purge;
mod push;
mod registry;
mod repeats;
mod sessions;
mod shares;
mod slab;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{Effect, QueueOp, Refusal, Reply};
use crate::context::Context;
use crate::deadlines::Deadlines;
use crate::names::{MessageId, QueueName, SessionId, ShardId};
use crate::stamp::Millis;
use chunks::Chunks;
use groups::Groups;
use outbox::Outbox;
use registry::Registry;
use repeats::Repeats;
use sessions::Sessions;

pub use config::{OnPoison, QueueConfig};
pub use outbox::OUTBOX_MAX;
pub use registry::{PRIORITY_MAX, QUEUES_MAX, Totals};
pub use repeats::{DEDUP_MAX, DEDUP_WINDOW};
pub use sessions::ENDED_MAX;

/// What one queue may hold over all shards, where its configuration does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Messages, in whatever state.
    pub messages_max: u64,
    /// Bytes of their payloads.
    pub bytes_max: u64,
}

/// The queues of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    shard: ShardId,
    /// How many queue shards there are.
    shards: u32,
    limits: Limits,
    registry: Registry,
    groups: Groups,
    messages: Chunks<Message>,
    flights: BTreeMap<u64, Flight>,
    sessions: Sessions,
    /// Ends of delays and of visibility time-outs: a message has one of them at most.
    due: Deadlines<u64>,
    /// Ends of times to live.
    expiry: Deadlines<u64>,
    /// Where each dead letter came from.
    origins: BTreeMap<u64, u32>,
    repeats: Repeats,
    outbox: Outbox,
    #[serde(skip)]
    removed: Vec<MessageId>,
}

/// A message that is not done. Small: there may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    enqueued_at: u64,
    group: u32,
    bytes: u32,
    attempts: u32,
    /// Time-outs, and nacks that said so: what the dead-letter limit counts.
    failures: u16,
    priority: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Ready,
    Delayed,
    InFlight,
}

/// What a delivery knows beside its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flight {
    delivery: u64,
    /// Its time to live ended meanwhile: it will not come back.
    overdue: bool,
    /// How long it lasts from its last extension, or from its session's last heartbeat.
    visibility: Millis,
    /// What keeps it besides.
    session: Option<SessionId>,
}

/// How a receive hides what it delivers.
#[derive(Clone, Copy, Debug)]
struct Hiding {
    visibility: Option<Millis>,
    session: Option<SessionId>,
}

/// Why a message is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Delivered,
    Expired,
    Purged,
}

impl Queues {
    /// No queues yet, in shard `shard` of `shards`.
    pub fn new(shard: ShardId, shards: u32, limits: Limits) -> Self {
        Self {
            shard,
            shards,
            limits,
            registry: Registry::default(),
            groups: Groups::default(),
            messages: Chunks::default(),
            flights: BTreeMap::new(),
            sessions: Sessions::default(),
            due: Deadlines::default(),
            expiry: Deadlines::default(),
            origins: BTreeMap::new(),
            repeats: Repeats::default(),
            outbox: Outbox::default(),
            removed: Vec::new(),
        }
    }

    /// Other limits from now on; what is there stays. What was lent stays lent.
    pub fn set_limits(&mut self, shards: u32, limits: Limits) {
        (self.shards, self.limits) = (shards, limits);
        self.deal_out();
    }

    /// Applies one command that was not applied before.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &QueueOp) -> Reply {
        if op.makes().is_some_and(|name| self.registry.find(name).is_none() && self.registry.is_full()) {
            return Reply::Refused(Refusal::TooManyQueues);
        }
        match op {
            QueueOp::Push { queue, messages } => self.push(ctx, queue, messages),
            QueueOp::Pop { queue } => Reply::Popped(self.pop(ctx, queue)),
            QueueOp::Receive { max: 0, .. } => Reply::Refused(Refusal::Invalid),
            QueueOp::Receive { queue, max, visibility, session } => {
                match session.map_or(Ok(()), |of| self.sessions.check(of)) {
                    Ok(()) => {
                        let how = Hiding { visibility: *visibility, session: session.map(|of| of.session) };
                        Reply::Received(self.receive(ctx, queue, *max, how))
                    }
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            QueueOp::RenewSessions { sessions } => self.renew_sessions(ctx.now, sessions),
            QueueOp::EndSessions { sessions } => self.end_sessions(ctx, sessions),
            QueueOp::Ack { receipts } => {
                Reply::Settled(receipts.iter().map(|receipt| self.ack(ctx, *receipt)).collect())
            }
            QueueOp::AckPush { receipts, push } => self.ack_push(ctx, receipts, push),
            QueueOp::Nack { receipts, delay, failed } => Reply::Settled(
                receipts.iter().map(|receipt| self.nack(ctx, *receipt, *delay, *failed)).collect(),
            ),
            QueueOp::Extend { receipts, visibility } => Reply::Settled(
                receipts.iter().map(|receipt| self.extend(ctx, *receipt, *visibility)).collect(),
            ),
            QueueOp::Configure { queue, version, config } => self.configure(ctx, queue, *version, config),
            QueueOp::Lend { .. } => self.lend(ctx, op),
            QueueOp::Purge { queue, up_to, max } => self.purge(ctx, queue, *up_to, *max),
            QueueOp::Redrive { queue, max } => self.redrive(ctx, queue, *max),
            QueueOp::Resume { queue, key } => self.resume(ctx, queue, key.as_ref()),
            QueueOp::Arrive { from, letters } => self.arrive(ctx, *from, letters),
            QueueOp::Confirm { to, up_to } => {
                self.removed.extend(self.outbox.confirm(*to, *up_to));
                ctx.effects.push(Effect::WakeOutbox);
                Reply::Confirmed
            }
        }
    }

    /// Ends every delay, visibility time-out and time to live that is due by log time.
    pub fn expire(&mut self, ctx: &mut Context<'_>) {
        while let Some(id) = self.due.pop_due(ctx.now) {
            match self.messages.get(id).map(|message| message.phase) {
                Some(Phase::InFlight) => match self.kept_until(id).filter(|until| *until > ctx.now) {
                    Some(until) => self.due.set(id, until),
                    None => self.land(ctx, id, Millis(0), true),
                },
                Some(Phase::Delayed) => self.ripen(ctx, id),
                Some(Phase::Ready) | None => {}
            }
        }
        while let Some(id) = self.expiry.pop_due(ctx.now) {
            match self.flights.get_mut(&id) {
                Some(flight) => flight.overdue = true,
                None => self.end(ctx, id, End::Expired),
            }
        }
    }

    /// Forgets what is old enough. Nobody could notice, so it is no deadline.
    pub fn forget(&mut self, now: Millis) {
        self.repeats.expire(now);
        while let Some(queue) = self.registry.forget_one(now) {
            if let Some(loose) = self.groups.find(queue, None) {
                self.groups.forget(loose);
            }
        }
    }

    /// When the next delay, visibility time-out or time to live ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.due.next().into_iter().chain(self.expiry.next()).min()
    }

    /// Whether the body is still needed: the message is not done, or on its way to another shard.
    pub fn holds(&self, id: MessageId) -> bool {
        self.messages.contains(id.0) || self.outbox.holds(id)
    }

    /// Bodies that are needed no longer since the last call.
    pub fn take_removed(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.removed)
    }

    /// After a snapshot: finds everything by its name again.
    pub fn reindex(&mut self) {
        self.registry.reindex();
        self.groups.reindex();
    }
}

impl QueueOp {
    /// The queue that comes into being by this.
    fn makes(&self) -> Option<&QueueName> {
        match self {
            Self::Push { queue, .. } | Self::Configure { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_number_take_32_bytes() {
        assert_eq!(size_of::<(u64, Message)>(), 32);
        assert_eq!(size_of::<(u64, ())>(), 8);
    }
}
