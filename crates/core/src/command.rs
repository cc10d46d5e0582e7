//! The log's vocabulary: what may be written to a shard's log, and what applying it answers.
//!
//! Versioned by [`VERSION`]: bytes of another version are refused before they reach a machine.
//! It deliberately holds no behaviour; each machine's own module says what its words do.

mod queues;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::guards::Guard;
use crate::names::{
    Incarnation, LockName, MessageId, NodeId, Origin, Owner, QueueName, SessionId, ShardId, Ticket, Token,
};
use crate::queue::QueueConfig;
use crate::shard::Settings;
use crate::stamp::Millis;

pub use queues::{
    Cargo, ConfigChange, ConfigOp, Delivered, Forwarded, InSession, Letter, NewMessage, Onward, Outgoing,
    Placed, QueueOp, Room, new_bodies,
};

/// The version of [`Pack`] and everything inside. It is the first byte of every encoded entry.
pub const VERSION: u8 = 2;

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
    /// On shard 0: sessions.
    Session(SessionOp),
    /// On queue shards: messages.
    Queue(QueueOp),
    /// On shard 0: how queues are configured.
    Config(ConfigOp),
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
    /// One of a limited number of holders: a counting semaphore.
    Permit,
}

/// Who holds or wants a lock. The same owner in two sessions is two holders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub owner: Owner,
    /// The session that keeps its holds; without one each hold has a lease of its own.
    pub session: Option<SessionId>,
}

/// Which caller of a request hangs on: a request that is asked again has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The process at which the caller hangs on. Its end cancels the ticket.
    pub origin: Origin,
    /// Counted by that process over all its requests.
    pub number: u64,
}

/// What an acquire asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// One lock, or several that are taken together or not at all; sorted, none twice.
    pub names: Vec<LockName>,
    /// The holder to be.
    pub holder: Holder,
    /// How.
    pub mode: Mode,
    /// For permits: how many there are. Zero otherwise.
    pub limit: u32,
    /// The lease's length; the session's counts instead where there is one.
    pub ttl: Millis,
    /// How long to queue; zero refuses at once with [`Refusal::Held`].
    pub wait: Millis,
    /// After an involuntary loss of the hold, how long nobody gets the lock.
    pub delay: Millis,
    /// Shown to whoever looks at the lock; opaque.
    pub metadata: Option<Arc<str>>,
    /// Whether to fail with [`Refusal::Deadlock`] where waiting would close a cycle of waits.
    pub fail_on_deadlock: bool,
    /// Where the caller hangs on.
    pub attempt: Attempt,
}

impl Acquire {
    /// The plain case: one lock, exclusive, no waiting.
    pub fn exclusive(name: LockName, owner: Owner, ttl: Millis) -> Self {
        Self {
            names: vec![name],
            holder: Holder { owner, session: None },
            mode: Mode::Exclusive,
            limit: 0,
            ttl,
            wait: Millis(0),
            delay: Millis(0),
            metadata: None,
            fail_on_deadlock: true,
            attempt: Attempt::default(),
        }
    }
}

/// Which hold of a lock is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// The holder's name.
    pub owner: Owner,
    /// Its session; without one whichever hold of the owner fits.
    pub session: Option<SessionId>,
    /// The token of the hold; without one whichever the owner has.
    pub token: Option<Token>,
}

/// Commands of the lock machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOp {
    /// Grants the locks, or queues for them.
    Acquire(Box<Acquire>),
    /// Ends holds: all of these, or none.
    Release {
        /// The locks.
        names: Vec<LockName>,
        /// The hold that is meant.
        by: Claimant,
    },
    /// Starts the leases anew, with another length if given: all of these, or none.
    Renew {
        /// The locks.
        names: Vec<LockName>,
        /// The hold that is meant.
        by: Claimant,
        /// The new length; as before if absent.
        ttl: Option<Millis>,
    },
    /// Makes a shared hold exclusive, under a new token, ahead of everybody who waits.
    Upgrade {
        /// The lock.
        name: LockName,
        /// The hold that is meant.
        by: Claimant,
        /// How long to wait for the other holders to leave.
        wait: Millis,
        /// As in [`Acquire`].
        fail_on_deadlock: bool,
        /// Where the caller hangs on.
        attempt: Attempt,
    },
    /// Makes an exclusive hold shared, under the same token.
    Downgrade {
        /// The lock.
        name: LockName,
        /// The hold that is meant.
        by: Claimant,
    },
    /// Ends holds whoever has them, and writes down who did it and why.
    Break {
        /// The lock.
        name: LockName,
        /// Only the hold with this token; all of them without one.
        token: Option<Token>,
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
        /// Wall-clock time of the request, unix milliseconds: shown to people, decides nothing.
        asked_at: u64,
    },
    /// A caller of an acquire or upgrade is gone: if nobody else may hear of it, leave the queue, or
    /// give the grant back.
    Cancel {
        /// The place in its queue, or what the grant said.
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

/// Commands about sessions: one heartbeat keeps any number of holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionOp {
    /// Opens one.
    Open {
        /// Shown to whoever looks.
        owner: Owner,
        /// It ends when it has not been renewed for so long.
        ttl: Millis,
    },
    /// Starts their time anew.
    Renew {
        /// Answered one by one.
        sessions: Vec<SessionId>,
    },
    /// Ends one, and every hold and wait in it, in one step.
    Close {
        /// Which.
        session: SessionId,
    },
    /// It may hold receipts in a queue shard from now on, which is to be told of its end.
    Enlist {
        /// Which.
        session: SessionId,
        /// Where.
        shard: ShardId,
    },
    /// A queue shard knows that these have ended.
    Told {
        /// Which shard.
        shard: ShardId,
        /// Which sessions.
        sessions: Vec<SessionId>,
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
    /// To [`LockOp::Check`].
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

/// A live session, as told to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which.
    pub session: SessionId,
    /// How long it lasts without being renewed.
    pub ttl: Millis,
    /// What is left of that at the reply's log time.
    pub left: Millis,
}

/// A session whose time has begun anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The session.
    pub lease: Lease,
    /// The queue shards in which it may hold receipts: its heartbeat concerns them, too.
    pub shards: Vec<ShardId>,
}

/// Held locks, as told to their holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The fencing token.
    pub token: Token,
    /// Where several locks were taken together, each one's own fencing token: `token`, except for a
    /// shared hold that joined others.
    pub tokens: Vec<(LockName, Token)>,
    /// How it is held.
    pub mode: Mode,
    /// The lease's length.
    pub ttl: Millis,
    /// What is left of it at the reply's log time.
    pub left: Millis,
    /// What a cancel names, as long as nothing has shown that the holder knows of the grant.
    pub ticket: Option<Ticket>,
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
    /// Something happened to a lock: see its history.
    WakeLock(LockName),
    /// A queue has something to deliver that it had not before.
    WakeQueue(QueueName),
    /// Something is to be carried to another shard.
    WakeOutbox,
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
