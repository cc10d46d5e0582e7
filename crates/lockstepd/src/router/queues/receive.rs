//! Pops, and receives with what they acknowledge on the way: what a caller is told, and what becomes of it
//! when the caller has gone.
//!
//! It does not know where messages are: [`Router::take`] asks the shards.

use std::sync::Arc;

use lockstep_core::Millis;
use lockstep_core::command::{InSession, QueueOp};
use lockstep_core::names::{QueueName, Receipt, SessionId, ShardId};
use tokio::sync::oneshot;

use super::super::{Asked, Error, Router};
use super::Message;
use super::take::{PATIENCE, Want};

/// The step of a named receive in which it acknowledges; its own steps are numbered from 0.
const ACKS: u32 = u32::MAX;

/// A receive, and what it acknowledges on the way.
#[derive(Clone, Debug)]
pub struct Receive {
    /// From where.
    pub queue: QueueName,
    /// At most so many messages.
    pub max: u32,
    /// How long they stay hidden; without it the queue's own holds.
    pub visibility: Option<Millis>,
    /// Each of its heartbeats extends the receipts, and its end returns the messages.
    pub session: Option<SessionId>,
    /// How long to wait for a message, at most.
    pub wait: Millis,
    /// Earlier deliveries of any queue, which are done.
    pub acks: Vec<(ShardId, Receipt)>,
}

/// What came of a [`Receive`].
#[derive(Debug)]
pub struct Received {
    /// One result for each acknowledgement, in order.
    pub acked: Vec<Result<(), Error>>,
    /// Empty: every shard proved empty.
    pub messages: Result<Vec<Message>, Error>,
}

impl Router {
    /// Takes one message from whichever shard has one. `None`: every shard proved empty.
    pub async fn pop(
        self: &Arc<Self>,
        queue: QueueName,
        wait: Millis,
        asked: &Asked,
    ) -> Result<Option<Message>, Error> {
        let op = QueueOp::Pop { queue: queue.clone() };
        let want = Want { queue, op, wait, asked: asked.clone() };
        Ok(self.deliver(want, Vec::new()).await.messages?.pop())
    }

    /// Delivers up to `max` messages, and acknowledges earlier ones with it: at each shard first, so
    /// that the next message of a key can come with the acknowledgement of the last one.
    pub async fn receive(self: &Arc<Self>, receive: Receive, asked: &Asked) -> Received {
        let Receive { queue, max, visibility, session, wait, acks } = receive;
        let session = session.map(|session| InSession { session, proven: false });
        let op = QueueOp::Receive { queue: queue.clone(), max, visibility, session };
        self.deliver(Want { queue, op, wait, asked: asked.clone() }, acks).await
    }

    /// A caller that hangs up gets nothing: what was taken for it goes back at once. Not so for a
    /// named request, which may be asked again for its answer.
    async fn deliver(self: &Arc<Self>, want: Want, acks: Vec<(ShardId, Receipt)>) -> Received {
        let router = Arc::clone(self);
        let (mut answer, caller) = oneshot::channel();
        let count = acks.len();
        tokio::spawn(async move {
            let named = want.asked.id.is_some();
            let received = router.settle_and_take(&want, acks, &mut answer).await;
            if let Err(Received { messages: Ok(messages), .. }) = answer.send(received)
                && !named
            {
                router.give_back(messages).await;
            }
        });
        let unknown = || Received {
            acked: vec![Err(Error::OutcomeUnknown); count],
            messages: Err(Error::OutcomeUnknown),
        };
        caller.await.unwrap_or_else(|_| unknown())
    }

    async fn settle_and_take(
        self: &Arc<Self>,
        want: &Want,
        acks: Vec<(ShardId, Receipt)>,
        caller: &mut oneshot::Sender<Received>,
    ) -> Received {
        if acks.is_empty() {
            return Received { acked: Vec::new(), messages: self.take(want, caller).await };
        }
        let (acked, messages) = self.settle_beside_taking(want, acks, caller).await;
        let messages = match messages {
            // What has just been acknowledged may have been all that kept the next one back.
            Ok(messages) if messages.is_empty() => self.take(want, caller).await,
            messages => messages,
        };
        Received { acked, messages }
    }

    /// Both are on their way before either is done, the acknowledgements first: a shard that has something
    /// to give commits the two in one entry.
    async fn settle_beside_taking(
        self: &Arc<Self>,
        want: &Want,
        acks: Vec<(ShardId, Receipt)>,
        caller: &mut oneshot::Sender<Received>,
    ) -> (Vec<Result<(), Error>>, Result<Vec<Message>, Error>) {
        let unknown = vec![Err(Error::OutcomeUnknown); acks.len()];
        let asked = want.asked.step(ACKS);
        let at_once = Want { wait: Millis(0), ..want.clone() };
        let settle = self.ack(acks, &asked);
        let take = self.take(&at_once, caller);
        tokio::pin!(settle, take);
        tokio::select! {
            biased;
            acked = &mut settle => (acked, take.await),
            messages = &mut take => match messages {
                // Their time runs: they are not kept waiting for a shard that is slow to answer.
                Ok(messages) if !messages.is_empty() => {
                    let acked = tokio::time::timeout(PATIENCE, settle).await;
                    (acked.unwrap_or(unknown), Ok(messages))
                }
                messages => (settle.await, messages),
            },
        }
    }
}
