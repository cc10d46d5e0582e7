//! The vocabulary of queues: what may be done to messages, and what is told of them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::names::{MessageId, MessageKey, QueueName, Receipt, SessionId, ShardId};
use crate::queue::{OnPoison, QueueConfig};
use crate::stamp::Millis;

/// A message to be pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// Orders it after earlier messages of the same key.
    pub key: Option<MessageKey>,
    /// The payload, opaque to the core: it only counts its bytes.
    pub body: Bytes,
    /// Not delivered before this much log time has passed.
    pub delay: Millis,
    /// Dropped, unless in flight, once this much log time has passed.
    pub ttl: Option<Millis>,
    /// 0 to 9: larger ones first among messages without a key and among the heads of keys.
    pub priority: u8,
    /// The same id under the same queue and key is one message for
    /// [`crate::queue::DEDUP_WINDOW`].
    pub dedup: Option<Arc<str>>,
    /// The pushing node's wall clock, unix milliseconds: shown to people, decides nothing.
    pub enqueued_at: u64,
}

/// Commands of the queue machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueOp {
    /// Appends messages in order: all or none, but for repeated dedup ids.
    Push {
        /// The queue; comes into being on first use.
        queue: QueueName,
        /// At least one.
        messages: Vec<NewMessage>,
    },
    /// Takes and acknowledges the first deliverable message.
    Pop {
        /// The queue.
        queue: QueueName,
    },
    /// Delivers up to `max` messages, each hidden until acknowledged or `visibility` has passed.
    Receive {
        /// The queue.
        queue: QueueName,
        /// At most this many, at least 1.
        max: u32,
        /// How long the receipts last; as the queue is configured if absent.
        visibility: Option<Millis>,
        /// The session that keeps the receipts, if any: each of its heartbeats starts their time anew,
        /// and its end returns what they are for.
        session: Option<InSession>,
    },
    /// Done: removes each message whose receipt is the latest.
    Ack {
        /// Answered one by one.
        receipts: Vec<Receipt>,
    },
    /// Done, and further messages in the same step: all of it or nothing.
    AckPush {
        /// All of them must be current.
        receipts: Vec<Receipt>,
        /// In order. Those of other shards leave through the outbox.
        push: Vec<Onward>,
    },
    /// Not done: puts each message back in its place.
    Nack {
        /// Answered one by one.
        receipts: Vec<Receipt>,
        /// Not delivered again before this much log time has passed; its key waits with it.
        delay: Millis,
        /// Whether it counts towards the dead-letter limit.
        failed: bool,
    },
    /// Restarts the visibility time-out.
    Extend {
        /// Answered one by one.
        receipts: Vec<Receipt>,
        /// From now on.
        visibility: Millis,
    },
    /// A heartbeat of each session: extends all receipts that it holds here.
    RenewSessions {
        /// Answered one by one.
        sessions: Vec<SessionId>,
    },
    /// The sessions are over: what they hold here goes back, and they are refused from now on.
    EndSessions {
        /// As the coordination shard says.
        sessions: Vec<SessionId>,
    },
    /// This shard's copy of a queue's configuration; one that is not newer changes nothing.
    Configure {
        /// The queue.
        queue: QueueName,
        /// From the coordination shard's counter.
        version: u64,
        /// The whole configuration.
        config: QueueConfig,
    },
    /// Gives unused room of this shard's share of a queue's limits to another shard.
    Lend {
        /// The queue.
        queue: QueueName,
        /// The version of the configuration that both know; 0 for none.
        version: u64,
        /// Who is in need.
        to: ShardId,
        /// What it needs.
        room: Room,
    },
    /// Drops messages that wait: neither in flight nor pushed after the first step of the purge.
    Purge {
        /// The queue.
        queue: QueueName,
        /// As the first step answered; `None` in the first.
        up_to: Option<MessageId>,
        /// At most so many in this step.
        max: u32,
    },
    /// Brings dead letters of a queue back into it, each to its old place, with its old id.
    Redrive {
        /// The queue that they came from.
        queue: QueueName,
        /// At most so many.
        max: u32,
    },
    /// Lets a parked key, or all of them and a blocked queue, go on without what was dead-lettered.
    Resume {
        /// The queue.
        queue: QueueName,
        /// One key only.
        key: Option<MessageKey>,
    },
    /// What another shard's outbox sends. Never refused for limits.
    Arrive {
        /// The sending shard.
        from: ShardId,
        /// In order, without gaps; those that were here before are skipped.
        letters: Vec<Letter>,
    },
    /// Another shard has taken what this one's outbox sent.
    Confirm {
        /// The other shard.
        to: ShardId,
        /// The last that it has taken.
        up_to: u64,
    },
}

/// The session in which a receive is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSession {
    /// Which.
    pub session: SessionId,
    /// Whether it was alive after the request had arrived, as the coordination shard says.
    pub proven: bool,
}

/// A message pushed together with an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onward {
    /// Where it belongs.
    pub shard: ShardId,
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub message: NewMessage,
}

/// What one shard's outbox sends to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Counted from 1 for each pair of shards.
    pub seq: u64,
    /// The queue that it is about.
    pub queue: QueueName,
    /// What.
    pub cargo: Cargo,
}

/// Letters that wait in a shard's outbox, by where they go, each with the name of its body there.
pub type Outgoing = Vec<(ShardId, Vec<(Letter, Option<MessageId>)>)>;

/// What travels between queue shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cargo {
    /// A message.
    Message(NewMessage),
    /// A part of the queue's limits, under this version of its configuration.
    Room {
        /// Of the configuration.
        version: u64,
        /// How much.
        room: Room,
    },
}

/// Room for messages: a limit, a share of it, or what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Sets the configuration of a queue, on shard 0. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigOp {
    /// The queue.
    pub queue: QueueName,
    /// What changes.
    pub change: ConfigChange,
}

/// A change to a [`QueueConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// See [`QueueConfig::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`QueueConfig::dead_letter`].
    pub dead_letter: Option<QueueName>,
    /// See [`QueueConfig::visibility`].
    pub visibility: Option<Millis>,
    /// See [`QueueConfig::max_messages`].
    pub max_messages: Option<u64>,
    /// See [`QueueConfig::max_bytes`].
    pub max_bytes: Option<u64>,
    /// See [`QueueConfig::on_poison`].
    pub on_poison: Option<OnPoison>,
}

/// Where a pushed message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The message.
    pub id: MessageId,
    /// Whether it was there already, under the same dedup id.
    pub duplicate: bool,
}

/// Where a message pushed with an acknowledgement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// In this shard.
    Here(Placed),
    /// On its way to another shard.
    Sent {
        /// Where to.
        to: ShardId,
        /// Its number among what this shard has sent there.
        seq: u64,
        /// The name of its body until it has arrived.
        body: MessageId,
    },
}

/// A delivered message. The body is fetched by `id` from where the replica keeps bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The message, and the name of its body.
    pub id: MessageId,
    /// Its key.
    pub key: Option<MessageKey>,
    /// How often it has been delivered, this time included.
    pub attempts: u32,
    /// How often it has failed: time-outs, and nacks that said so.
    pub failures: u32,
    /// As in [`NewMessage::priority`].
    pub priority: u8,
    /// As in [`NewMessage::enqueued_at`].
    pub enqueued_at: u64,
    /// The delivery's number; 0 for a pop, which leaves nothing to acknowledge.
    pub delivery: u64,
    /// How long the receipt lasts.
    pub visibility: Millis,
}

/// The bodies that applying `op` with this reply has put under a name of this shard's.
pub fn new_bodies<'a>(op: &'a QueueOp, reply: &super::Reply) -> Vec<(MessageId, &'a Bytes)> {
    use super::Reply;
    match (op, reply) {
        (QueueOp::Push { messages, .. }, Reply::Pushed(placed)) => {
            let pairs = messages.iter().zip(placed);
            pairs.filter_map(|(message, placed)| Some((fresh(placed)?, &message.body))).collect()
        }
        (QueueOp::AckPush { push, .. }, Reply::Forwarded(places)) => {
            let name = |place: &Forwarded| match place {
                Forwarded::Here(placed) => (!placed.duplicate).then_some(placed.id),
                Forwarded::Sent { body, .. } => Some(*body),
            };
            push.iter()
                .zip(places)
                .filter_map(|(onward, place)| Some((name(place)?, &onward.message.body)))
                .collect()
        }
        (QueueOp::Arrive { letters, .. }, Reply::Arrived { placed, .. }) => {
            let bodies = letters.iter().zip(placed).filter_map(|(letter, id)| match &letter.cargo {
                Cargo::Message(message) => Some(((*id)?, &message.body)),
                Cargo::Room { .. } => None,
            });
            bodies.collect()
        }
        _ => Vec::new(),
    }
}

fn fresh(placed: &Result<Placed, Refusal>) -> Option<MessageId> {
    placed.as_ref().ok().filter(|placed| !placed.duplicate).map(|placed| placed.id)
}
