//! The cache on the wire. Values are any JSON, and come back byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    /// Only `default` exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
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
    /// Only `default` exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
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
    /// Only `default` exists.
    pub namespace: Option<String>,
    /// `home` skips this node's copy.
    pub mode: Option<String>,
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
