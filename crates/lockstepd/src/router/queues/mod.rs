//! Queues over all their shards: a message's key picks one, a consumer asks them all.
//!
//! It keeps no messages: what is taken from a shard goes to the caller at once.

mod borrow;
mod carry;
mod manage;
mod receive;
mod sessions;
mod settle;
mod take;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::join_all;
use lockstep_core::command::{Delivered, NewMessage, Placed, QueueOp};
use lockstep_core::names::{QueueName, ShardId};
use lockstep_core::{Op, Reply};

use super::{Asked, Error, Router};

pub(super) use borrow::Borrowing;
pub use manage::{Page, Stats};
pub use receive::{Receive, Received};
pub(super) use sessions::Enlisted;
pub use sessions::Heartbeat;
pub use settle::Onwards;
pub(super) use watch::Watches;

/// So many messages without a key go to one shard before the next shard's turn.
const IN_A_ROW: u64 = 512;

/// A message with its payload and the shard that holds it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it lives.
    pub shard: ShardId,
    /// What the shard said.
    pub delivered: Delivered,
    /// The payload, as it was pushed.
    pub body: Bytes,
}

impl Router {
    /// Pushes messages, each to its key's shard: one result per message, in order. Messages of one
    /// shard are pushed all or none, but for repeated dedup ids.
    pub async fn push(
        &self,
        queue: QueueName,
        messages: Vec<NewMessage>,
        asked: &Asked,
    ) -> Vec<Result<(ShardId, Placed), Error>> {
        let count = messages.len();
        let (loose, by_turn) = self.loose_shard(&queue, count, asked);
        let mut groups: BTreeMap<ShardId, (Vec<usize>, Vec<NewMessage>)> = BTreeMap::new();
        for (place, message) in messages.into_iter().enumerate() {
            let shard = self.shard_for(&queue, &message).unwrap_or(loose);
            let (places, group) = groups.entry(shard).or_default();
            places.push(place);
            group.push(message);
        }
        let pushes = groups.into_iter().map(|(shard, (places, messages))| {
            let queue = queue.clone();
            async move { (shard, places, self.push_to(shard, queue, messages, asked).await) }
        });
        let mut results: Vec<_> = (0..count).map(|_| Err(Error::OutcomeUnknown)).collect();
        for (shard, places, reply) in join_all(pushes).await {
            if shard == loose && by_turn && reply.as_ref().is_err_and(Error::is_of_the_shard) {
                self.loose.fetch_add(IN_A_ROW, Ordering::Relaxed);
            }
            for (nth, place) in places.into_iter().enumerate() {
                results[place] = match &reply {
                    Ok(Reply::Pushed(placed)) => match placed.get(nth) {
                        Some(placed) => placed.clone().map(|placed| (shard, placed)).map_err(Error::from),
                        None => Err(Error::OutcomeUnknown),
                    },
                    Ok(_) => Err(Error::OutcomeUnknown),
                    Err(error) => Err(error.clone()),
                };
            }
        }
        results
    }

    /// Where a message belongs, if its key or its dedup id says so: a repeat finds its first there.
    fn shard_for(&self, queue: &QueueName, message: &NewMessage) -> Option<ShardId> {
        let bytes = match (&message.key, &message.dedup) {
            (Some(key), _) => key.0.as_bytes(),
            (None, Some(dedup)) => dedup.as_bytes(),
            (None, None) => return None,
        };
        Some(self.ring.shard_of(&queue.0, bytes))
    }

    /// Where this request's messages without a key go, and whether that is by turn: all to one shard, a
    /// retry to the same, and what one lock guards to where its tokens are known. Otherwise to a shard
    /// that this node leads, if there is one, which spares a way; and many in a row to the same, because
    /// an entry costs the cluster the same whatever it carries.
    fn loose_shard(&self, queue: &QueueName, count: usize, asked: &Asked) -> (ShardId, bool) {
        let by = match (&asked.guard, &asked.id) {
            (Some(claim), _) => Some(claim.lock.0.as_bytes()),
            (None, Some(id)) => Some(id.id.as_bytes()),
            (None, None) => None,
        };
        if let Some(by) = by {
            return (self.ring.shard_of(&queue.0, by), false);
        }
        let all = self.queue_shards();
        let replica = |shard: &ShardId| self.replica(*shard);
        let led = |shard: &ShardId| replica(shard).is_some_and(|replica| replica.leads());
        // Of a shard that has no replica here nothing is known.
        let well = |shard: &ShardId| replica(shard).is_none_or(|replica| replica.leader().is_some());
        let those = |which: &dyn Fn(&ShardId) -> bool| {
            let some: Vec<_> = all.iter().copied().filter(|shard| which(shard)).collect();
            (!some.is_empty()).then_some(some)
        };
        let shards = those(&led).or_else(|| those(&well)).unwrap_or_else(|| all.clone());
        let turn = self.loose.fetch_add(count as u64, Ordering::Relaxed) / IN_A_ROW;
        let nth = usize::try_from(turn % shards.len().max(1) as u64).unwrap_or(0);
        (shards.get(nth).copied().unwrap_or(ShardId(1)), true)
    }

    async fn push_to(
        &self,
        shard: ShardId,
        queue: QueueName,
        messages: Vec<NewMessage>,
        asked: &Asked,
    ) -> Result<Reply, Error> {
        let need = borrow::need(&messages);
        let op = Op::Queue(QueueOp::Push { queue: queue.clone(), messages });
        self.with_borrowed_room(shard, &queue, need, || self.execute(shard, op.clone(), asked)).await
    }

    fn queue_shards(&self) -> Vec<ShardId> {
        self.routes.keys().copied().filter(|shard| *shard != ShardId::COORDINATION).collect()
    }
}
