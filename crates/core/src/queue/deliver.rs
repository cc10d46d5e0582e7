//! Deliveries: taking messages, and what a receipt may do to them afterwards.
//!
//! Only the latest delivery of a message counts: every other receipt is stale and changes nothing.

use super::{Phase, Queues};
use crate::command::{Delivered, Refusal};
use crate::context::Context;
use crate::names::{MessageId, QueueName, Receipt};
use crate::stamp::Millis;

impl Queues {
    /// Takes the first deliverable message for good.
    pub(super) fn pop(&mut self, ctx: &mut Context<'_>, name: &QueueName) -> Option<Delivered> {
        let id = *self.queues.get(name)?.deliverable.first()?;
        let popped = self.deliver(id, 0, Millis(0))?;
        self.remove(ctx, id);
        Some(popped)
    }

    /// Delivers up to `max` messages, each hidden for `visibility`.
    pub(super) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        max: u32,
        visibility: Millis,
    ) -> Vec<Delivered> {
        let mut received = Vec::new();
        while received.len() < max as usize {
            let Some(queue) = self.queues.get_mut(name) else { break };
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
