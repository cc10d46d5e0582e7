//! The queue machine: messages in order, each delivered until it is done.
//!
//! Messages of one key are delivered one at a time, in push order; different keys in parallel. It
//! keeps tens of bytes a message and never its payload.

mod deliver;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::command::{Effect, NewMessage, QueueOp, Refusal, Reply};
use crate::context::Context;
use crate::deadlines::Deadlines;
use crate::names::{MessageId, MessageKey, QueueName};
use crate::query::QueueView;
use crate::stamp::Millis;

/// What one queue may hold in this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Messages, in whatever state.
    pub messages_max: u64,
    /// Bytes of their payloads.
    pub bytes_max: u64,
}

/// The queues of one shard. An empty one leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    limits: Limits,
    queues: BTreeMap<QueueName, Queue>,
    messages: BTreeMap<MessageId, Message>,
    /// Ends of delays and of visibility time-outs: a message has one of them at most.
    due: Deadlines<MessageId>,
    #[serde(skip)]
    removed: Vec<MessageId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Queue {
    /// What a consumer may have now: ready, and without a key or first of it.
    deliverable: BTreeSet<MessageId>,
    /// The messages of each key that are not done, in push order.
    keys: BTreeMap<MessageKey, VecDeque<MessageId>>,
    messages: u64,
    in_flight: u64,
    delayed: u64,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    queue: QueueName,
    key: Option<MessageKey>,
    bytes: u64,
    enqueued_at: u64,
    attempts: u32,
    /// Time-outs, and nacks that said so: counts towards a dead-letter limit.
    failures: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Ready,
    Delayed,
    InFlight { delivery: u64 },
}

impl Queues {
    /// No queues yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queues: BTreeMap::new(),
            messages: BTreeMap::new(),
            due: Deadlines::default(),
            removed: Vec::new(),
        }
    }

    /// Other limits from now on; what is there stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Applies one command that was not applied before.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &QueueOp) -> Reply {
        match op {
            QueueOp::Push { queue, messages } => self.push(ctx, queue, messages),
            QueueOp::Pop { queue } => Reply::Popped(self.pop(ctx, queue)),
            QueueOp::Receive { max: 0, .. } => Reply::Refused(Refusal::Invalid),
            QueueOp::Receive { queue, max, visibility } => {
                Reply::Received(self.receive(ctx, queue, *max, *visibility))
            }
            QueueOp::Ack { receipts } => {
                Reply::Acked(receipts.iter().map(|receipt| self.ack(ctx, *receipt)).collect())
            }
            QueueOp::Nack { receipt, delay, failed } => match self.nack(ctx, *receipt, *delay, *failed) {
                Ok(()) => Reply::Nacked,
                Err(refusal) => Reply::Refused(refusal),
            },
            QueueOp::Extend { receipt, visibility } => match self.extend(ctx, *receipt, *visibility) {
                Ok(()) => Reply::Extended { visibility: *visibility },
                Err(refusal) => Reply::Refused(refusal),
            },
        }
    }

    /// Ends every delay and visibility time-out that is due by log time.
    pub fn expire(&mut self, ctx: &mut Context<'_>) {
        while let Some(id) = self.due.pop_due(ctx.now) {
            let Some(message) = self.messages.get_mut(&id) else { continue };
            if matches!(message.phase, Phase::InFlight { .. }) {
                message.failures = message.failures.saturating_add(1);
            }
            self.set_phase(id, Phase::Ready);
            self.offer(ctx, id);
        }
    }

    /// When the next delay or visibility time-out ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.due.next()
    }

    /// Counts of one queue; zeros where it is unknown.
    pub fn query(&self, name: &QueueName) -> QueueView {
        let Some(queue) = self.queues.get(name) else { return QueueView::default() };
        let oldest = queue.deliverable.first().and_then(|id| self.messages.get(id));
        QueueView {
            ready: queue.messages - queue.in_flight - queue.delayed,
            deliverable: !queue.deliverable.is_empty(),
            in_flight: queue.in_flight,
            delayed: queue.delayed,
            bytes: queue.bytes,
            oldest_enqueued_at: oldest.map(|message| message.enqueued_at),
        }
    }

    /// The queues that hold anything, in order.
    pub fn names(&self) -> Vec<QueueName> {
        self.queues.keys().cloned().collect()
    }

    /// Whether the message is not done yet.
    pub fn holds(&self, id: MessageId) -> bool {
        self.messages.contains_key(&id)
    }

    /// Messages that are done since the last call.
    pub fn take_removed(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.removed)
    }

    fn push(&mut self, ctx: &mut Context<'_>, name: &QueueName, messages: &[NewMessage]) -> Reply {
        if messages.is_empty() {
            return Reply::Refused(Refusal::Invalid);
        }
        let (count, bytes) = self.queues.get(name).map_or((0, 0), |queue| (queue.messages, queue.bytes));
        let more: u64 = messages.iter().map(|message| message.body.len() as u64).sum();
        let fits = count + messages.len() as u64 <= self.limits.messages_max
            && bytes.saturating_add(more) <= self.limits.bytes_max;
        if !fits {
            return Reply::Refused(Refusal::QueueFull);
        }
        Reply::Pushed(messages.iter().map(|message| self.push_one(ctx, name, message)).collect())
    }

    fn push_one(&mut self, ctx: &mut Context<'_>, name: &QueueName, new: &NewMessage) -> MessageId {
        let id = MessageId(ctx.counter.next());
        let message = Message {
            queue: name.clone(),
            key: new.key.clone(),
            bytes: new.body.len() as u64,
            enqueued_at: new.enqueued_at,
            attempts: 0,
            failures: 0,
            phase: Phase::Ready,
        };
        let queue = self.queues.entry(name.clone()).or_default();
        queue.messages += 1;
        queue.bytes += message.bytes;
        if let Some(key) = &new.key {
            queue.keys.entry(key.clone()).or_default().push_back(id);
        }
        self.messages.insert(id, message);
        if new.delay > Millis(0) {
            self.set_phase(id, Phase::Delayed);
            self.due.set(id, ctx.now.plus(new.delay));
        }
        self.offer(ctx, id);
        id
    }

    /// Makes a ready message deliverable, unless an earlier one of its key is not done.
    fn offer(&mut self, ctx: &mut Context<'_>, id: MessageId) {
        let Some(message) = self.messages.get(&id) else { return };
        let Some(queue) = self.queues.get_mut(&message.queue) else { return };
        let first = match &message.key {
            Some(key) => queue.keys.get(key).and_then(VecDeque::front) == Some(&id),
            None => true,
        };
        if message.phase == Phase::Ready && first && queue.deliverable.insert(id) {
            ctx.effects.push(Effect::WakeQueue(message.queue.clone()));
        }
    }

    fn set_phase(&mut self, id: MessageId, phase: Phase) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        let Some(queue) = self.queues.get_mut(&message.queue) else { return };
        for (of, by) in [(message.phase, -1), (phase, 1)] {
            let count = match of {
                Phase::Ready => continue,
                Phase::Delayed => &mut queue.delayed,
                Phase::InFlight { .. } => &mut queue.in_flight,
            };
            *count = count.saturating_add_signed(by);
        }
        message.phase = phase;
    }

    /// The message is done; the next of its key may go.
    fn remove(&mut self, ctx: &mut Context<'_>, id: MessageId) {
        self.set_phase(id, Phase::Ready);
        self.due.remove(&id);
        let Some(message) = self.messages.remove(&id) else { return };
        self.removed.push(id);
        let Some(queue) = self.queues.get_mut(&message.queue) else { return };
        queue.deliverable.remove(&id);
        queue.messages -= 1;
        queue.bytes -= message.bytes;
        let next = message.key.and_then(|key| queue.done_with_first(&key));
        if queue.messages == 0 {
            self.queues.remove(&message.queue);
        }
        if let Some(next) = next {
            self.offer(ctx, next);
        }
    }
}

impl Queue {
    /// Only the first of a key is ever delivered, so only the first can be done.
    fn done_with_first(&mut self, key: &MessageKey) -> Option<MessageId> {
        let waiting = self.keys.get_mut(key)?;
        waiting.pop_front();
        let next = waiting.front().copied();
        if next.is_none() {
            self.keys.remove(key);
        }
        next
    }
}
