//! A message's place: what waits where, what a consumer may have now, and the counts of it.
//!
//! Every change of a message's phase goes through here, so that the sets and the counts agree.

use super::{End, Message, Phase, Queues};
use crate::command::{Effect, Room};
use crate::context::Context;
use crate::names::MessageId;

impl Queues {
    /// Adds a message to its group's queue; it is counted and takes its place.
    pub(super) fn admit(&mut self, ctx: &mut Context<'_>, id: u64, message: Message) {
        if let Some(queue) = self.groups.get(message.group).map(|group| group.queue)
            && let Some(queue) = self.registry.get_mut(queue)
        {
            queue.used.messages += 1;
            queue.used.bytes = queue.used.bytes.saturating_add(u64::from(message.bytes));
            queue.delayed += u64::from(message.phase == Phase::Delayed);
        }
        self.messages.insert(id, message);
        self.hold(ctx, id);
    }

    /// Takes a message out of its place and its queue's counts. It is in no set afterwards.
    pub(super) fn dismiss(&mut self, ctx: &mut Context<'_>, id: u64) -> Option<Message> {
        let message = *self.messages.get(id)?;
        match message.phase {
            Phase::InFlight => {
                self.ground(id);
                self.set_busy(message.group, false);
            }
            Phase::Ready | Phase::Delayed => self.withdraw(ctx, id),
        }
        self.due.remove(&id);
        self.set_phase(id, Phase::Ready);
        self.messages.remove(id);
        let queue = self.groups.get(message.group)?.queue;
        if let Some(queue) = self.registry.get_mut(queue) {
            let Room { messages, bytes } = queue.used;
            queue.used = Room {
                messages: messages.saturating_sub(1),
                bytes: bytes.saturating_sub(message.bytes.into()),
            };
        }
        self.settle(ctx, message.group);
        self.groups.forget_if_done(message.group);
        self.registry.touch(queue, ctx.now);
        Some(message)
    }

    /// The message is done; the next of its key may go.
    pub(super) fn end(&mut self, ctx: &mut Context<'_>, id: u64, why: End) {
        let Some(queue) = self.queue_of(id) else { return };
        self.expiry.remove(&id);
        self.dismiss(ctx, id);
        self.removed.push(MessageId(id));
        if let Some(queue) = self.registry.get_mut(queue) {
            let total = match why {
                End::Delivered => &mut queue.totals.delivered,
                End::Expired => &mut queue.totals.expired,
                End::Purged => &mut queue.totals.purged,
            };
            *total += 1;
        }
        if let Some(origin) = self.origins.remove(&id)
            && let Some(queue) = self.registry.get_mut(origin)
        {
            queue.dead.remove(id);
            self.registry.touch(origin, ctx.now);
        }
    }

    /// Gives a message that is ready or delayed its place.
    pub(super) fn hold(&mut self, ctx: &mut Context<'_>, id: u64) {
        let Some(&Message { group: at, phase, priority, .. }) = self.messages.get(id) else { return };
        let Some(group) = self.groups.get_mut(at) else { return };
        if group.key.is_some() {
            group.insert(id);
            return self.settle(ctx, at);
        }
        let Some(queue) = self.registry.get_mut(group.queue) else { return };
        if phase == Phase::Delayed {
            queue.delayed_loose.insert(id, ());
        } else if queue.ready.insert(priority, id) {
            wake(ctx, queue);
        }
    }

    /// Takes a message that is ready or delayed out of its place.
    pub(super) fn withdraw(&mut self, ctx: &mut Context<'_>, id: u64) {
        let Some(&Message { group: at, priority, .. }) = self.messages.get(id) else { return };
        let Some(group) = self.groups.get_mut(at) else { return };
        if group.key.is_some() {
            group.remove(id);
            return self.settle(ctx, at);
        }
        if let Some(queue) = self.registry.get_mut(group.queue) {
            queue.ready.remove(priority, id);
            queue.delayed_loose.remove(id);
        }
    }

    /// Offers what a key has to offer now, and nothing else of it.
    pub(super) fn settle(&mut self, ctx: &mut Context<'_>, at: u32) {
        let Some(group) = self.groups.get_mut(at).filter(|group| group.key.is_some()) else { return };
        let first = group.first();
        let is_ready = self.messages.get(first).is_some_and(|message| message.phase == Phase::Ready);
        let offer = if group.busy || group.parked || !is_ready { 0 } else { first };
        let before = std::mem::replace(&mut group.offered, offer);
        if offer == before {
            return;
        }
        let Some(queue) = self.registry.get_mut(group.queue) else { return };
        if let Some(message) = self.messages.get(before) {
            queue.ready.remove(message.priority, before);
        }
        if let Some(message) = self.messages.get(offer)
            && queue.ready.insert(message.priority, offer)
        {
            wake(ctx, queue);
        }
    }

    /// The delay of a message has ended.
    pub(super) fn ripen(&mut self, ctx: &mut Context<'_>, id: u64) {
        self.withdraw(ctx, id);
        self.set_phase(id, Phase::Ready);
        self.hold(ctx, id);
    }

    pub(super) fn set_busy(&mut self, group: u32, busy: bool) {
        if let Some(group) = self.groups.get_mut(group) {
            group.busy = busy;
        }
    }

    pub(super) fn set_phase(&mut self, id: u64, phase: Phase) {
        let Some(queue) = self.queue_of(id) else { return };
        let Some(message) = self.messages.get_mut(id) else { return };
        let Some(queue) = self.registry.get_mut(queue) else { return };
        for (of, by) in [(message.phase, -1), (phase, 1)] {
            let count = match of {
                Phase::Ready => continue,
                Phase::Delayed => &mut queue.delayed,
                Phase::InFlight => &mut queue.in_flight,
            };
            *count = count.saturating_add_signed(by);
        }
        message.phase = phase;
    }

    pub(super) fn queue_of(&self, id: u64) -> Option<u32> {
        Some(self.groups.get(self.messages.get(id)?.group)?.queue)
    }
}

/// One hint is enough for many messages in a row.
fn wake(ctx: &mut Context<'_>, queue: &super::registry::Queue) {
    let says = matches!(ctx.effects.last(), Some(Effect::WakeQueue(name)) if *name == queue.name);
    if !queue.blocked && !says {
        ctx.effects.push(Effect::WakeQueue(queue.name.clone()));
    }
}
