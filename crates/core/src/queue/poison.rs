//! Messages that fail too often: they move to the dead-letter queue in the same step as the last
//! failure, and come back by hand.
//!
//! A dead letter that fails again stays where it is: there is no second dead-letter queue.

use super::{Message, OnPoison, Phase, Queues};
use crate::command::Reply;
use crate::context::Context;
use crate::names::{MessageKey, QueueName};

impl Queues {
    /// Whether the message has failed as often as its queue allows.
    pub(super) fn is_poison(&self, id: u64) -> bool {
        let Some(queue) = self.queue_of(id).and_then(|at| self.registry.get(at)) else { return false };
        let Some(message) = self.messages.get(id) else { return false };
        let max = queue.config.max_attempts;
        max > 0 && u32::from(message.failures) >= max && !self.origins.contains_key(&id)
    }

    /// Moves a message that is in flight to its dead-letter queue, whatever that one's limits. It
    /// waits there under its old id, for as long as it must: its time to live no longer counts.
    pub(super) fn dead_letter(&mut self, ctx: &mut Context<'_>, id: u64) {
        let Some(origin) = self.queue_of(id) else { return };
        let Some(queue) = self.registry.get_mut(origin) else { return };
        queue.totals.dead_lettered += 1;
        queue.dead.insert(id, ());
        let (to, policy) = (queue.config.dead_letter_of(&queue.name), queue.config.on_poison);
        queue.blocked |= policy == OnPoison::Block;
        let group = self.messages.get(id).map(|message| message.group);
        if policy == OnPoison::ParkKey
            && let Some(group) = group
        {
            self.park(group);
        }
        self.expiry.remove(&id);
        let to = self.queue_for(&to);
        self.origins.insert(id, origin);
        self.relocate(ctx, id, to);
        if let Some(queue) = self.registry.get_mut(to) {
            queue.totals.dead_in += 1;
        }
    }

    /// Brings up to `max` dead letters of `name` back, oldest first. What a consumer of the
    /// dead-letter queue has in flight stays there.
    pub(super) fn redrive(&mut self, ctx: &mut Context<'_>, name: &QueueName, max: u32) -> Reply {
        let Some(origin) = self.registry.find(name) else { return Reply::Redriven { moved: 0, left: 0 } };
        let mut moved = 0;
        let mut after = 0;
        while moved < max {
            let next = self.registry.get(origin).and_then(|queue| queue.dead.after(after).next());
            let Some((id, ())) = next else { break };
            after = id;
            if !self.flights.contains_key(&id) {
                self.bring_back(ctx, id, origin);
                moved += 1;
            }
        }
        let left = self.registry.get(origin).map_or(0, |queue| queue.dead.len());
        if moved > 0 || left == 0 {
            self.unblock(ctx, origin);
        }
        Reply::Redriven { moved, left }
    }

    /// Lets one parked key, or all of them and the queue itself, go on.
    pub(super) fn resume(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        key: Option<&MessageKey>,
    ) -> Reply {
        let Some(at) = self.registry.find(name) else { return Reply::Resumed { keys: 0 } };
        let parked: Vec<u32> = match (key, self.registry.get(at)) {
            (Some(key), _) => self.groups.find(at, Some(key)).into_iter().collect(),
            (None, Some(queue)) => queue.parked.iter().copied().collect(),
            (None, None) => Vec::new(),
        };
        let keys = parked.into_iter().filter(|group| self.unpark(ctx, *group)).count();
        if key.is_none() {
            self.unblock(ctx, at);
        }
        self.registry.touch(at, ctx.now);
        Reply::Resumed { keys: u32::try_from(keys).unwrap_or(u32::MAX) }
    }

    fn bring_back(&mut self, ctx: &mut Context<'_>, id: u64, origin: u32) {
        self.origins.remove(&id);
        let from = self.queue_of(id);
        if let Some(queue) = from.and_then(|at| self.registry.get_mut(at)) {
            queue.totals.dead_out += 1;
        }
        if let Some(queue) = self.registry.get_mut(origin) {
            queue.dead.remove(id);
            queue.totals.redriven += 1;
        }
        let Some(message) = self.messages.get_mut(id) else { return };
        message.failures = 0;
        self.relocate(ctx, id, origin);
        if let Some(group) = self.messages.get(id).map(|message| message.group) {
            self.unpark(ctx, group);
        }
    }

    /// Moves a message to another queue, ready, under the same key.
    fn relocate(&mut self, ctx: &mut Context<'_>, id: u64, to: u32) {
        let Some(message) = self.messages.get(id).copied() else { return };
        let key = self.groups.get(message.group).and_then(|group| group.key.clone());
        let group = self.groups.find_or_insert(to, key.as_ref());
        self.dismiss(ctx, id);
        self.admit(ctx, id, Message { group, phase: Phase::Ready, ..message });
        self.registry.touch(to, ctx.now);
    }

    fn park(&mut self, at: u32) {
        let Some(group) = self.groups.get_mut(at).filter(|group| group.key.is_some()) else { return };
        group.parked = true;
        if let Some(queue) = self.registry.get_mut(group.queue) {
            queue.parked.insert(at);
        }
    }

    /// Says whether the key was parked.
    fn unpark(&mut self, ctx: &mut Context<'_>, at: u32) -> bool {
        let Some(group) = self.groups.get_mut(at).filter(|group| group.parked) else { return false };
        group.parked = false;
        if let Some(queue) = self.registry.get_mut(group.queue) {
            queue.parked.remove(&at);
        }
        self.settle(ctx, at);
        self.groups.forget_if_done(at);
        true
    }

    fn unblock(&mut self, ctx: &mut Context<'_>, at: u32) {
        if let Some(queue) = self.registry.get_mut(at)
            && std::mem::take(&mut queue.blocked)
            && queue.ready.first().is_some()
        {
            ctx.effects.push(crate::Effect::WakeQueue(queue.name.clone()));
        }
    }
}
