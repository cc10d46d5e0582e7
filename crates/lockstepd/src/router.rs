//! Serve here or forward: any node answers any request, whichever node leads its shard.
//!
//! It retries under one request key until the deadline, and tells a certain failure from an
//! unknown outcome. It knows shards and commands, not HTTP.

use std::time::Duration;

use bytes::Bytes;
use lockstep_core::command::{Delivered, Grant, LockOp, Mode, NewMessage};
use lockstep_core::names::{LockName, MessageId, NodeId, Owner, QueueName, Receipt, ShardId};
use lockstep_core::query::{Answer, Query, QueueView};
use lockstep_core::{Epoch, Millis, Op, Refusal, Reply};

/// What a request carries beside its meaning.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client's `request_id` and a hash of the body that came with it.
    pub id: Option<RequestId>,
    /// How long the caller is willing to wait for the outcome, waiting in queues not counted.
    pub timeout: Duration,
}

/// A `request_id` as a client chose it.
#[derive(Clone, Debug)]
pub struct RequestId {
    /// At most 128 bytes.
    pub id: String,
    /// Of route and body.
    pub fingerprint: u64,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Refused by the state; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader could be reached in time; certainly nothing was done.
    #[error("shard {shard} has no leader that can be reached")]
    NoLeader {
        /// Which.
        shard: ShardId,
    },
    /// It may have been done, or may still be.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// Too much waits already; certainly nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// This node is stopping.
    #[error("draining")]
    Draining,
}

/// A message with its payload and the shard that holds it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Where it lives.
    pub shard: ShardId,
    /// What the shard said.
    pub delivered: Delivered,
    /// The payload, as it was pushed.
    pub body: Bytes,
}

/// Who leads the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub id: NodeId,
    /// Where clients reach it.
    pub url: String,
    /// Its reign.
    pub epoch: Epoch,
}

/// A shard as this node sees it.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Which.
    pub id: ShardId,
    /// Who leads it, if anybody.
    pub leader: Option<NodeId>,
    /// The leader's reign.
    pub epoch: Epoch,
    /// The last index applied here.
    pub applied: u64,
    /// Who holds replicas.
    pub replicas: Vec<NodeId>,
}

/// A member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Which.
    pub id: NodeId,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it, once it has joined.
    pub url: Option<String>,
    /// Whether it holds a membership lease.
    pub alive: bool,
}

/// Routes requests of this node.
pub struct Router {}

#[allow(unused_variables, clippy::unused_async)]
impl Router {
    /// This node.
    pub fn node(&self) -> NodeId {
        unimplemented!()
    }
    /// Who leads shard 0, as far as this node knows.
    pub fn leader(&self) -> Option<Leader> {
        unimplemented!()
    }
    /// Every configured member.
    pub fn members(&self) -> Vec<MemberView> {
        unimplemented!()
    }
    /// The ring epoch as applied here.
    pub fn ring_epoch(&self) -> u64 {
        unimplemented!()
    }
    /// Every shard.
    pub fn shards(&self) -> Vec<ShardView> {
        unimplemented!()
    }
    /// Why this node cannot serve now; empty when it can.
    pub fn not_ready(&self) -> Vec<String> {
        unimplemented!()
    }
    /// Runs one command at its shard's leader. For everything that does not wait in the shard.
    pub async fn execute(&self, shard: ShardId, op: Op, asked: &Asked) -> Result<Reply, Error> {
        unimplemented!()
    }
    /// Reads linearizably at the shard's leader.
    pub async fn query(&self, shard: ShardId, query: Query, timeout: Duration) -> Result<Answer, Error> {
        unimplemented!()
    }
    /// Grants a lock, waiting up to `wait`. Dropping the future leaves the queue, or gives an
    /// undelivered grant back.
    pub async fn acquire(
        &self,
        name: LockName,
        owner: Owner,
        mode: Mode,
        ttl: Millis,
        wait: Millis,
        asked: &Asked,
    ) -> Result<Grant, Error> {
        unimplemented!()
    }
    /// A lock operation that never waits: release or renew.
    pub async fn lock(&self, op: LockOp, asked: &Asked) -> Result<Reply, Error> {
        self.execute(ShardId::COORDINATION, Op::Lock(op), asked).await
    }
    /// Pushes messages, each to its key's shard: one result per message, in order.
    pub async fn push(
        &self,
        queue: QueueName,
        messages: Vec<NewMessage>,
        asked: &Asked,
    ) -> Vec<Result<(ShardId, MessageId), Error>> {
        unimplemented!()
    }
    /// Takes one message from whichever shard has one. `None`: every shard proved empty.
    pub async fn pop(&self, queue: QueueName, wait: Millis, asked: &Asked) -> Result<Option<Message>, Error> {
        unimplemented!()
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
        unimplemented!()
    }
    /// Acknowledges receipts, each at its shard: one result per receipt, in order.
    pub async fn ack(&self, receipts: Vec<(ShardId, Receipt)>, asked: &Asked) -> Vec<Result<(), Error>> {
        unimplemented!()
    }
    /// Counts of a queue, added up over all shards.
    pub async fn queue_stats(&self, queue: QueueName, timeout: Duration) -> Result<QueueView, Error> {
        unimplemented!()
    }
    /// The names of all queues, in order.
    pub async fn queues(&self, timeout: Duration) -> Result<Vec<QueueName>, Error> {
        unimplemented!()
    }
}
