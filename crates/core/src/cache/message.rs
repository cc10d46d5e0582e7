//! What nodes say to each other about cache lines. Each request has one answer.
//!
//! It deliberately carries spans of time, never instants: no two nodes share a clock.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Key, Version};
use crate::names::{Incarnation, Origin};
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
        /// Whether the sender wants to keep a copy; if so it is registered before the value is read.
        copy: bool,
    },
    /// To a home: change the value. Answered by [`Answer::Written`].
    Write {
        /// Whom the sender believes to be home.
        to: Addressee,
        /// The change.
        write: Write,
    },
    /// To a home: let me go on reading all copies that I hold from you. Answered by [`Answer::Renewed`].
    Renew {
        /// Whom the sender believes to be home.
        to: Addressee,
    },
    /// From a home: forget your copy, then answer with [`Answer::Invalidated`].
    Invalidate(Invalidate),
    /// To every other member, before its sender serves keys that are new to it: stop serving what
    /// is no longer yours under this ring. Answered by [`Answer::Sealed`].
    Seal {
        /// The sender's ring epoch.
        ring_epoch: u64,
    },
}

/// The home that a request is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressee {
    /// The process, as the sender's view names it.
    pub incarnation: Incarnation,
    /// The sender's ring epoch.
    pub ring_epoch: u64,
}

/// An order to forget a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidate {
    /// Who orders it.
    pub home: Origin,
    /// The key.
    pub key: Key,
    /// The home's number for the change that waits; the answer repeats it.
    pub seq: u64,
}

/// A write and its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// Time to live, from the commit.
    pub ttl: Option<Millis>,
    /// Only if this is the current version.
    pub if_version: Option<Version>,
    /// Only if there is no value.
    pub if_absent: bool,
    /// Makes a retry harmless while the home's process lives.
    pub request_id: Option<String>,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Read`].
    Value(Value),
    /// To [`Request::Write`]: no node can answer with an older value any more. The version written;
    /// for a delete the version of the absence, `None` if nothing was there.
    Written(Option<Version>),
    /// To [`Request::Renew`].
    Renewed {
        /// The lease's length.
        lease: Millis,
    },
    /// To [`Request::Invalidate`]: the copy is gone.
    Invalidated,
    /// To [`Request::Seal`].
    Sealed {
        /// The ring epoch under which nothing foreign is served here any more.
        ring_epoch: u64,
    },
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

/// Why a home did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Not the key's home, not yet, or not for sure: look at the ring again and ask again.
    #[error("not the home")]
    NotHome,
    /// `if_version` or `if_absent` did not hold.
    #[error("version mismatch")]
    VersionMismatch {
        /// What is there.
        current: Option<Version>,
    },
    /// Larger than all lines together may be.
    #[error("too large")]
    TooLarge,
    /// The same request id came with another write.
    #[error("request conflict")]
    RequestConflict,
    /// The home remembers as many requests, or holds as many bytes, as it may.
    #[error("full")]
    Full,
    /// No lease: an invalidation to the asking node is overdue, or the home's own lease ends.
    #[error("no lease")]
    NoLease,
}
