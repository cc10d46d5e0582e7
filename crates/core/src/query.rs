//! Reads: what can be asked of a shard's state. Linearizable when asked behind a barrier.
//!
//! A query never changes anything, not even what is due: the caller proposes a tick first where
//! that matters.

use serde::{Deserialize, Serialize};

use crate::command::{Member, Mode, Refusal, Standing};
use crate::names::{LockName, Owner, QueueName, Ticket, Token};
use crate::stamp::Millis;

/// A question to one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Holders and waiters of one lock.
    Lock {
        /// The lock.
        name: LockName,
    },
    /// What is known of a lock's token; what is due but not yet expired still counts as held.
    Token {
        /// The lock.
        name: LockName,
        /// The token in question.
        token: Token,
    },
    /// Locks whose names start with `prefix`, in order, after `after`.
    Locks {
        /// Empty: all.
        prefix: String,
        /// The last name of the page before.
        after: Option<String>,
        /// At most this many.
        limit: u32,
    },
    /// Counts of one queue in this shard.
    Queue {
        /// The queue.
        queue: QueueName,
    },
    /// The queues that this shard knows.
    Queues,
    /// Whether the shard remembers a request of this name.
    Remembers {
        /// The `request_id`.
        id: String,
    },
    /// Live members and the ring epoch.
    Members,
    /// The namespaces of the cache.
    Namespaces,
}

/// The answer of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Query::Lock`]; `None` where nobody holds or waits.
    Lock(Option<LockView>),
    /// To [`Query::Token`].
    Token(Standing),
    /// To [`Query::Locks`].
    Locks(Vec<LockView>),
    /// To [`Query::Queue`]; zeros where the queue is unknown.
    Queue(QueueView),
    /// To [`Query::Queues`].
    Queues(Vec<QueueName>),
    /// To [`Query::Remembers`].
    Remembers(bool),
    /// To [`Query::Members`].
    Members {
        /// How often the set has changed.
        ring_epoch: u64,
        /// In order of their ids.
        members: Vec<Member>,
    },
    /// To [`Query::Namespaces`].
    Namespaces(crate::cache::space::Spaces),
    /// The question is meant for another kind of shard.
    Refused(Refusal),
}

/// One lock, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockView {
    /// The lock.
    pub name: LockName,
    /// Who holds it.
    pub holders: Vec<HolderView>,
    /// Who waits, first come first.
    pub waiters: Vec<WaiterView>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderView {
    /// The holder.
    pub owner: Owner,
    /// How.
    pub mode: Mode,
    /// Its fencing token.
    pub token: Token,
    /// The lease's length.
    pub ttl: Millis,
    /// What is left of it.
    pub left: Millis,
}

/// One waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    /// The holder to be.
    pub owner: Owner,
    /// How.
    pub mode: Mode,
    /// Its place.
    pub ticket: Ticket,
    /// How long it will still wait.
    pub left: Millis,
}

/// One shard's part of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Messages that are neither in flight nor delayed (some may wait behind their key's head).
    pub ready: u64,
    /// Whether a pop or receive now would deliver something.
    pub deliverable: bool,
    /// Delivered and not yet acknowledged.
    pub in_flight: u64,
    /// Waiting for their delay to end.
    pub delayed: u64,
    /// Payload bytes of all of them.
    pub bytes: u64,
    /// Wall-clock time of the oldest waiting message's push, unix milliseconds.
    pub oldest_enqueued_at: Option<u64>,
}

/// What became of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Still in the queue.
    Waiting,
    /// Granted, and still held.
    Granted(crate::command::Grant),
    /// Over: timed out, cancelled, or granted and lost again.
    Refused(Refusal),
}
