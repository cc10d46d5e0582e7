//! What nodes say to each other about cache lines. Each request has one answer.
//!
//! It deliberately carries spans of time, never instants: no two nodes share a clock.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::watch::{Ask, Heard};
use super::{Key, Version};
use crate::guards::Guard;
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

/// A question or an order from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To a home: what is the committed value? Answered by [`Answer::Value`].
    Read {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// The key.
        key: Key,
        /// What the sender wants to do with it; a copy is registered before the value is read.
        wish: Wish,
    },
    /// To a home: change the value. Answered by [`Answer::Written`] or [`Answer::Counted`].
    Write {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// The change.
        write: Write,
    },
    /// To a home: the value, or the right to fill it in. Answered by [`Answer::Value`],
    /// [`Answer::Fill`] or [`Answer::Loading`].
    Load {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// What exactly.
        load: Load,
    },
    /// To a home: forget every line of a namespace. Answered by [`Answer::Flushed`].
    Flush {
        /// Whom the sender believes to be home; it must know this very ring.
        to: Addressee,
        /// Which.
        namespace: Arc<str>,
        /// Only if no newer token of this lock was seen at the home.
        guard: Option<Guard>,
    },
    /// To a home, ahead of a flush of all: note that this token of a lock was seen. Answered by
    /// [`Answer::Guarded`].
    Fence {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// What was seen.
        guard: Guard,
    },
    /// To a home: note that this token of a lock was seen with a read. Answered by
    /// [`Answer::Guarded`].
    Guard {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// The key that will be read.
        key: Key,
        /// What was seen.
        guard: Guard,
    },
    /// To a home: let me go on reading all copies that I hold from you. Answered by [`Answer::Renewed`].
    Renew {
        /// Whom the sender believes to be home.
        to: Addressee,
    },
    /// To a home: I own this line no more. Answered by [`Answer::Returned`].
    Return {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// The key.
        key: Key,
        /// The number under which it was granted.
        grant: u64,
        /// What was written under the grant, if anything.
        written: Option<Held>,
    },
    /// From a home: forget what you hold, then answer with [`Answer::Forgotten`]; or with
    /// [`Answer::Forgetting`] while clients may still read it, and say [`Request::Forgotten`] then.
    Forget(Order),
    /// To a home that was told [`Answer::Forgetting`]: it is gone. Answered by [`Answer::Returned`].
    Forgotten {
        /// Who ordered it.
        home: Origin,
        /// The order's number.
        seq: u64,
        /// What was there.
        had: Had,
    },
    /// To every other member, before its sender serves keys that are new to it: stop serving what
    /// is no longer yours under this ring, and send its lines. Answered by [`Answer::Sealed`].
    Seal {
        /// The process that the sender's ring names, and that ring: no other process can answer for
        /// what this one has let others read.
        to: Addressee,
        /// How many lines of this move the sender has already.
        have: u64,
    },
    /// From a home that leaves: take these lines over if the next ring is this one without me.
    /// Answered by [`Answer::Taken`].
    Bequest {
        /// Who leaves.
        from: Origin,
        /// The ring that it leaves.
        ring_epoch: u64,
        /// Its lines.
        lines: Vec<Moved>,
    },
    /// What have you changed since? Answered by [`Answer::Followed`], as soon as there is anything and
    /// within [`super::watch::FOLLOW_WAIT`] at the latest.
    Follow(Ask),
    /// What does the protocol know of this key at your place? Answered by [`Answer::Place`].
    Inspect {
        /// The key.
        key: Key,
    },
    /// Several at once, none of them another such. Answered by [`Answer::Many`], in order.
    Many(Vec<Request>),
}

/// The home that a request is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressee {
    /// The process, as the sender's view names it.
    pub incarnation: Incarnation,
    /// The sender's ring epoch.
    pub ring_epoch: u64,
}

/// What a reader wants to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Nothing: only to see it.
    Look,
    /// A copy.
    Keep,
    /// A copy, or the line itself where its namespace allows that and nobody else holds it.
    Own {
        /// The process that would own it.
        process: Incarnation,
    },
}

/// An order to forget something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who orders it.
    pub home: Origin,
    /// The home's number for the change that waits; the answer repeats it.
    pub seq: u64,
    /// What.
    pub what: Forget,
    /// Because its line goes to another home: whoever wants to go on reading asks that one.
    pub moves: bool,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forget {
    /// A copy.
    Copy {
        /// Of this key.
        key: Key,
    },
    /// A line that was granted to its only reader.
    Owned {
        /// Its key.
        key: Key,
        /// The number of the grant.
        grant: u64,
        /// The process that it was granted to.
        process: Incarnation,
        /// It may go on being read there, as a shared copy: its home counts its holder among the
        /// sharers already.
        keeps: bool,
    },
    /// Everything of a namespace.
    Namespace {
        /// Which.
        namespace: Arc<str>,
    },
}

/// What its holder had when it forgot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Had {
    /// Nothing that the home does not know: for an owned line, it was not written.
    Nothing,
    /// An owned line that was written last with this.
    Written(Held),
    /// An owned line was granted to a former process: what it wrote is lost.
    Lost,
}

/// A write and its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// What to do.
    pub change: Change,
    /// Time to live, from the commit.
    pub ttl: Option<Millis>,
    /// Only if this is the current version.
    pub if_version: Option<Version>,
    /// Only if there is no value.
    pub if_absent: bool,
    /// Only if this right to fill, from [`Answer::Fill`], still stands.
    pub fill: Option<Version>,
    /// Only if no newer token of this lock was seen at the home.
    pub guard: Option<Guard>,
    /// Makes a retry harmless while the home's process lives.
    pub request_id: Option<String>,
}

impl Write {
    /// A write without conditions.
    #[must_use]
    pub fn new(key: Key, change: Change) -> Self {
        Self {
            key,
            change,
            ttl: None,
            if_version: None,
            if_absent: false,
            fill: None,
            guard: None,
            request_id: None,
        }
    }
}

/// A change of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The value is this from now on.
    Set(Bytes),
    /// There is no value any more.
    Delete,
    /// The value, a whole number, grows by this; no value counts as 0. The time to live stays.
    Add(i64),
}

/// The wish to fill a missing value in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The key.
    pub key: Key,
    /// How long the right to fill would be needed.
    pub lease: Millis,
    /// How long to wait for somebody else who fills it.
    pub wait: Millis,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Read`] and [`Request::Load`].
    Value(Value),
    /// To [`Request::Write`]: no node can answer with an older value any more. The version written;
    /// for a delete the version of the absence, `None` if nothing was there.
    Written(Option<Version>),
    /// To [`Request::Write`] of [`Change::Add`].
    Counted {
        /// The version written.
        version: Version,
        /// The sum.
        value: i64,
    },
    /// To [`Request::Load`]: nobody else may fill the value in while this lasts.
    Fill {
        /// Goes into [`Write::fill`].
        token: Version,
        /// How long it lasts.
        left: Millis,
    },
    /// To [`Request::Load`]: somebody else fills it in.
    Loading {
        /// What is left of that right.
        left: Millis,
    },
    /// To [`Request::Flush`].
    Flushed,
    /// To [`Request::Guard`].
    Guarded,
    /// To [`Request::Renew`].
    Renewed {
        /// The lease's length.
        lease: Millis,
    },
    /// To [`Request::Return`] and [`Request::Forgotten`], whether or not it still mattered.
    Returned,
    /// To [`Request::Forget`]: it is gone.
    Forgotten(Had),
    /// To [`Request::Forget`]: not yet; ask again if [`Request::Forgotten`] does not come.
    Forgetting,
    /// To [`Request::Seal`].
    Sealed {
        /// The ring epoch under which nothing foreign is served here any more.
        ring_epoch: u64,
        /// The number of the first of `lines`.
        first: u64,
        /// Lines that are the asking node's now.
        lines: Vec<Moved>,
        /// There are more.
        more: bool,
    },
    /// To [`Request::Bequest`].
    Taken,
    /// To [`Request::Follow`].
    Followed(Heard),
    /// To [`Request::Inspect`].
    Place(Place),
    /// To [`Request::Many`].
    Many(Vec<Answer>),
    /// Not done, and nothing changed.
    Refused(Refusal),
}

/// What a home says of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The committed value; `None`: there is none.
    pub held: Option<Held>,
    /// The lease under which the value, or its absence, may be kept as a copy. `None`: it may not.
    pub lease: Option<Millis>,
    /// Comes with a lease: the reader owns the line.
    pub grant: Option<Grant>,
}

/// The right to write a line without asking its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The home's number for it.
    pub number: u64,
    /// Writes under it take the versions after this one, with the same epoch, in order.
    pub after: Version,
    /// At most so many.
    pub writes: u64,
    /// Time to live of writes that say none.
    pub ttl: Option<Millis>,
}

/// A committed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of the write that made it.
    pub version: Version,
    /// Opaque.
    pub value: Bytes,
    /// What is left of its time to live.
    pub left: Option<Millis>,
}

/// A line on its way to another home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The key.
    pub key: Key,
    /// Its value.
    pub held: Held,
}

/// What one node knows of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As its home.
    pub line: Option<LineView>,
    /// As the holder of a copy.
    pub copy: Option<CopyView>,
    /// Of the namespaces that it knows.
    pub spaces: u64,
}

/// A line at its home, seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineView {
    /// Of the committed value, if there is one.
    pub version: Option<Version>,
    /// What is left of its time to live.
    pub left: Option<Millis>,
    /// Whether a change waits for sharers.
    pub is_changing: bool,
    /// Who owns it.
    pub owner: Option<NodeId>,
    /// Who may hold a copy, and what is left of its lease as the home counts.
    pub sharers: Vec<(NodeId, Millis)>,
}

/// A copy that may be read, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// Its coherence state.
    pub state: char,
    /// `None`: a known absence.
    pub version: Option<Version>,
    /// What is left of the lease as its holder counts.
    pub lease: Millis,
}

/// Why a home did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Not the key's home, not yet, or not for sure: look at the ring again and ask again.
    #[error("not the home")]
    NotHome,
    /// The line is owned by another node: ask in a way that can wait.
    #[error("owned")]
    Owned,
    /// The namespace is not known here, perhaps not yet.
    #[error("no namespace")]
    NoNamespace,
    /// `if_version` or `if_absent` did not hold.
    #[error("version mismatch")]
    VersionMismatch {
        /// What is there.
        current: Option<Version>,
    },
    /// The guard does not hold.
    #[error("guard: {0}")]
    Guard(crate::command::Refusal),
    /// The right to fill is over: a write, a flush or a move came first, or its time has passed.
    #[error("fill void")]
    FillVoid,
    /// The value is not a whole number.
    #[error("not a number")]
    NotANumber,
    /// The sum does not fit.
    #[error("out of range")]
    OutOfRange,
    /// Larger than all lines together may be.
    #[error("too large")]
    TooLarge,
    /// The same request id came with another write.
    #[error("request conflict")]
    RequestConflict,
    /// The home holds as many bytes as it may.
    #[error("full")]
    Full,
    /// The home remembers as many requests as it may.
    #[error("memo full")]
    MemoFull,
    /// As many requests wait at the home as may; nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// No lease: an order to the asking node is overdue, or the home's own lease ends.
    #[error("no lease")]
    NoLease,
}
