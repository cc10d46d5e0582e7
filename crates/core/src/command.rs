//! The log's vocabulary: what may be written to a shard's log, and what applying it answers.
//!
//! Versioned by [`VERSION`]: bytes of another version are refused before they reach a machine.
//! It deliberately holds no behaviour; each machine's own module says what its words do.

mod locks;
mod queues;
mod reply;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::guards::Guard;
use crate::names::{Incarnation, LockName, NodeId, Origin, QueueName, Ticket};
use crate::shard::Settings;
use crate::stamp::Millis;

pub use locks::{
    Acquire, Attempt, Claimant, Grant, Holder, Lease, LockOp, Mode, Renewal, SessionOp, Standing,
};
pub use queues::{
    Cargo, ConfigChange, ConfigOp, Delivered, Forwarded, InSession, Letter, NewMessage, Onward, Outgoing,
    Placed, QueueOp, Room, new_bodies,
};
pub use reply::{Refusal, Reply};

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
