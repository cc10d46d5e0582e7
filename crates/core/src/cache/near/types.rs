//! The words of near clients: what they are told, what they may use up, what has happened to them.
//!
//! It decides nothing.

use std::sync::Arc;

use crate::cache::{Key, Tag, lease};
use crate::stamp::Millis;

/// The longest lease of a near client.
pub const LEASE: Millis = Millis(lease::LEASE.0 / PART);

/// A client gets at most one part in this many of what its node has.
pub(super) const PART: u64 = 4;

/// A lease shorter than this is not worth granting.
pub const SHORTEST: Millis = Millis(20);

/// A client that has not acknowledged for so long gets no further lease.
pub const OVERDUE: Millis = Millis(100);

/// A client of which nothing was heard for so long, its leases long over, is forgotten.
pub const GONE: Millis = Millis(10_000);

/// What a client has not acknowledged beyond this many numbers becomes one: forget everything.
pub const UNTOLD_MAX: usize = 4_096;

/// One near client of this node.
pub type ClientId = u64;

/// How much near clients may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at once.
    pub clients_max: usize,
    /// Keys that one client may hold; beyond it, it is told to forget what it has held longest.
    pub keys_max: usize,
    /// Keys that all clients together may hold; beyond it nothing more may be kept.
    pub keys_max_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients_max: 256, keys_max: 50_000, keys_max_total: 500_000 }
    }
}

/// Why a client got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many clients as there may be.
    TooManyClients,
    /// No such client, or no longer: it opens anew, and holds nothing.
    Unknown,
}

/// What the driver has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// There is something to tell this client.
    Wake(ClientId),
    /// No client can read what this order named any more: it may be answered.
    Forgotten(Tag),
}

/// Something for a client to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Goes up by one with every note to this client.
    pub seq: u64,
    /// What.
    pub subject: Subject,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One key.
    Key(Key),
    /// Every key of a namespace.
    Namespace(Arc<str>),
    /// Everything: the client was too slow to be told what exactly.
    Everything,
}

/// Counters of what happened to near clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What clients were told to forget.
    pub invalidations: u64,
    /// Waits that ended with a client's lease instead of its word.
    pub lease_expiries: u64,
    /// Clients that had to forget everything, because they were too slow.
    pub resets: u64,
}
