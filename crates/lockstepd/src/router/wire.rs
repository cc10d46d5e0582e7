//! What routers ask each other: one node's request, served by another that leads the shard.
//!
//! Carries its own version byte, so that nodes of different versions refuse instead of guessing.

use bytes::Bytes;
use lockstep_core::Command;
use lockstep_core::names::{QueueName, SessionId, ShardId, Ticket};
use lockstep_core::query::{Answer, Outcome, Query};
use serde::{Deserialize, Serialize};

use crate::rates::Rate;
use crate::replica::{Failure, Told};

const VERSION: u8 = 2;

/// A question to the leader of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub what: What,
}

/// The kinds of questions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    /// Commit a command.
    Execute(Command),
    /// Commit a pop or receive if it would deliver something.
    Take(QueueName, Command),
    /// Commit a heartbeat of sessions if any of them holds receipts.
    Keep(Vec<SessionId>, Command),
    /// Read linearizably.
    Query(Query),
    /// Sleep until a ticket is decided, at most so many milliseconds.
    AwaitTicket(Ticket, u64),
    /// Sleep until a queue has something to deliver, at most so many milliseconds.
    AwaitQueue(QueueName, u64),
    /// How fast a queue moves, as the leader sees it.
    Rates(QueueName),
    /// Look at what waits in a queue, without taking it.
    Peek(QueueName, u32),
    /// Sleep until another shard has taken a letter of this one, at most so many milliseconds.
    AwaitLetter(ShardId, u64, u64),
    /// Sleep until every shard knows that a session has ended, at most so many milliseconds.
    AwaitEnd(SessionId, u64),
}

/// The answers, each to the question of the same name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// To [`What::Execute`].
    Executed(Told),
    /// To [`What::Take`], [`What::Keep`] and [`What::Peek`].
    Taken(Option<Told>),
    /// To [`What::Query`].
    Answer(Answer),
    /// To [`What::AwaitTicket`].
    Outcome(Outcome),
    /// To [`What::AwaitQueue`].
    Deliverable(u64),
    /// To [`What::Rates`].
    Rates(Rate),
    /// To [`What::AwaitLetter`] and [`What::AwaitEnd`].
    Carried(bool),
    /// Not served.
    Failed(Failure),
}

/// `value` as bytes, led by the version.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("writing to memory cannot fail").into()
}

/// What [`encode`] wrote; `None` for another version or damaged bytes.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).ok(),
        _ => None,
    }
}
