//! Cache coherence: one home per key keeps the committed value and a directory of who holds copies.
//!
//! Six pure machines. [`tenure::Tenure`] knows which keys this node may answer for as their home,
//! [`home::Home`] holds the lines and the directory, [`copy::Copies`] holds this node's copies of
//! other homes' lines, [`near::Near`] knows what this node's clients hold in their own processes,
//! [`watch::Watching`] collects what all members have changed for those who only want to be told, and
//! [`lease`] does the arithmetic between clocks that drift. Messages go in,
//! messages come out, time is an argument: each node's own monotonic milliseconds.
//!
//! Lines live in memory and are not replicated: a crash turns values into misses, never into old
//! values. A copy is Shared or Invalid; where a namespace allows it, a sole reader's is Exclusive, and
//! Modified once that reader has written it. It deliberately knows no connections: who asks, and how
//! messages travel, is the driver's affair.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod copy;
#[cfg(test)]
mod explore;
pub mod feed;
pub mod home;
pub mod lease;
pub mod message;
pub mod near;
pub mod space;
pub mod tenure;
pub mod watch;

/// A cache key. Shared, because lines, directories and messages all name it.
pub type Key = Arc<str>;

/// Names a request that waits inside a machine; the driver chose it and finds the caller by it.
pub type Tag = u64;

/// The version of a written value, larger for every later write of the same key, also across
/// delete, expiry, eviction and a move to another home. Shown as `7.1834`.
///
/// A ring epoch has one home for a key, and a process counts all its writes with one counter, so a
/// version never repeats for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The ring epoch under which the home committed the write.
    pub epoch: u64,
    /// Counted by the home's process over all its keys.
    pub counter: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}
