//! The vocabulary of locks and sessions: what may be done to them, and what is told of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{LockName, Origin, Owner, SessionId, ShardId, Ticket, Token};
use crate::stamp::Millis;

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
    /// How long to queue; zero refuses at once with [`super::Refusal::Held`].
    pub wait: Millis,
    /// After an involuntary loss of the hold, how long nobody gets the lock.
    pub delay: Millis,
    /// Shown to whoever looks at the lock; opaque.
    pub metadata: Option<Arc<str>>,
    /// Whether to fail with [`super::Refusal::Deadlock`] where waiting would close a cycle of waits.
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
