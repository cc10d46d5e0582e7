//! Queues over all their shards: a message's key picks one, a consumer asks them all.
//!
//! It keeps no messages: what is taken from a shard goes to the caller at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, select_all};
use lockstep_core::command::{Delivered, NewMessage, QueueOp};
use lockstep_core::dedup::delivered;
use lockstep_core::guards::Guard;
use lockstep_core::names::{MessageId, QueueName, Receipt, ShardId};
use lockstep_core::query::{Answer, Query, QueueView};
use lockstep_core::{Millis, Op, Refusal, Reply};

use super::attempt::Request;
use super::wire::{Said, What};
use super::{Asked, Error, Router};

/// How long a shard without a leader keeps a consumer from looking at the others.
const PATIENCE: Duration = Duration::from_secs(1);

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
    /// shard are pushed all or none.
    pub async fn push(
        &self,
        queue: QueueName,
        messages: Vec<NewMessage>,
        asked: &Asked,
    ) -> Vec<Result<(ShardId, MessageId), Error>> {
        let count = messages.len();
        let mut groups: BTreeMap<ShardId, (Vec<usize>, Vec<NewMessage>)> = BTreeMap::new();
        for (place, message) in messages.into_iter().enumerate() {
            let (places, group) = groups.entry(self.shard_for(&queue, &message, place, asked)).or_default();
            places.push(place);
            group.push(message);
        }
        let pushes = groups.into_iter().map(|(shard, (places, messages))| {
            let op = Op::Queue(QueueOp::Push { queue: queue.clone(), messages });
            async move { (shard, places, self.execute(shard, op, asked).await) }
        });
        let mut results: Vec<_> = (0..count).map(|_| Err(Error::OutcomeUnknown)).collect();
        for (shard, places, reply) in join_all(pushes).await {
            for (nth, place) in places.into_iter().enumerate() {
                results[place] = match &reply {
                    Ok(Reply::Pushed(ids)) => {
                        ids.get(nth).map(|id| (shard, *id)).ok_or(Error::OutcomeUnknown)
                    }
                    Ok(_) => Err(Error::OutcomeUnknown),
                    Err(error) => Err(error.clone()),
                };
            }
        }
        results
    }

    /// Takes one message from whichever shard has one. `None`: every shard proved empty.
    pub async fn pop(&self, queue: QueueName, wait: Millis, asked: &Asked) -> Result<Option<Message>, Error> {
        let op = QueueOp::Pop { queue: queue.clone() };
        Ok(self.take(&queue, op, wait, asked).await?.pop())
    }

    /// Delivers up to `max` messages. Empty: every shard proved empty.
    pub async fn receive(
        &self,
        queue: QueueName,
        max: u32,
        visibility: Millis,
        wait: Millis,
        asked: &Asked,
    ) -> Result<Vec<Message>, Error> {
        let op = QueueOp::Receive { queue: queue.clone(), max, visibility };
        self.take(&queue, op, wait, asked).await
    }

    /// Acknowledges receipts, each at its shard: one result per receipt, in order.
    pub async fn ack(&self, receipts: Vec<(ShardId, Receipt)>, asked: &Asked) -> Vec<Result<(), Error>> {
        let count = receipts.len();
        let mut groups: BTreeMap<ShardId, (Vec<usize>, Vec<Receipt>)> = BTreeMap::new();
        for (place, (shard, receipt)) in receipts.into_iter().enumerate() {
            let (places, group) = groups.entry(shard).or_default();
            places.push(place);
            group.push(receipt);
        }
        let acks = groups.into_iter().map(|(shard, (places, receipts))| async move {
            let known = self.routes.contains_key(&shard) && shard != ShardId::COORDINATION;
            let reply = match known {
                true => self.execute(shard, Op::Queue(QueueOp::Ack { receipts }), asked).await,
                false => Err(Refusal::StaleReceipt.into()),
            };
            (places, reply)
        });
        let mut results: Vec<_> = (0..count).map(|_| Err(Error::OutcomeUnknown)).collect();
        for (places, reply) in join_all(acks).await {
            for (nth, place) in places.into_iter().enumerate() {
                results[place] = match &reply {
                    Ok(Reply::Acked(done)) => match done.get(nth) {
                        Some(result) => result.clone().map_err(Error::from),
                        None => Err(Error::OutcomeUnknown),
                    },
                    Ok(_) => Err(Error::OutcomeUnknown),
                    Err(error) => Err(error.clone()),
                };
            }
        }
        results
    }

    /// An operation on one receipt: nack or extend.
    pub async fn queue(&self, shard: ShardId, op: QueueOp, asked: &Asked) -> Result<Reply, Error> {
        if !self.routes.contains_key(&shard) || shard == ShardId::COORDINATION {
            return Err(Refusal::StaleReceipt.into());
        }
        self.execute(shard, Op::Queue(op), asked).await
    }

    /// Counts of a queue, added up over all shards.
    pub async fn queue_stats(&self, queue: QueueName, timeout: Duration) -> Result<QueueView, Error> {
        let mut sum = QueueView::default();
        for view in self.views(&queue, timeout).await {
            let (_, view) = view?;
            sum.ready += view.ready;
            sum.deliverable |= view.deliverable;
            sum.in_flight += view.in_flight;
            sum.delayed += view.delayed;
            sum.bytes += view.bytes;
            sum.oldest_enqueued_at = match (sum.oldest_enqueued_at, view.oldest_enqueued_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Ok(sum)
    }

    /// The names of all queues, in order.
    pub async fn queues(&self, timeout: Duration) -> Result<Vec<QueueName>, Error> {
        let asks = self.queue_shards().into_iter().map(|shard| self.query(shard, Query::Queues, timeout));
        let mut names = std::collections::BTreeSet::new();
        for answer in join_all(asks).await {
            if let Answer::Queues(more) = answer? {
                names.extend(more);
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Takes from one shard after another; a proof of emptiness asks them all at once.
    async fn take(
        &self,
        queue: &QueueName,
        op: QueueOp,
        wait: Millis,
        asked: &Asked,
    ) -> Result<Vec<Message>, Error> {
        let until = self.clock.now() + Duration::from_millis(wait.0);
        let mut candidates = self.answered_by(asked).await?;
        candidates.extend(self.turn(asked));
        // Shards that told this very request that they were empty: they would say so again.
        let mut spent = BTreeSet::new();
        loop {
            let deadline = self.deadline(asked.timeout);
            loop {
                for shard in candidates {
                    match self.take_from(shard, queue, op.clone(), asked, deadline).await? {
                        Some(taken) if !taken.is_empty() => return Ok(taken),
                        Some(_) if asked.id.is_some() => {
                            spent.insert(shard);
                        }
                        _ => {}
                    }
                }
                // Looking cost the log nothing and proved nothing: now ask behind a barrier.
                let left = deadline.saturating_sub(self.clock.now());
                let views: Result<Vec<_>, _> = self.views(queue, left).await.into_iter().collect();
                let deliverable = views?.into_iter().filter(|(_, view)| view.deliverable);
                candidates =
                    deliverable.map(|(shard, _)| shard).filter(|shard| !spent.contains(shard)).collect();
                if candidates.is_empty() {
                    break;
                }
            }
            let left = until.saturating_sub(self.clock.now());
            if left.is_zero() || self.is_draining() {
                return Ok(Vec::new());
            }
            tokio::select! {
                () = self.await_any(queue, left, &spent) => {}
                // Every shard has just proved empty: the caller may wait on at another node.
                () = self.drained() => return Ok(Vec::new()),
            }
            candidates = self.turn(asked);
            candidates.retain(|shard| !spent.contains(shard));
        }
    }

    /// The shards that remember a request of this name. A retry must find its first answer before
    /// it looks for messages anywhere: it would take others.
    async fn answered_by(&self, asked: &Asked) -> Result<Vec<ShardId>, Error> {
        let Some(id) = &asked.id else { return Ok(Vec::new()) };
        let asks = self.queue_shards().into_iter().map(|shard| async move {
            let query = Query::Remembers { id: id.id.clone() };
            let answer = self.query(shard, query, asked.timeout).await?;
            Ok((answer == Answer::Remembers(true)).then_some(shard))
        });
        join_all(asks).await.into_iter().filter_map(Result::transpose).collect()
    }

    /// `None` where nothing was deliverable at the moment of asking, or the shard did not answer
    /// and certainly gave nothing: the proof that follows will tell.
    async fn take_from(
        &self,
        shard: ShardId,
        queue: &QueueName,
        op: QueueOp,
        asked: &Asked,
        deadline: Duration,
    ) -> Result<Option<Vec<Message>>, Error> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        let request = self.request(shard, asked);
        self.guarded(asked.guard.as_ref(), asked.timeout, |guard| {
            self.take_under(shard, queue, &op, &request, deadline, guard)
        })
        .await
    }

    async fn take_under(
        &self,
        shard: ShardId,
        queue: &QueueName,
        op: &QueueOp,
        request: &Request,
        deadline: Duration,
        guard: Option<Guard>,
    ) -> Result<Option<Vec<Message>>, Error> {
        let patience = self.deadline(PATIENCE);
        loop {
            let command = request.command(self, shard, guard.clone(), Op::Queue(op.clone()));
            let what = What::Take(queue.clone(), command);
            let told = match self.ask_patiently(shard, what, patience, deadline).await {
                Ok(Said::Taken(Some(told))) => told,
                Ok(_) | Err(Error::NoLeader { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            match told.reply {
                // This node knew too old a log time; by the answer it knows a newer one.
                Reply::Refused(Refusal::TooLate) if self.clock.now() < deadline => {}
                Reply::Refused(refusal) => return Err(refusal.into()),
                reply => return Ok(Some(taken(shard, &reply, told.bodies))),
            }
        }
    }

    /// Sleeps until any shard has something to deliver, at most `left`.
    async fn await_any(&self, queue: &QueueName, left: Duration, not: &BTreeSet<ShardId>) {
        let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let deadline = self.deadline(left);
        let shards = self.queue_shards().into_iter().filter(|shard| !not.contains(shard));
        let sleeps: Vec<_> = shards
            .map(|shard| Box::pin(self.ask(shard, What::AwaitQueue(queue.clone(), ms), deadline)))
            .collect();
        if sleeps.is_empty() {
            return tokio::time::sleep(left).await;
        }
        // Whichever wakes first, and why: looking again tells.
        let _ = select_all(sleeps).await;
    }

    async fn views(&self, queue: &QueueName, timeout: Duration) -> Vec<Result<(ShardId, QueueView), Error>> {
        let asks = self.queue_shards().into_iter().map(|shard| async move {
            match self.query(shard, Query::Queue { queue: queue.clone() }, timeout).await? {
                Answer::Queue(view) => Ok((shard, view)),
                _ => Err(Error::NoLeader { shard }),
            }
        });
        join_all(asks).await
    }

    /// A key decides; without one whatever makes a retry come back to the same shard.
    fn shard_for(&self, queue: &QueueName, message: &NewMessage, place: usize, asked: &Asked) -> ShardId {
        match (&message.key, &asked.id) {
            (Some(key), _) => self.ring.shard_of(&queue.0, key.0.as_bytes()),
            (None, Some(id)) => self.ring.shard_of(&queue.0, format!("{}#{place}", id.id).as_bytes()),
            (None, None) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                self.ring.shard_of(&queue.0, &turn.to_le_bytes())
            }
        }
    }

    fn queue_shards(&self) -> Vec<ShardId> {
        self.routes.keys().copied().filter(|shard| *shard != ShardId::COORDINATION).collect()
    }

    /// The queue shards, beginning with another one each time, so that none starves. A named
    /// request always begins with the same one, as its retry does.
    fn turn(&self, asked: &Asked) -> Vec<ShardId> {
        let mut shards = self.queue_shards();
        let turn = match &asked.id {
            Some(id) => id.fingerprint,
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let by = usize::try_from(turn % shards.len().max(1) as u64).unwrap_or(0);
        shards.rotate_left(by);
        shards
    }
}

/// The messages in a reply with their bodies.
fn taken(shard: ShardId, reply: &Reply, bodies: Vec<Bytes>) -> Vec<Message> {
    let messages = delivered(reply).iter().cloned().zip(bodies);
    messages.map(|(delivered, body)| Message { shard, delivered, body }).collect()
}
