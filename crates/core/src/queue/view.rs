//! What can be asked of queues. Changes nothing.

use super::{Phase, Queues};
use crate::command::{Delivered, Outgoing};
use crate::names::{MessageId, QueueName, ShardId};
use crate::query::QueueView;
use crate::queue::{QueueConfig, Totals};
use crate::stamp::Millis;

impl Queues {
    /// Counts of one queue; zeros where it is unknown.
    pub fn query(&self, name: &QueueName) -> QueueView {
        let Some(queue) = self.registry.by_name(name) else { return QueueView::default() };
        let at = |id: u64| self.messages.get(id).map(|message| message.enqueued_at);
        QueueView {
            ready: queue.used.messages.saturating_sub(queue.in_flight + queue.delayed),
            deliverable: self.deliverable(name),
            in_flight: queue.in_flight,
            delayed: queue.delayed,
            dead: queue.dead.len(),
            parked_keys: queue.parked.len() as u64,
            blocked: queue.blocked,
            bytes: queue.used.bytes,
            oldest_enqueued_at: queue.ready.firsts().filter_map(at).min(),
            version: queue.version,
            room: queue.room,
            used: queue.used,
            totals: queue.totals,
        }
    }

    /// How many messages a receive could deliver now.
    pub fn deliverable(&self, name: &QueueName) -> u64 {
        self.registry.by_name(name).filter(|queue| !queue.blocked).map_or(0, |queue| queue.ready.len())
    }

    /// What a receive would deliver next: its priority and when it was pushed.
    pub fn head(&self, name: &QueueName) -> Option<(u8, u64)> {
        let message = self.messages.get(self.first(name)?)?;
        Some((message.priority, message.enqueued_at))
    }

    /// The queues known here after `after`, in order, at most `limit`.
    pub fn names(&self, after: Option<&QueueName>, limit: usize) -> Vec<QueueName> {
        self.registry.after(after).take(limit).cloned().collect()
    }

    /// What has become of messages, for each queue known here.
    pub fn totals(&self) -> impl Iterator<Item = (&QueueName, Totals)> {
        self.registry.iter().map(|(_, queue)| (&queue.name, queue.totals))
    }

    /// The configurations known here.
    pub fn configs(&self) -> Vec<(QueueName, u64, QueueConfig)> {
        let configured = self.registry.iter().filter(|(_, queue)| queue.version > 0);
        configured.map(|(_, queue)| (queue.name.clone(), queue.version, queue.config.clone())).collect()
    }

    /// Up to `max` messages that wait, in the order in which they would go as far as that is known:
    /// what is deliverable, then what waits behind it.
    pub fn peek(&self, name: &QueueName, max: usize) -> Vec<Delivered> {
        let Some(at) = self.registry.find(name) else { return Vec::new() };
        let Some(queue) = self.registry.get(at) else { return Vec::new() };
        let behind = self.groups.of(at).filter(|(_, group)| group.key.is_some()).flat_map(|(_, group)| {
            let offered = group.offered;
            group.waiting().filter(move |id| *id != offered)
        });
        let delayed = queue.delayed_loose.after(0).map(|(id, ())| id);
        let waiting = queue.ready.iter().chain(behind).chain(delayed).take(max);
        waiting.filter_map(|id| Some(self.delivered(id, *self.messages.get(id)?, 0, Millis(0)))).collect()
    }

    /// Whether the message waits for a delay to end.
    pub fn is_delayed(&self, id: MessageId) -> bool {
        self.messages.get(id.0).is_some_and(|message| message.phase == Phase::Delayed)
    }

    /// The first letters to each shard, at most `max` each, with the names of their bodies.
    pub fn outbox(&self, max: usize) -> Outgoing {
        self.outbox.waiting(max)
    }

    /// Whether `to` has taken the letter `seq`, as far as is known here.
    pub fn is_confirmed(&self, to: ShardId, seq: u64) -> bool {
        self.outbox.is_confirmed(to, seq)
    }
}
