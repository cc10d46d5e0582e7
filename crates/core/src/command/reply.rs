//! What applying a command answers, and why it may not be done.
//!
//! Small enums without strings for people: the HTTP edge words them.

use serde::{Deserialize, Serialize};

use super::{Delivered, Forwarded, Grant, Holder, Lease, Mode, Placed, Renewal, Room, Standing};
use crate::names::{LockName, MessageId, Owner, ShardId, Ticket, Token};
use crate::queue::QueueConfig;
use crate::stamp::Millis;

/// What applying a command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The lock is held.
    Granted(Grant),
    /// Queued; the outcome comes later, see [`crate::locks::Locks::outcome`].
    Waiting {
        /// The place in the queue.
        ticket: Ticket,
    },
    /// The holds have ended by this command.
    Released,
    /// The holds were ended; these are the tokens that are void now.
    Broken(Vec<(Holder, Token)>),
    /// A session is open.
    Opened(Lease),
    /// One result per session, in order.
    Renewed(Vec<Result<Renewal, Refusal>>),
    /// The session is alive, and may hold receipts in that shard.
    Enlisted(Lease),
    /// The session has ended by this command.
    Closed {
        /// The queue shards that are being told of it.
        shards: Vec<ShardId>,
    },
    /// How many receipts each heartbeat has extended.
    Kept(Vec<u32>),
    /// The sessions' messages are back in their places.
    Ended {
        /// How many.
        returned: u32,
    },
    /// That caller counts no longer.
    Cancelled,
    /// To [`super::LockOp::Check`].
    Checked(Standing),
    /// The messages are in the queue, in order; but for those whose dedup id was another message's.
    Pushed(Vec<Result<Placed, Refusal>>),
    /// Everything is acknowledged, and what was pushed with it is in the queue or on its way.
    Forwarded(Vec<Forwarded>),
    /// The message taken, if there was one.
    Popped(Option<Delivered>),
    /// The messages delivered.
    Received(Vec<Delivered>),
    /// To an ack, nack or extend: one result per receipt, in order.
    Settled(Vec<Result<(), Refusal>>),
    /// The configuration that holds now.
    Configured {
        /// Larger for every later one.
        version: u64,
        /// The whole of it.
        config: QueueConfig,
    },
    /// How much of its room the shard has sent away.
    Lent {
        /// Zero: nothing.
        room: Room,
        /// The number of the letter that carries it.
        seq: u64,
    },
    /// One step of a purge is done.
    Purged {
        /// Messages dropped by it.
        purged: u32,
        /// What the next step must say.
        up_to: MessageId,
        /// Whether there is anything left for a next step.
        more: bool,
    },
    /// Dead letters are back in their queue.
    Redriven {
        /// How many.
        moved: u32,
        /// How many still are dead.
        left: u64,
    },
    /// Keys go on.
    Resumed {
        /// How many were parked.
        keys: u32,
    },
    /// The letters are taken.
    Arrived {
        /// The last that was ever taken from that shard.
        up_to: u64,
        /// The new messages, one for each letter that brought one.
        placed: Vec<Option<MessageId>>,
    },
    /// What was confirmed is forgotten.
    Confirmed,
    /// The membership lease runs; how many rings there have been.
    Member {
        /// The ring's epoch after this command.
        ring_epoch: u64,
    },
    /// The namespace is so from now on.
    Namespace {
        /// All of its settings.
        settings: crate::cache::space::Settings,
        /// Of the namespaces: nodes that know this one know it.
        revision: u64,
    },
    /// Not done, and nothing changed.
    Refused(Refusal),
}

/// Why a command was not done. Small, and free of strings for people: the HTTP edge words it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another lease lives.
    #[error("held")]
    Held {
        /// One of its holders.
        owner: Owner,
        /// When its lease ends at the latest, unless renewed.
        left: Millis,
    },
    /// The wait ended without a grant.
    #[error("wait timed out")]
    WaitTimeout,
    /// The grant that this request once got is over.
    #[error("lock lost")]
    LockLost,
    /// The token is not the current one.
    #[error("stale token")]
    StaleToken {
        /// The current one.
        current: Token,
    },
    /// Held, but by another owner.
    #[error("not the holder")]
    NotHolder,
    /// Not held at all.
    #[error("not held")]
    NotHeld,
    /// The same owner holds or waits for it in another mode.
    #[error("mode conflict")]
    ModeConflict {
        /// The mode it holds or waits for.
        mode: Mode,
    },
    /// The lock has another number of permits, as long as anybody holds or awaits one.
    #[error("limit mismatch")]
    LimitMismatch {
        /// How many there are.
        limit: u32,
    },
    /// Its last holder lost it, and asked that nobody gets it for a while.
    #[error("lock delayed")]
    LockDelayed {
        /// What is left of that while.
        left: Millis,
    },
    /// Waiting would close a cycle of waits, in which everybody waits for the next.
    #[error("deadlock")]
    Deadlock {
        /// Who waits for which lock, beginning with this request.
        cycle: Vec<(Owner, LockName)>,
    },
    /// Another shared holder already waits to become exclusive.
    #[error("upgrade conflict")]
    UpgradeConflict,
    /// There is no such session: it was closed, or was not renewed in time.
    #[error("session expired")]
    SessionExpired,
    /// Nothing is remembered here of so old a session: the node asks again with a proof.
    #[error("session unproven")]
    SessionUnproven,
    /// As many sessions are open as may be.
    #[error("too many sessions")]
    TooManySessions,
    /// The lock's queue of waiters is full.
    #[error("too many waiters")]
    TooManyWaiters,
    /// The guard's token is not the newest: the lock has been granted anew since, or (strict) is not
    /// held under it any more.
    #[error("fenced")]
    Fenced {
        /// The larger token that was seen here.
        seen: Option<Token>,
    },
    /// Permits overlap, so only a strict guard means anything for them.
    #[error("guard needs strict")]
    GuardNeedsStrict,
    /// The guard's token was never handed out for that lock.
    #[error("unknown token")]
    UnknownToken,
    /// Nothing is remembered of so old a token: the node asks again with a proof.
    #[error("guard unproven")]
    GuardUnproven,
    /// Not the latest receipt of a message that still waits for one.
    #[error("stale receipt")]
    StaleReceipt,
    /// The shard's share of messages or bytes is used up.
    #[error("queue full")]
    QueueFull,
    /// The same dedup id came with another payload.
    #[error("dedup conflict")]
    DedupConflict,
    /// As many queues are known as may be.
    #[error("too many queues")]
    TooManyQueues,
    /// The same request id came with another body.
    #[error("request conflict")]
    RequestConflict,
    /// The shard remembers as many requests as it may.
    #[error("memo full")]
    MemoFull,
    /// `not_after` has passed, or lies beyond the memo window.
    #[error("too late")]
    TooLate,
    /// The memo of this request was dropped: its node had settled it.
    #[error("already settled")]
    Settled,
    /// A former process of this node still has its membership lease.
    #[error("former incarnation still leased")]
    FormerIncarnation {
        /// What is left of that lease.
        left: Millis,
    },
    /// This process has left, or its node has a newer one.
    #[error("incarnation over")]
    IncarnationOver,
    /// There are as many namespaces as there may be.
    #[error("too many namespaces")]
    TooManyNamespaces,
    /// The command is meant for another kind of shard.
    #[error("wrong shard")]
    WrongShard,
    /// A value is outside what the command allows; the HTTP edge should have refused it.
    #[error("invalid argument")]
    Invalid,
}
