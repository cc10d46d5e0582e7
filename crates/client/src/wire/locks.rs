//! Locks on the wire.

use std::collections::BTreeMap;

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
    /// One of a limited number of holders: a counting semaphore.
    Permit,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// The lock; or `names`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Several locks, taken together or not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The holder to be: one holder, not a team of workers.
    pub owner: String,
    /// How; exclusive unless said.
    #[serde(default)]
    pub mode: Mode,
    /// For permits: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The lease's length in milliseconds; 30,000 unless said. Not together with `session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How long to wait in the lock's queue, in milliseconds; 0 refuses at once.
    #[serde(default)]
    pub wait_ms: u64,
    /// The session that keeps the hold, instead of a lease of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Any JSON that is shown to whoever looks at the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// If the hold is lost (its lease or session ends), how long nobody gets the lock, in
    /// milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_delay_ms: u64,
    /// Whether to fail with `deadlock` where waiting would close a cycle of waits; true unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_on_deadlock: Option<bool>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Acquire`], [`Renew`], [`Upgrade`] and [`Downgrade`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquired {
    /// Always true.
    pub acquired: bool,
    /// The lock; empty where several were taken together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The locks that were taken together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The holder.
    pub owner: String,
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How.
    pub mode: Mode,
    /// The fencing token: larger for every later grant of any lock of the cluster.
    pub token: u64,
    /// Where several locks were taken together, the token that guards each: `token`, except where a
    /// shared hold joined others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<String, u64>,
    /// The lease's length in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it.
    pub expires_in_ms: u64,
}

/// `POST /lock/release`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The lock; or `names`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Several locks: all of them or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The holder.
    pub owner: String,
    /// The holder's session, where the owner alone does not say which hold is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The lock; or `names`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Several locks: all of them or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The holder.
    pub owner: String,
    /// The holder's session, where the owner alone does not say which hold is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The hold that is meant.
    pub token: u64,
    /// The lease's new length in milliseconds; as before if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /lock/upgrade`: from shared to exclusive, ahead of everybody who waits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// The lock.
    pub name: String,
    /// The holder.
    pub owner: String,
    /// The holder's session, where the owner alone does not say which hold is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The hold that is meant.
    pub token: u64,
    /// How long to wait for the other holders to leave, in milliseconds; 0 refuses at once.
    #[serde(default)]
    pub wait_ms: u64,
    /// As in [`Acquire`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_on_deadlock: Option<bool>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /lock/downgrade`: from exclusive to shared, under the same token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downgrade {
    /// The lock.
    pub name: String,
    /// The holder.
    pub owner: String,
    /// The holder's session, where the owner alone does not say which hold is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The hold that is meant.
    pub token: u64,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /lock/break`: ends holds whoever has them, and writes down who did it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Break {
    /// The lock.
    pub name: String,
    /// Why; kept in the audit log.
    pub reason: String,
    /// Who; kept in the audit log.
    pub by: String,
    /// Only the hold with this token; all of them without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Break`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Always true.
    pub broken: bool,
    /// Who has lost it.
    pub holders: Vec<Loser>,
}

/// Whose hold was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loser {
    /// The former holder.
    pub owner: String,
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The token that is void now.
    pub token: u64,
}

/// The query of `GET /lock/audit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetAudit {
    /// Only of this lock.
    pub name: Option<String>,
    /// Only entries after this one.
    #[serde(default)]
    pub after: u64,
    /// At most so many; 100 unless said.
    #[serde(default = "default_limit")]
    pub limit: u32,
}

/// The reply to [`GetAudit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Oldest first.
    pub entries: Vec<AuditEntry>,
    /// Pass it as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A lock that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counted from 1.
    pub id: u64,
    /// The lock.
    pub name: String,
    /// Who has lost it.
    pub holders: Vec<Loser>,
    /// Why.
    pub reason: String,
    /// Who broke it.
    pub by: String,
    /// When, by the clock of the node that was asked: unix milliseconds.
    pub at_ms: u64,
}

/// The query of `GET /lock/watch`, which answers with server-sent events.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchLock {
    /// The lock.
    pub name: String,
    /// The last event that is known already, for clients that cannot send `Last-Event-ID`.
    pub after: Option<u64>,
}

/// The data of one event of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEvent {
    /// `granted`, `released`, `expired`, `broken`, `waiting` or `left`; also the event's name.
    pub event: String,
    /// The lock.
    pub name: String,
    /// Who held or holds it, waits or waited.
    pub owner: String,
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How.
    pub mode: Mode,
    /// The fencing token of the hold; absent for a waiter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
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
    /// How many permits there are, as long as anybody holds or awaits one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// How long nobody gets it, after a loss, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed_ms: Option<u64>,
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
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How.
    pub mode: Mode,
    /// The fencing token.
    pub token: u64,
    /// The lease's length in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it.
    pub expires_in_ms: u64,
    /// As the holder gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

/// One waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// The holder to be.
    pub owner: String,
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How.
    pub mode: Mode,
    /// Whether it holds the lock as shared and waits to become exclusive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
    /// How long it will still wait, in milliseconds.
    pub waits_ms: u64,
    /// Every lock that it waits for together.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// Whose leaving it needs, the first few: holders, and whoever is right ahead of it.
    #[serde(default)]
    pub blocked_by: Vec<String>,
    /// As the waiter gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
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

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

const fn default_limit() -> u32 {
    100
}
