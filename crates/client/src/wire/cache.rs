//! The cache on the wire. Values are any JSON, and come back byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Guard;

/// `POST /cache/set`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// The key.
    pub key: String,
    /// Any JSON; `null` is a value.
    pub value: Box<RawValue>,
    /// Time to live in milliseconds; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Only if this is the current version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<String>,
    /// Only if there is no value.
    #[serde(default)]
    pub if_absent: bool,
    /// Only if this right to fill the value in, from [`Load`], still stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_token: Option<String>,
    /// The key's namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Set`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The key.
    pub key: String,
    /// The version written, as two numbers joined by a dot.
    pub version: String,
}

/// `POST /cache/delete`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// The key.
    pub key: String,
    /// Only if this is the current version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<String>,
    /// The key's namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Delete`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The key.
    pub key: String,
    /// Whether there was a value.
    pub deleted: bool,
}

/// The query of `GET /cache/get`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// The key.
    pub k: Option<String>,
    /// The key, by its long name.
    pub key: Option<String>,
    /// The key's namespace; `default` if absent.
    pub namespace: Option<String>,
    /// `home` skips this node's copy.
    pub mode: Option<String>,
    /// The lock under which it is done; with `guard_token`.
    pub guard_lock: Option<String>,
    /// The fencing token of the hold.
    pub guard_token: Option<u64>,
    /// Refused also if the lock is no longer held under that token.
    pub guard_strict: Option<bool>,
}

/// The reply to [`Get`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value {
    /// The key.
    pub key: String,
    /// As it was set.
    pub value: Box<RawValue>,
    /// Larger for every later write of the key.
    pub version: String,
    /// The copy's coherence state at the answering node.
    pub state: String,
    /// `local`: from the answering node's memory; `home`: the key's home was asked.
    pub source: String,
    /// What is left of its time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// `POST /cache/incr`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incr {
    /// The key; a missing value counts as 0.
    pub key: String,
    /// What is added; 1 if absent.
    #[serde(default = "one")]
    pub by: i64,
    /// Time to live in milliseconds of a value that comes into being by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The key's namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

fn one() -> i64 {
    1
}

/// The reply to [`Incr`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The key.
    pub key: String,
    /// The sum.
    pub value: i64,
    /// The version written.
    pub version: String,
}

/// `POST /cache/mget`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiGet {
    /// At most 1000. The reply has one [`Value`] or error for each, in order.
    pub keys: Vec<String>,
    /// The keys' namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Accepted, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /cache/mset`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiSet {
    /// At most 1000, each for itself. The reply has one [`Written`] or error for each, in order.
    pub entries: Vec<OneSet>,
    /// The keys' namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One entry of a [`MultiSet`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneSet {
    /// The key.
    pub key: String,
    /// Any JSON; `null` is a value.
    pub value: Box<RawValue>,
    /// Time to live in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Only if this is the current version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<String>,
    /// Only if there is no value.
    #[serde(default)]
    pub if_absent: bool,
}

/// `POST /cache/flush`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flush {
    /// What is emptied; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Accepted, and without effect: flushing twice is harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Flush`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Which.
    pub namespace: String,
    /// Always true.
    pub flushed: bool,
}

/// `POST /cache/load`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The key.
    pub key: String,
    /// How long the right to fill is needed, in milliseconds.
    #[serde(default = "load_lease_ms")]
    pub lease_ms: u64,
    /// How long to wait for somebody else who fills it in; `lease_ms` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The key's namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Accepted, and without effect: whoever asks again is told what holds then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

fn load_lease_ms() -> u64 {
    5_000
}

/// The reply to [`Load`] where there is no value, and this caller alone may fill it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// The key.
    pub key: String,
    /// Goes into [`Set::fill_token`].
    pub fill_token: String,
    /// How long it lasts.
    pub expires_in_ms: u64,
}

/// `POST /cache/namespace`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name; it comes into being if need be.
    pub namespace: String,
    /// `through` or `back`; as it was if absent, `through` at first. With `back` a node that is a key's
    /// sole reader owns it, and settles writes in its memory that carry no request id, guard or fill
    /// token: only a key's home can judge those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<String>,
    /// Bytes over all nodes, keys and directory counted; as it was if absent, no bound at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Time to live of writes that say none; as it was if absent, for ever at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl_ms: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Namespace`]: all of its settings, known to every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceSettings {
    /// Its name.
    pub namespace: String,
    /// `through` or `back`.
    pub write: String,
    /// Bytes over all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Time to live of writes that say none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl_ms: Option<u64>,
}

/// The query of `GET /cache/line`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineQuery {
    /// The key.
    pub k: Option<String>,
    /// The key, by its long name.
    pub key: Option<String>,
    /// The key's namespace; `default` if absent.
    pub namespace: Option<String>,
}

/// The reply to [`LineQuery`]: what the protocol sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The key.
    pub key: String,
    /// Its namespace.
    pub namespace: String,
    /// Who is its home now.
    pub home: Option<u64>,
    /// How often the set of live members has changed.
    pub ring_epoch: u64,
    /// Of the committed value, as the home has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is left of its time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// Whether a change waits until others have forgotten the old value.
    pub changing: bool,
    /// Every live member.
    pub nodes: Vec<LineNode>,
}

/// One node's part in a [`Line`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineNode {
    /// Which.
    pub node: u64,
    /// Whether it answered.
    pub reachable: bool,
    /// The coherence state there: `M`, `E`, `S` or `I`.
    pub state: String,
    /// The version that it would answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is left of its lease, as it counts itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// What is left of its lease as the home counts, if the home knows it as a holder of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_lease_ms: Option<u64>,
}

/// The query of `GET /cache/watch`, which answers with server-sent events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchCache {
    /// Only this key.
    pub k: Option<String>,
    /// Only this key, by its long name.
    pub key: Option<String>,
    /// Only keys that begin so.
    pub prefix: Option<String>,
    /// Of this namespace; `default` if absent.
    pub namespace: Option<String>,
    /// The id of the last event that is known already, for clients that cannot send `Last-Event-ID`.
    pub after: Option<String>,
}

/// The data of one event of such a watch. Whoever keeps values drops what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEvent {
    /// `invalidate`: one key; `flush`: a namespace; `reset`: everything. Also the event's name.
    pub event: String,
    /// The key, of `invalidate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The namespace, of `invalidate` and `flush`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of `invalidate`: nothing older than it is read any more; where `reason` is `set`, it is read itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of `invalidate`: `set`, `deleted`, `evicted` or `lost`. Of `reset`: `start`, `unknown_id`, `slow`,
    /// `missed`, `ring` or `away`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
