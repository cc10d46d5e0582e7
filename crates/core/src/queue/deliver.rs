//! Deliveries: taking messages, and what a receipt may do to them afterwards.
//!
//! Only the latest delivery of a message counts: every other receipt is stale and changes nothing.

use super::{Phase, Queues};
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
        let id = *self.queues.get(name)?.deliverable.first()?;
        let popped = self.deliver(id, 0, Millis(0))?;
        self.remove(ctx, id);
        Some(popped)
    }

    /// Delivers up to `max` messages, each hidden for `visibility`: fewer where their payloads are
    /// large, but at least one.
    pub(super) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        max: u32,
        visibility: Millis,
    ) -> Vec<Delivered> {
        let mut received = Vec::new();
        let mut bytes = 0;
        while received.len() < max as usize {
            let Some(queue) = self.queues.get_mut(name) else { break };
            let next = queue.deliverable.first().and_then(|id| self.messages.get(id));
            bytes += next.map_or(0, |message| message.bytes);
            if bytes > RECEIVE_BYTES && !received.is_empty() {
                break;
            }
            let Some(id) = queue.deliverable.pop_first() else { break };
            let delivery = ctx.counter.next();
            self.set_phase(id, Phase::InFlight { delivery });
            self.due.set(id, ctx.now.plus(visibility));
            received.extend(self.deliver(id, delivery, visibility));
        }
        received
    }

    pub(super) fn ack(&mut self, ctx: &mut Context<'_>, receipt: Receipt) -> Result<(), Refusal> {
        self.check(receipt)?;
        self.remove(ctx, receipt.message);
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
        if let Some(message) = self.messages.get_mut(&id) {
            message.failures = message.failures.saturating_add(u32::from(failed));
        }
        if delay > Millis(0) {
            self.set_phase(id, Phase::Delayed);
            self.due.set(id, ctx.now.plus(delay));
        } else {
            self.set_phase(id, Phase::Ready);
            self.due.remove(&id);
            self.offer(ctx, id);
        }
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        ctx: &mut Context<'_>,
        receipt: Receipt,
        visibility: Millis,
    ) -> Result<(), Refusal> {
        let id = self.check(receipt)?;
        self.due.set(id, ctx.now.plus(visibility));
        Ok(())
    }

    fn check(&self, receipt: Receipt) -> Result<MessageId, Refusal> {
        let current = self.messages.get(&receipt.message).map(|message| message.phase);
        match current {
            Some(Phase::InFlight { delivery }) if delivery == receipt.delivery => Ok(receipt.message),
            _ => Err(Refusal::StaleReceipt),
        }
    }

    fn deliver(&mut self, id: MessageId, delivery: u64, visibility: Millis) -> Option<Delivered> {
        let message = self.messages.get_mut(&id)?;
        message.attempts = message.attempts.saturating_add(1);
        Some(Delivered {
            id,
            key: message.key.clone(),
            attempts: message.attempts,
            enqueued_at: message.enqueued_at,
            delivery,
            visibility,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use crate::command::{NewMessage, QueueOp, Reply};
    use crate::context::Counter;

    #[test]
    fn one_receive_delivers_no_more_than_fits_into_one_answer() {
        let (mut counter, mut effects) = (Counter::default(), Vec::new());
        let mut ctx = Context { now: Millis(0), counter: &mut counter, effects: &mut effects };
        let mut queues = Queues::new(Limits { messages_max: 10, bytes_max: u64::MAX });
        let queue = QueueName("q".into());
        let large = usize::try_from(RECEIVE_BYTES / 2 + 1).unwrap();
        for bytes in [large, large, 3 * large] {
            let message =
                NewMessage { key: None, body: vec![0; bytes].into(), delay: Millis(0), enqueued_at: 0 };
            let op = QueueOp::Push { queue: queue.clone(), messages: vec![message] };
            assert!(matches!(queues.apply(&mut ctx, &op), Reply::Pushed(_)));
        }
        let mut receive = || queues.receive(&mut ctx, &queue, 10, Millis(1_000)).len();
        assert_eq!([receive(), receive(), receive(), receive()], [1, 1, 1, 0]);
    }
}
