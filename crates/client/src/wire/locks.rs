//! Locks on the wire.

use serde::{Deserialize, Serialize};

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One holder, nobody else.
    #[default]
    Exclusive,
    /// Any number of holders, all shared.
    Shared,
}

/// The lock under which a write to a queue or the cache is done: refused with `fenced` where a newer
/// token of that lock was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The lock.
    pub lock: String,
    /// The fencing token of the hold.
    pub token: u64,
    /// Refused also if the lock is no longer held under that token when the write is ordered.
    /// Permits need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// `POST /lock/acquire`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// The lock.
    pub name: String,
    /// The holder to be: one holder, not a team of workers.
    pub owner: String,
    /// How; exclusive unless said.
    #[serde(default)]
    pub mode: Mode,
    /// The lease's length in milliseconds.
    #[serde(default = "default_ttl_ms")]
    pub ttl_ms: u64,
    /// How long to wait in the lock's queue, in milliseconds; 0 refuses at once.
    #[serde(default)]
    pub wait_ms: u64,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Acquire`] and [`Renew`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquired {
    /// Always true.
    pub acquired: bool,
    /// The lock.
    pub name: String,
    /// The holder.
    pub owner: String,
    /// How.
    pub mode: Mode,
    /// The fencing token: larger for every later grant of any lock of the cluster.
    pub token: u64,
    /// The lease's length in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it.
    pub expires_in_ms: u64,
}

/// `POST /lock/release`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The lock.
    pub name: String,
    /// The holder.
    pub owner: String,
    /// The hold that is meant; without one whichever `owner` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Release`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Always true.
    pub released: bool,
}

/// `POST /lock/renew`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The lock.
    pub name: String,
    /// The holder.
    pub owner: String,
    /// The hold that is meant.
    pub token: u64,
    /// The lease's new length in milliseconds; as before if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The query of `GET /lock/get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetLock {
    /// The lock.
    pub name: String,
}

/// The query of `GET /lock/list`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListLocks {
    /// Only names that begin so.
    #[serde(default)]
    pub prefix: String,
    /// The last name of the page before.
    pub after: Option<String>,
    /// At most so many; 100 unless said.
    #[serde(default = "default_limit")]
    pub limit: u32,
}

/// One lock, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The lock.
    pub name: String,
    /// Who holds it; nobody if empty.
    pub holders: Vec<Holder>,
    /// Who waits, first come first.
    pub waiters: Vec<Waiter>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The holder.
    pub owner: String,
    /// How.
    pub mode: Mode,
    /// The fencing token.
    pub token: u64,
    /// The lease's length in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it.
    pub expires_in_ms: u64,
}

/// One waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// The holder to be.
    pub owner: String,
    /// How.
    pub mode: Mode,
    /// How long it will still wait, in milliseconds.
    pub waits_ms: u64,
}

/// The reply to [`ListLocks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// In the order of their names.
    pub locks: Vec<Lock>,
    /// Pass it as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

const fn default_ttl_ms() -> u64 {
    30_000
}

const fn default_limit() -> u32 {
    100
}
