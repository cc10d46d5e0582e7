//! Limits over all shards: each shard owns a share of a queue's limits, and may only use what it owns.
//! One that needs more is given room that another does not use, so the limits hold exactly at every
//! moment, and one hot key can use all of them.
//!
//! Room that is on its way belongs to nobody: it travels through the outbox, exactly once. It never
//! comes back by itself; whoever needs it asks.

use super::{Limits, Queues};
use crate::command::{Cargo, NewMessage, QueueOp, Refusal, Reply, Room};
use crate::context::Context;
use crate::names::{QueueName, ShardId};
use crate::queue::QueueConfig;

impl Queues {
    pub(super) fn configure(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        version: u64,
        config: &QueueConfig,
    ) -> Reply {
        let share = self.share_of(config);
        let at = self.queue_for(name);
        if let Some(queue) = self.registry.get_mut(at)
            && queue.version < version
        {
            queue.version = version;
            queue.config = config.clone();
            (queue.share, queue.room) = (share, share);
        }
        self.registry.touch(at, ctx.now);
        Reply::Configured { version, config: config.clone() }
    }

    /// The shares have changed: what a shard owns changes by as much as its share.
    pub(super) fn deal_out(&mut self) {
        let all: Vec<u32> = self.registry.iter().map(|(at, _)| at).collect();
        for at in all {
            let Some(share) = self.registry.get(at).map(|queue| self.share_of(&queue.config)) else {
                continue;
            };
            if let Some(queue) = self.registry.get_mut(at) {
                let moved = |room: u64, old: u64, new: u64| room.saturating_add(new).saturating_sub(old);
                queue.room.messages = moved(queue.room.messages, queue.share.messages, share.messages);
                queue.room.bytes = moved(queue.room.bytes, queue.share.bytes, share.bytes);
                queue.share = share;
            }
        }
    }

    /// Whether more messages fit. `freed` is what leaves in the same step.
    pub(super) fn fits(&self, name: &QueueName, more: Room, freed: Room) -> bool {
        let (room, used) = match self.registry.by_name(name) {
            Some(queue) => (queue.room, queue.used),
            None => (self.default_share(), Room::default()),
        };
        let after = |used: u64, freed: u64, more: u64| used.saturating_sub(freed).saturating_add(more);
        after(used.messages, freed.messages, more.messages) <= room.messages
            && after(used.bytes, freed.bytes, more.bytes) <= room.bytes
    }

    /// Gives what is needed, or half of what is unused if that is more: the next need is near.
    pub(super) fn lend(&mut self, ctx: &mut Context<'_>, op: &QueueOp) -> Reply {
        let QueueOp::Lend { queue: name, version, to, room: wanted } = op else {
            return Reply::Refused(Refusal::Invalid);
        };
        if *to == self.shard || to.0 == 0 || to.0 > self.shards {
            return Reply::Refused(Refusal::Invalid);
        }
        let at = self.queue_for(name);
        let Some(queue) = self.registry.get_mut(at) else { return Reply::Refused(Refusal::Invalid) };
        let mut lent = Room::default();
        if queue.version == *version {
            let part = |room: u64, used: u64, wanted: u64| {
                let unused = room.saturating_sub(used);
                if wanted == 0 { 0 } else { unused.min(wanted.max(unused / 2)) }
            };
            lent.messages = part(queue.room.messages, queue.used.messages, wanted.messages);
            lent.bytes = part(queue.room.bytes, queue.used.bytes, wanted.bytes);
            queue.room.messages -= lent.messages;
            queue.room.bytes -= lent.bytes;
        }
        self.registry.touch(at, ctx.now);
        if lent == Room::default() {
            return Reply::Lent { room: lent, seq: 0 };
        }
        let (seq, _) = self.outbox.send(ctx, *to, name, Cargo::Room { version: *version, room: lent });
        Reply::Lent { room: lent, seq }
    }

    /// Room that arrives for an older configuration is void: the new one has dealt out all there is.
    pub(super) fn borrow(&mut self, ctx: &mut Context<'_>, name: &QueueName, version: u64, more: Room) {
        let at = self.queue_for(name);
        if let Some(queue) = self.registry.get_mut(at)
            && queue.version == version
        {
            queue.room.messages = queue.room.messages.saturating_add(more.messages);
            queue.room.bytes = queue.room.bytes.saturating_add(more.bytes);
        }
        self.registry.touch(at, ctx.now);
    }

    /// The queue of this name, made if there is none.
    pub(super) fn queue_for(&mut self, name: &QueueName) -> u32 {
        let share = self.default_share();
        self.registry.find_or_insert(name, share)
    }

    fn default_share(&self) -> Room {
        self.share_of(&QueueConfig::default())
    }

    fn share_of(&self, config: &QueueConfig) -> Room {
        let Limits { messages_max, bytes_max } = self.limits;
        let share = |total: u64| share(total, self.shard, self.shards);
        Room {
            messages: share(config.max_messages.unwrap_or(messages_max)),
            bytes: share(config.max_bytes.unwrap_or(bytes_max)),
        }
    }
}

/// What `messages` take.
pub(super) fn room_for<'a>(messages: impl IntoIterator<Item = &'a NewMessage>) -> Room {
    messages.into_iter().fold(Room::default(), |room, message| Room {
        messages: room.messages + 1,
        bytes: room.bytes.saturating_add(message.body.len() as u64),
    })
}

/// The parts of all shards add up to `total`.
fn share(total: u64, shard: ShardId, shards: u32) -> u64 {
    let shards = u64::from(shards.max(1));
    total / shards + u64::from((1..=total % shards).contains(&u64::from(shard.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit() {
        for (total, shards) in [(0, 3), (1, 3), (100, 3), (u64::MAX, 7), (5, 1)] {
            let sum: u64 = (1..=shards).map(|shard| share(total, ShardId(shard), shards)).sum();
            assert_eq!(sum, total, "{shards} shards");
        }
    }
}
