//! Deliveries: taking messages, and what a receipt may do to them afterwards.
//!
//! Only the latest delivery of a message counts: every other receipt is stale and changes nothing.

use super::{End, Flight, Hiding, Message, Phase, Queues};
use crate::command::{Delivered, Refusal};
use crate::context::Context;
use crate::names::{MessageId, QueueName, Receipt};
use crate::stamp::Millis;

/// Payload bytes of one receive, roughly: what is delivered together must fit into one answer from
/// node to node.
const RECEIVE_BYTES: u64 = 16 * 1024 * 1024;

impl Queues {
    /// Takes the first deliverable message for good.
    pub(super) fn pop(&mut self, ctx: &mut Context<'_>, name: &QueueName) -> Option<Delivered> {
        let id = self.first(name)?;
        let popped = self.attempt(id, 0, Millis(0))?;
        self.end(ctx, id, End::Delivered);
        Some(popped)
    }

    /// Delivers up to `max` messages, each hidden as `how` says: fewer where their payloads are
    /// large, but at least one.
    pub(super) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        max: u32,
        how: Hiding,
    ) -> Vec<Delivered> {
        let Some(queue) = self.registry.by_name(name) else { return Vec::new() };
        let visibility = how.visibility.unwrap_or(queue.config.visibility);
        let mut received = Vec::new();
        let mut bytes = 0;
        while received.len() < max as usize {
            let Some(id) = self.first(name) else { break };
            bytes += self.messages.get(id).map_or(0, |message| u64::from(message.bytes));
            if bytes > RECEIVE_BYTES && !received.is_empty() {
                break;
            }
            let delivery = ctx.counter.next();
            self.launch(ctx, id, Flight { delivery, overdue: false, visibility, session: how.session });
            received.extend(self.attempt(id, delivery, visibility));
        }
        received
    }

    pub(super) fn ack(&mut self, ctx: &mut Context<'_>, receipt: Receipt) -> Result<(), Refusal> {
        let id = self.check(receipt)?;
        self.end(ctx, id, End::Delivered);
        Ok(())
    }

    /// Back in its place, for later if `delay` says so; meanwhile its key waits.
    pub(super) fn nack(
        &mut self,
        ctx: &mut Context<'_>,
        receipt: Receipt,
        delay: Millis,
        failed: bool,
    ) -> Result<(), Refusal> {
        let id = self.check(receipt)?;
        self.land(ctx, id, delay, failed);
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        ctx: &mut Context<'_>,
        receipt: Receipt,
        visibility: Millis,
    ) -> Result<(), Refusal> {
        let id = self.check(receipt)?;
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.visibility = visibility;
        }
        self.due.set(id, ctx.now.plus(visibility));
        Ok(())
    }

    /// A delivery ends without being acknowledged.
    pub(super) fn land(&mut self, ctx: &mut Context<'_>, id: u64, delay: Millis, failed: bool) {
        let Some(message) = self.messages.get_mut(id) else { return };
        message.failures = message.failures.saturating_add(u16::from(failed));
        let group = message.group;
        if failed && self.is_poison(id) {
            return self.dead_letter(ctx, id);
        }
        if self.flights.get(&id).is_some_and(|flight| flight.overdue) {
            return self.end(ctx, id, End::Expired);
        }
        self.ground(id);
        self.set_busy(group, false);
        if delay > Millis(0) {
            self.set_phase(id, Phase::Delayed);
            self.due.set(id, ctx.now.plus(delay));
        } else {
            self.set_phase(id, Phase::Ready);
            self.due.remove(&id);
        }
        self.hold(ctx, id);
    }

    /// The message that the receipt is for, if it is its latest.
    pub(super) fn check(&self, receipt: Receipt) -> Result<u64, Refusal> {
        match self.flights.get(&receipt.message.0) {
            Some(flight) if flight.delivery == receipt.delivery => Ok(receipt.message.0),
            _ => Err(Refusal::StaleReceipt),
        }
    }

    /// What a consumer would get next.
    pub(super) fn first(&self, name: &QueueName) -> Option<u64> {
        self.registry.by_name(name).filter(|queue| !queue.blocked)?.ready.first()
    }

    /// Nobody holds the message any more.
    pub(super) fn ground(&mut self, id: u64) {
        if let Some(session) = self.flights.remove(&id).and_then(|flight| flight.session) {
            self.sessions.let_go(session, id);
        }
    }

    fn launch(&mut self, ctx: &mut Context<'_>, id: u64, flight: Flight) {
        let Some(group) = self.messages.get(id).map(|message| message.group) else { return };
        if self.groups.get(group).is_some_and(|group| group.key.is_some()) {
            self.set_busy(group, true);
        }
        self.withdraw(ctx, id);
        self.set_phase(id, Phase::InFlight);
        if let Some(session) = flight.session {
            self.sessions.hold(session, id, ctx.now);
        }
        self.due.set(id, ctx.now.plus(flight.visibility));
        self.flights.insert(id, flight);
    }

    fn attempt(&mut self, id: u64, delivery: u64, visibility: Millis) -> Option<Delivered> {
        let message = self.messages.get_mut(id)?;
        message.attempts = message.attempts.saturating_add(1);
        let message = *message;
        if let Some(queue) = self.groups.get(message.group).map(|group| group.queue)
            && let Some(queue) = self.registry.get_mut(queue)
        {
            queue.totals.deliveries += 1;
        }
        Some(self.delivered(id, message, delivery, visibility))
    }

    pub(super) fn delivered(
        &self,
        id: u64,
        message: Message,
        delivery: u64,
        visibility: Millis,
    ) -> Delivered {
        Delivered {
            id: MessageId(id),
            key: self.groups.get(message.group).and_then(|group| group.key.clone()),
            attempts: message.attempts,
            failures: message.failures.into(),
            priority: message.priority,
            enqueued_at: message.enqueued_at,
            delivery,
            visibility,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use crate::command::{NewMessage, QueueOp, Reply};
    use crate::context::Counter;
    use crate::names::ShardId;

    #[test]
    fn one_receive_delivers_no_more_than_fits_into_one_answer() {
        let (mut counter, mut effects) = (Counter::default(), Vec::new());
        let mut ctx = Context { now: Millis(0), counter: &mut counter, effects: &mut effects };
        let mut queues = Queues::new(ShardId(1), 1, Limits { messages_max: 10, bytes_max: u64::MAX });
        let queue = QueueName("q".into());
        let large = usize::try_from(RECEIVE_BYTES / 2 + 1).unwrap();
        for bytes in [large, large, 3 * large] {
            let message = NewMessage { body: vec![0; bytes].into(), ..NewMessage::default() };
            let op = QueueOp::Push { queue: queue.clone(), messages: vec![message] };
            assert!(matches!(queues.apply(&mut ctx, &op), Reply::Pushed(_)));
        }
        let how = Hiding { visibility: Some(Millis(1_000)), session: None };
        let mut receive = || queues.receive(&mut ctx, &queue, 10, how).len();
        assert_eq!([receive(), receive(), receive(), receive()], [1, 1, 1, 0]);
    }
}
