//! `/session/*`: one heartbeat keeps any number of locks.

use serde::{Deserialize, Serialize};

/// `POST /session/open`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    /// Whose it is, for people.
    pub owner: String,
    /// It ends when it is not renewed for so long, in milliseconds; 30,000 unless said.
    #[serde(default = "default_ttl_ms")]
    pub ttl_ms: u64,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`OpenSession`] and [`RenewSession`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Which: as `session` in requests.
    pub session: String,
    /// How long it lasts without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// What is left of that.
    pub expires_in_ms: u64,
    /// How many receipts of messages this heartbeat has extended; absent for a session that never
    /// received any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<u64>,
    /// Shards that could not be told of this heartbeat in time: receipts there last as long as they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached_shards: Vec<u32>,
}

/// `POST /session/renew`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewSession {
    /// Which; or `sessions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Several: one result each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<String>>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /session/close`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseSession {
    /// Which.
    pub session: String,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`CloseSession`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Always true.
    pub closed: bool,
}

const fn default_ttl_ms() -> u64 {
    30_000
}
