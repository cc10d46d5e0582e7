//! The log's vocabulary: what may be written to a shard's log, and what applying it answers.
//!
//! Versioned by [`VERSION`]: bytes of another version are refused before they reach a machine.
//! It deliberately holds no behaviour; each machine's own module says what its words do.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::guards::Guard;
use crate::names::{
    Incarnation, LockName, MessageId, MessageKey, NodeId, Origin, Owner, QueueName, Receipt, Ticket, Token,
};
use crate::shard::Settings;
use crate::stamp::Millis;

/// The version of [`Pack`] and everything inside. It is the first byte of every encoded entry.
pub const VERSION: u8 = 1;

/// One log entry: every command that was waiting when the leader's pack left, and its log time.
/// A pack without commands is a tick: it moves log time on and lets what is due expire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Log time as the leader counts it.
    pub now: Millis,
    /// The leader's settings, where they are others than the shard's: they hold from here on.
    pub settings: Option<Settings>,
    /// In the order in which they are applied.
    pub commands: Vec<Command>,
}

/// Why bytes are no pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by another version of Lockstep.
    #[error("log entry has version {found}, this binary reads {VERSION}")]
    Version {
        /// In the bytes.
        found: u8,
    },
    /// Not what was written.
    #[error("log entry is damaged")]
    Damaged,
}

impl Pack {
    /// As bytes, led by the version.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![VERSION]).expect("writing to memory cannot fail").into()
    }

    /// What [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((pack, [])) => Ok(pack),
                _ => Err(DecodeError::Damaged),
            },
            Some((&found, _)) => Err(DecodeError::Version { found }),
            None => Err(DecodeError::Damaged),
        }
    }
}

/// One request's change to a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Makes a retry harmless: the first answer is remembered under it.
    pub request: RequestKey,
    /// Log time after which this must not be applied any more ([`Refusal::TooLate`]). At most
    /// [`crate::dedup::WINDOW`] past the log time at which it was made, so that a delayed duplicate
    /// can never run after its memo is gone.
    pub not_after: Millis,
    /// The lock under which it is done, if any: checked where it lands, before `op` runs.
    pub guard: Option<Guard>,
    /// What to do.
    pub op: Op,
}

/// Who asked, so that asking again is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKey {
    /// A `request_id` that the client chose. Remembered for [`crate::dedup::WINDOW`].
    Named {
        /// As the client sent it, at most 128 bytes.
        id: Arc<str>,
        /// A hash of what was asked: the same id with another one is [`Refusal::RequestConflict`].
        fingerprint: u64,
    },
    /// Made by the node that took the request. Remembered until that node has settled it.
    Node {
        /// The node's process.
        origin: Origin,
        /// Its request, counted from 1.
        seq: u64,
        /// Every request of this origin below this one is settled: nobody will retry it.
        settled_below: u64,
    },
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// On shard 0: locks.
    Lock(LockOp),
    /// On queue shards: messages.
    Queue(QueueOp),
    /// On shard 0: who is alive.
    Member(MemberOp),
    /// On shard 0: how the cache keeps the keys of a namespace.
    Namespace(NamespaceOp),
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// One holder, nobody else.
    Exclusive,
    /// Any number of holders, all shared.
    Shared,
}

/// Which try of a waiting request this is. A cancel for an older attempt does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The process at which the caller hangs on. Its end cancels the ticket.
    pub origin: Origin,
    /// Counted by that process over all its requests, so a later try has a larger number.
    pub number: u64,
}

/// Commands of the lock machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOp {
    /// Grants `name`, or queues for it for up to `wait` (zero: never).
    Acquire {
        /// The lock.
        name: LockName,
        /// The holder to be.
        owner: Owner,
        /// How.
        mode: Mode,
        /// The lease's length.
        ttl: Millis,
        /// How long to queue; zero refuses at once with [`Refusal::Held`].
        wait: Millis,
        /// Where the caller hangs on.
        attempt: Attempt,
    },
    /// Ends a hold. Without a token whichever hold `owner` has.
    Release {
        /// The lock.
        name: LockName,
        /// The holder.
        owner: Owner,
        /// The token of the hold that is meant.
        token: Option<Token>,
    },
    /// Starts the lease anew, with another length if given.
    Renew {
        /// The lock.
        name: LockName,
        /// The holder.
        owner: Owner,
        /// The token of the hold that is meant.
        token: Token,
        /// The new length; as before if absent.
        ttl: Option<Millis>,
    },
    /// The caller of a waiting acquire is gone: leave the queue, or give an undelivered grant back.
    Cancel {
        /// The lock.
        name: LockName,
        /// The place in its queue.
        ticket: Ticket,
        /// The try whose caller is gone.
        attempt: Attempt,
    },
    /// Asks what is known of a token, in the order of the log and after every due expiry. Changes
    /// nothing.
    Check {
        /// The lock.
        name: LockName,
        /// The token in question.
        token: Token,
    },
}

/// A message to be pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// Orders it after earlier messages of the same key.
    pub key: Option<MessageKey>,
    /// The payload, opaque to the core: it only counts its bytes.
    pub body: Bytes,
    /// Not delivered before this much log time has passed.
    pub delay: Millis,
    /// The pushing node's wall clock, unix milliseconds: shown to people, decides nothing.
    pub enqueued_at: u64,
}

/// Commands of the queue machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueOp {
    /// Appends messages in order: all or none.
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
        /// How long the receipts last.
        visibility: Millis,
    },
    /// Done: removes each message whose receipt is the latest.
    Ack {
        /// Answered one by one.
        receipts: Vec<Receipt>,
    },
    /// Not done: puts the message back in its place.
    Nack {
        /// The delivery that ends.
        receipt: Receipt,
        /// Not delivered again before this much log time has passed; its key waits with it.
        delay: Millis,
        /// Whether it counts towards the dead-letter limit.
        failed: bool,
    },
    /// Restarts the visibility time-out.
    Extend {
        /// The delivery.
        receipt: Receipt,
        /// From now on.
        visibility: Millis,
    },
}

/// Commands about members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberOp {
    /// "I run": grants or renews the membership lease of one process. A new incarnation of a node
    /// replaces its former one only when that one's lease has ended.
    Heartbeat {
        /// The process.
        origin: Origin,
        /// Where clients reach it.
        url: Arc<str>,
        /// The lease's length.
        lease: Millis,
    },
    /// "I stop": ends the lease of this very process at once.
    Leave {
        /// The process.
        origin: Origin,
    },
}

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
    /// The hold has ended by this command.
    Released,
    /// The ticket is gone, or was not this attempt's.
    Cancelled,
    /// To [`LockOp::Check`].
    Checked(Standing),
    /// The messages are in the queue, in order.
    Pushed(Vec<MessageId>),
    /// The message taken, if there was one.
    Popped(Option<Delivered>),
    /// The messages delivered.
    Received(Vec<Delivered>),
    /// One result per receipt, in order.
    Acked(Vec<Result<(), Refusal>>),
    /// Back in its place.
    Nacked,
    /// The new end of the visibility time-out, as a span from now.
    Extended {
        /// How long the receipt now lasts.
        visibility: Millis,
    },
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

/// What the coordination shard knows of a lock's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The lock is held under it.
    Held,
    /// A permit of the lock is held under it.
    HeldPermit,
    /// The lock is held as permits, none of them under it.
    OtherPermits,
    /// It may have been handed out once; the lock is not held under it.
    Over,
    /// It was never handed out for this lock.
    NeverIssued,
}

/// A held lock, as told to its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The fencing token.
    pub token: Token,
    /// How it is held.
    pub mode: Mode,
    /// The lease's length.
    pub ttl: Millis,
    /// What is left of it at the reply's log time.
    pub left: Millis,
    /// The ticket under which it waited, if it did: what a cancel names.
    pub ticket: Option<Ticket>,
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
    /// As in [`NewMessage::enqueued_at`].
    pub enqueued_at: u64,
    /// The delivery's number; 0 for a pop, which leaves nothing to acknowledge.
    pub delivery: u64,
    /// How long the receipt lasts.
    pub visibility: Millis,
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

/// Commands of the cache's namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceOp {
    /// Makes a namespace, or changes what is given of its settings.
    Configure {
        /// Its name.
        name: Arc<str>,
        /// Whether a sole reader owns lines.
        write_back: Option<bool>,
        /// Bytes over all homes.
        bytes_max: Option<u64>,
        /// Time to live of writes that say none.
        ttl: Option<Millis>,
    },
}

/// A hint to the leader that something is worth looking at. Losing one costs a poll, never
/// correctness; followers discard them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The fate of a waiting ticket is decided.
    WakeTicket(Ticket),
    /// A queue has something to deliver that it had not before.
    WakeQueue(QueueName),
    /// The set of live members changed.
    RingChanged {
        /// The new ring epoch.
        epoch: u64,
    },
    /// A namespace of the cache came into being or changed.
    NamespacesChanged,
}

/// A live member as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The process that holds the lease.
    pub incarnation: Incarnation,
    /// Where clients reach it.
    pub url: Arc<str>,
    /// The ring epoch at which this process came in.
    pub since_epoch: u64,
}
