//! Pushes: from clients, together with an acknowledgement, and from other shards.

use super::shares::room_for;
use super::{Message, Phase, Queues};
use crate::command::{Cargo, Forwarded, Letter, NewMessage, Onward, Placed, Refusal, Reply, Room};
use crate::context::Context;
use crate::names::{MessageId, QueueName, Receipt, ShardId};
use crate::stamp::Millis;

impl Queues {
    pub(super) fn push(&mut self, ctx: &mut Context<'_>, name: &QueueName, messages: &[NewMessage]) -> Reply {
        if messages.is_empty() || !messages.iter().all(is_valid) {
            return Reply::Refused(Refusal::Invalid);
        }
        // A repeat takes no room, however full the queue is.
        let is_new = |new: &&NewMessage| matches!(self.repeats.find(name, new), Ok(None));
        let more = room_for(messages.iter().filter(is_new));
        if more.messages > 0 && !self.fits(name, more, Room::default()) {
            return Reply::Refused(Refusal::QueueFull);
        }
        if messages.iter().any(|message| message.dedup.is_some()) && self.repeats.is_full() {
            return Reply::Refused(Refusal::MemoFull);
        }
        Reply::Pushed(messages.iter().map(|message| self.push_one(ctx, name, message)).collect())
    }

    /// Acknowledges and pushes, or does neither.
    pub(super) fn ack_push(&mut self, ctx: &mut Context<'_>, receipts: &[Receipt], push: &[Onward]) -> Reply {
        match self.may_ack_push(receipts, push) {
            Ok(()) => {
                receipts.iter().for_each(|receipt| {
                    let _ = self.ack(ctx, *receipt);
                });
                Reply::Forwarded(push.iter().map(|onward| self.forward(ctx, onward)).collect())
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// Takes what another shard has sent: each letter once, never refused.
    pub(super) fn arrive(&mut self, ctx: &mut Context<'_>, from: ShardId, letters: &[Letter]) -> Reply {
        let mut placed = Vec::with_capacity(letters.len());
        for Letter { seq, queue, cargo } in letters {
            placed.push(match cargo {
                _ if !self.outbox.take(from, *seq) => None,
                Cargo::Room { version, room } => {
                    self.borrow(ctx, queue, *version, *room);
                    None
                }
                Cargo::Message(message) => match self.push_one(ctx, queue, message) {
                    Ok(Placed { id, duplicate: false }) => Some(id),
                    Ok(Placed { duplicate: true, .. }) | Err(_) => None,
                },
            });
        }
        Reply::Arrived { up_to: self.outbox.taken(from), placed }
    }

    fn push_one(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        new: &NewMessage,
    ) -> Result<Placed, Refusal> {
        if let Some(id) = self.repeats.find(name, new)? {
            return Ok(Placed { id, duplicate: true });
        }
        let id = ctx.counter.next();
        self.repeats.remember(name, new, MessageId(id), ctx.now);
        let queue = self.queue_for(name);
        let message = Message {
            enqueued_at: new.enqueued_at,
            group: self.groups.find_or_insert(queue, new.key.as_ref()),
            bytes: u32::try_from(new.body.len()).unwrap_or(u32::MAX),
            attempts: 0,
            failures: 0,
            priority: new.priority,
            phase: if new.delay > Millis(0) { Phase::Delayed } else { Phase::Ready },
        };
        if message.phase == Phase::Delayed {
            self.due.set(id, ctx.now.plus(new.delay));
        }
        if let Some(ttl) = new.ttl {
            self.expiry.set(id, ctx.now.plus(ttl));
        }
        self.admit(ctx, id, message);
        if let Some(of) = self.registry.get_mut(queue) {
            of.totals.pushed += 1;
        }
        self.registry.touch(queue, ctx.now);
        Ok(Placed { id: MessageId(id), duplicate: false })
    }

    fn forward(&mut self, ctx: &mut Context<'_>, onward: &Onward) -> Forwarded {
        let Onward { shard, queue, message } = onward;
        if *shard == self.shard
            && let Ok(placed) = self.push_one(ctx, queue, message)
        {
            return Forwarded::Here(placed);
        }
        let (seq, body) = self.outbox.send(ctx, *shard, queue, Cargo::Message(message.clone()));
        Forwarded::Sent { to: *shard, seq, body }
    }

    fn may_ack_push(&self, receipts: &[Receipt], push: &[Onward]) -> Result<(), Refusal> {
        let mut freed: Vec<(QueueName, Room)> = Vec::new();
        for (nth, receipt) in receipts.iter().enumerate() {
            let id = self.check(*receipt)?;
            if receipts[..nth].contains(receipt) {
                return Err(Refusal::StaleReceipt);
            }
            let queue = self.queue_of(id).and_then(|at| self.registry.get(at)).map(|queue| &queue.name);
            let bytes = self.messages.get(id).map_or(0, |message| u64::from(message.bytes));
            freed.extend(queue.map(|queue| (queue.clone(), Room { messages: 1, bytes })));
        }
        let mut sums: std::collections::BTreeMap<&QueueName, Vec<&NewMessage>> = Default::default();
        for Onward { shard, queue, message } in push {
            let known = shard.0 > 0 && shard.0 <= self.shards;
            if !known || !is_valid(message) {
                return Err(Refusal::Invalid);
            }
            if *shard == self.shard {
                self.repeats.find(queue, message)?;
            } else if !self.outbox.has_room(*shard) {
                return Err(Refusal::QueueFull);
            }
            sums.entry(queue).or_default().push(message);
        }
        for (queue, messages) in sums {
            let freed = freed.iter().filter(|(name, _)| name == queue);
            let freed = freed.fold(Room::default(), |sum, (_, room)| Room {
                messages: sum.messages + room.messages,
                bytes: sum.bytes + room.bytes,
            });
            if self.registry.find(queue).is_none() && self.registry.is_full() {
                return Err(Refusal::TooManyQueues);
            }
            if !self.fits(queue, room_for(messages), freed) {
                return Err(Refusal::QueueFull);
            }
        }
        Ok(())
    }
}

fn is_valid(message: &NewMessage) -> bool {
    message.priority <= super::PRIORITY_MAX && u32::try_from(message.body.len()).is_ok()
}
