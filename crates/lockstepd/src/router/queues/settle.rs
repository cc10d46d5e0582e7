//! What consumers do with what they hold: acknowledge, give back, extend, and push onward in one step.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use lockstep_core::command::{Forwarded, NewMessage, Onward, Placed, QueueOp};
use lockstep_core::names::{QueueName, Receipt, ShardId};
use lockstep_core::{Millis, Op, Refusal, Reply};

use super::super::{Asked, Error, Router};
use super::Message;

/// Where messages that were pushed onward are: the shard, and the id where it is known.
pub type Onwards = Vec<(ShardId, Option<Placed>)>;

/// How long giving back is tried after a caller has hung up; then the time-out does it.
const GIVE_BACK: Duration = Duration::from_secs(5);

impl Router {
    /// Acknowledges receipts, each at its shard: one result per receipt, in order.
    pub async fn ack(&self, receipts: Vec<(ShardId, Receipt)>, asked: &Asked) -> Vec<Result<(), Error>> {
        self.settle(receipts, asked, |receipts| QueueOp::Ack { receipts }).await
    }

    /// Puts messages back in their places.
    pub async fn nack(
        &self,
        receipts: Vec<(ShardId, Receipt)>,
        delay: Millis,
        failed: bool,
        asked: &Asked,
    ) -> Vec<Result<(), Error>> {
        self.settle(receipts, asked, |receipts| QueueOp::Nack { receipts, delay, failed }).await
    }

    /// Restarts visibility time-outs.
    pub async fn extend(
        &self,
        receipts: Vec<(ShardId, Receipt)>,
        visibility: Millis,
        asked: &Asked,
    ) -> Vec<Result<(), Error>> {
        self.settle(receipts, asked, |receipts| QueueOp::Extend { receipts, visibility }).await
    }

    /// Acknowledges receipts of one shard and pushes messages, all of it or nothing. Returns when
    /// everything has arrived.
    pub async fn ack_push(
        &self,
        shard: ShardId,
        receipts: Vec<Receipt>,
        push: Vec<(QueueName, NewMessage)>,
        asked: &Asked,
    ) -> Result<Onwards, Error> {
        self.known(shard)?;
        let Some((queue, _)) = push.first() else { return Err(Refusal::Invalid.into()) };
        let queue = queue.clone();
        let need = super::borrow::need(&push.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>());
        let onward = |(queue, message): (QueueName, NewMessage)| Onward {
            // Without a key it may be anywhere: here it needs no carrying.
            shard: self.shard_for(&queue, &message).unwrap_or(shard),
            queue,
            message,
        };
        let push: Vec<Onward> = push.into_iter().map(onward).collect();
        let targets: Vec<ShardId> = push.iter().map(|onward| onward.shard).collect();
        let op = Op::Queue(QueueOp::AckPush { receipts, push });
        let reply =
            self.with_borrowed_room(shard, &queue, need, || self.execute(shard, op.clone(), asked)).await?;
        let Reply::Forwarded(places) = reply else { return Err(Error::OutcomeUnknown) };
        let mut onwards = Vec::with_capacity(places.len());
        for (place, target) in places.into_iter().zip(targets) {
            onwards.push(match place {
                Forwarded::Here(placed) => (target, Some(placed)),
                Forwarded::Sent { to, seq, .. } => {
                    if !self.await_letter(shard, to, seq, asked.timeout).await {
                        return Err(Error::OutcomeUnknown);
                    }
                    (target, None)
                }
            });
        }
        Ok(onwards)
    }

    /// Nobody was told of these: back they go, and it is nobody's failure.
    pub(super) async fn give_back(&self, messages: Vec<Message>) {
        let receipts = messages
            .iter()
            .filter(|message| message.delivered.delivery > 0)
            .map(|message| {
                let Message { shard, delivered, .. } = message;
                (*shard, Receipt { message: delivered.id, delivery: delivered.delivery })
            })
            .collect::<Vec<_>>();
        if !receipts.is_empty() {
            self.nack(receipts, Millis(0), false, &Asked::plain(GIVE_BACK)).await;
        }
    }

    fn known(&self, shard: ShardId) -> Result<(), Error> {
        match self.routes.contains_key(&shard) && shard != ShardId::COORDINATION {
            true => Ok(()),
            false => Err(Refusal::StaleReceipt.into()),
        }
    }

    async fn settle(
        &self,
        receipts: Vec<(ShardId, Receipt)>,
        asked: &Asked,
        op: impl Fn(Vec<Receipt>) -> QueueOp,
    ) -> Vec<Result<(), Error>> {
        let count = receipts.len();
        let mut groups: BTreeMap<ShardId, (Vec<usize>, Vec<Receipt>)> = BTreeMap::new();
        for (place, (shard, receipt)) in receipts.into_iter().enumerate() {
            let (places, group) = groups.entry(shard).or_default();
            places.push(place);
            group.push(receipt);
        }
        let settles = groups.into_iter().map(|(shard, (places, receipts))| {
            let op = Op::Queue(op(receipts));
            async move {
                let reply = match self.known(shard) {
                    Ok(()) => self.execute(shard, op, asked).await,
                    Err(error) => Err(error),
                };
                (places, reply)
            }
        });
        let mut results: Vec<_> = (0..count).map(|_| Err(Error::OutcomeUnknown)).collect();
        for (places, reply) in join_all(settles).await {
            for (nth, place) in places.into_iter().enumerate() {
                results[place] = match &reply {
                    Ok(Reply::Settled(done)) => match done.get(nth) {
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
}
