//! Reads: what can be asked of a shard's state. Linearizable when asked behind a barrier.
//!
//! A query never changes anything, not even what is due: the caller proposes a tick first where
//! that matters.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Delivered, Holder, Lease, Member, Mode, Refusal, Room, Standing};
use crate::guards::Guard;
use crate::names::{LockName, Owner, QueueName, SessionId, Ticket, Token};
use crate::queue::{QueueConfig, Totals};
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
    /// Whether a session is alive.
    Session {
        /// Which.
        session: SessionId,
    },
    /// What happened to one lock after an event, as far as it is remembered.
    History {
        /// The lock.
        name: LockName,
        /// The last event that is known already.
        after: u64,
        /// At most this many.
        limit: u32,
    },
    /// Locks that were broken, after an entry of the audit log.
    Audit {
        /// Only of this lock.
        name: Option<LockName>,
        /// The last entry that is known already; 0 for none.
        after: u64,
        /// At most this many.
        limit: u32,
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
    /// The queues that this shard knows, in order, after `after`.
    Queues {
        /// The last name of the page before.
        after: Option<QueueName>,
        /// At most this many.
        limit: u32,
    },
    /// Whether a pop or receive under this request id is worth a command.
    Take {
        /// The queue.
        queue: QueueName,
        /// The client's id.
        request: Arc<str>,
    },
    /// Whether work under a guard would be done: for work that turns out to have nothing to do.
    Guard {
        /// With what the coordination shard said of its token.
        guard: Guard,
    },
    /// What waits in a queue, without taking it.
    Peek {
        /// The queue.
        queue: QueueName,
        /// At most this many.
        max: u32,
    },
    /// The configurations of queues that this shard knows.
    Configs,
    /// The same for one queue.
    Config {
        /// The queue.
        queue: QueueName,
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
    /// To [`Query::History`].
    History(HistoryView),
    /// To [`Query::Audit`], oldest first.
    Audit(Vec<AuditView>),
    /// To [`Query::Session`]; `None` where it is over.
    Session(Option<Lease>),
    /// To [`Query::Token`].
    Token(Standing),
    /// To [`Query::Locks`].
    Locks(Vec<LockView>),
    /// To [`Query::Queue`]; zeros where the queue is unknown.
    Queue(QueueView),
    /// To [`Query::Queues`].
    Queues(Vec<QueueName>),
    /// To [`Query::Peek`].
    Peeked(Vec<Delivered>),
    /// To [`Query::Take`].
    Take {
        /// How many messages a receive could deliver now.
        deliverable: u64,
        /// Whether an answer under this id is remembered.
        known: bool,
    },
    /// To [`Query::Guard`]: it would be done, and nothing was. Otherwise [`Self::Refused`] says why.
    Unfenced,
    /// To [`Query::Configs`] and [`Query::Config`]: name, version, configuration.
    Configs(Vec<(QueueName, u64, QueueConfig)>),
    /// To [`Query::Members`].
    Members {
        /// How often the set has changed.
        ring_epoch: u64,
        /// In order of their ids.
        members: Vec<Member>,
    },
    /// To [`Query::Namespaces`].
    Namespaces(crate::cache::space::Spaces),
    /// The question is meant for another kind of shard, or its answer is a refusal.
    Refused(Refusal),
}

/// One lock, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockView {
    /// The lock.
    pub name: LockName,
    /// How many permits there are, as long as anybody holds or awaits one.
    pub limit: Option<u32>,
    /// How long nobody gets it, after a loss.
    pub delayed: Option<Millis>,
    /// Who holds it.
    pub holders: Vec<HolderView>,
    /// Who waits, first come first.
    pub waiters: Vec<WaiterView>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderView {
    /// Who.
    pub holder: Holder,
    /// How.
    pub mode: Mode,
    /// Its fencing token.
    pub token: Token,
    /// The lease's length.
    pub ttl: Millis,
    /// What is left of it.
    pub left: Millis,
    /// As the holder gave it.
    pub metadata: Option<Arc<str>>,
}

/// One waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    /// The holder to be.
    pub holder: Holder,
    /// How.
    pub mode: Mode,
    /// Whether it holds the lock as shared and waits to become exclusive.
    pub upgrade: bool,
    /// Its place.
    pub ticket: Ticket,
    /// How long it will still wait.
    pub left: Millis,
    /// Every lock that it waits for together.
    pub names: Vec<LockName>,
    /// Whose leaving it needs, the first few: holders, and whoever is right ahead of it.
    pub blocked_by: Vec<Owner>,
    /// As the waiter gave it.
    pub metadata: Option<Arc<str>>,
}

/// A part of a lock's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// Whether everything after the event that was asked for is still remembered.
    pub whole: bool,
    /// In order.
    pub events: Vec<Event>,
    /// The last event of any lock: this view is complete up to it, unless it is cut at the limit.
    pub last: u64,
}

/// Something that happened to a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number among all events of the cluster.
    pub id: u64,
    /// Log time.
    pub at: Millis,
    /// The lock.
    pub name: LockName,
    /// What.
    pub kind: EventKind,
    /// Who held or holds it, waits or waited.
    pub holder: Holder,
    /// How.
    pub mode: Mode,
    /// The token of the hold; none for a waiter.
    pub token: Option<Token>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It is held from now on, or in another mode.
    Granted,
    /// Its holder gave it back.
    Released,
    /// Its lease or session ended.
    Expired,
    /// Somebody broke it.
    Broken,
    /// Somebody waits for it.
    Waiting,
    /// Somebody no longer waits for it, and did not get it.
    Left,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Counted from 1.
    pub id: u64,
    /// The lock that was broken.
    pub name: LockName,
    /// Who lost it.
    pub holders: Vec<(Holder, Token)>,
    /// Why.
    pub reason: Arc<str>,
    /// Who broke it.
    pub by: Arc<str>,
    /// Wall-clock time of the request, unix milliseconds.
    pub asked_at: u64,
}

/// One shard's part of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Messages that are neither in flight nor delayed (some may wait behind their key's head).
    pub ready: u64,
    /// How many messages a receive could deliver now.
    pub deliverable: u64,
    /// Delivered and not yet acknowledged.
    pub in_flight: u64,
    /// Waiting for their delay to end.
    pub delayed: u64,
    /// Messages of this queue that lie in its dead-letter queue.
    pub dead: u64,
    /// Keys that stand still behind a dead letter.
    pub parked_keys: u64,
    /// Whether this shard's part of the queue stands still behind a dead letter.
    pub blocked: bool,
    /// Payload bytes of all of them, dead ones not counted.
    pub bytes: u64,
    /// Wall-clock time of the oldest deliverable message's push, unix milliseconds.
    pub oldest_enqueued_at: Option<u64>,
    /// The version of the configuration; 0 for none.
    pub version: u64,
    /// This shard's part of the limits.
    pub room: Room,
    /// How much of it is used.
    pub used: Room,
    /// What has become of messages.
    pub totals: Totals,
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
