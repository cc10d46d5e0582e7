//! The cache on this node: drives the pure machines of `lockstep_core::cache` over the peers.

use std::time::Duration;

use bytes::Bytes;
use lockstep_core::Millis;

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value, opaque: JSON as the client sent it.
    pub value: Bytes,
    /// Larger for every later write of the key.
    pub version: Version,
    /// What is left of its time to live.
    pub left: Option<Millis>,
    /// The copy's coherence state here: `M`, `E`, `S` or `I`.
    pub state: char,
    /// Whether it was answered from this node's memory without asking its home.
    pub local: bool,
}

/// (the home incarnation's ring epoch, the home's counter). Shown as `7.1834`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// The ring epoch at which the home's process came in.
    pub epoch: u64,
    /// Counted by the home over all its keys.
    pub counter: u64,
}

/// Why the cache did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `if_version` or `if_absent` did not hold.
    #[error("version mismatch")]
    VersionMismatch {
        /// What is there.
        current: Option<Version>,
    },
    /// The key's home is dead, moving or cut off; certainly nothing was done.
    #[error("home unavailable")]
    HomeUnavailable,
    /// The write may have been done.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// Larger than a whole cache may be.
    #[error("value too large")]
    TooLarge,
}

/// A write and its conditions.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// Time to live.
    pub ttl: Option<Millis>,
    /// Only if this is the current version.
    pub if_version: Option<Version>,
    /// Only if there is no value.
    pub if_absent: bool,
    /// Makes a retry harmless while the home's process lives.
    pub request_id: Option<String>,
}

/// The cache of this node.
pub struct Cache {}

#[allow(unused_variables, clippy::unused_async)]
impl Cache {
    /// The value from this node's memory, if it holds a copy that may be read now. Never waits.
    pub fn get_local(&self, key: &str) -> Option<Entry> {
        unimplemented!()
    }
    /// The value, from memory or from the key's home; `None` is a miss.
    pub async fn get(&self, key: &str, skip_local: bool, timeout: Duration) -> Result<Option<Entry>, Error> {
        unimplemented!()
    }
    /// Writes at the key's home; returns when no node can answer with an older value any more.
    /// The version written, or for a delete the version of the absence; `None` if nothing was there.
    pub async fn write(&self, write: Write, timeout: Duration) -> Result<Option<Version>, Error> {
        unimplemented!()
    }
}
