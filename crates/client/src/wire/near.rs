//! Near caches on the wire: copies in a client's process, under a lease, with acknowledgements.
//!
//! A near cache opens at one node, gets values that it may keep while a lease lasts, and asks for news
//! all the time: the question says what it has forgotten so far, the answer what else to forget.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// `POST /cache/near/open`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearOpen {
    /// Accepted, and without effect: one that is never used again is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`NearOpen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearOpened {
    /// Goes into every later request, at this node.
    pub client: String,
    /// No lease is longer.
    pub lease_ms_max: u64,
}

/// `POST /cache/near/get`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearGet {
    /// From [`NearOpened`].
    pub client: String,
    /// The key.
    pub key: String,
    /// The key's namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Accepted, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`NearGet`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NearValue {
    /// The key.
    pub key: String,
    /// As it was set; absent if there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "even_null")]
    pub value: Option<Box<RawValue>>,
    /// Larger for every later write of the key; absent if there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is left of its time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// The value, or its absence, may be kept while this lasts; absent: used once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<NearLease>,
}

/// Counted from before the request was sent, by a clock that counts suspended time, and a hundredth short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearLease {
    /// Copies under the same name share one lease: a later one prolongs it for all of them, unless it
    /// had ended before; then they are gone.
    pub of: String,
    /// Milliseconds.
    pub ms: u64,
}

/// `POST /cache/near/sync`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearSync {
    /// From [`NearOpened`].
    pub client: String,
    /// The last [`NearNote::seq`] that was carried out; what it named can be read by nobody here any
    /// more, nor from an answer that is still on its way.
    #[serde(default)]
    pub acked: u64,
    /// How long to wait for something to forget; the node answers sooner to keep the lease alive.
    #[serde(default)]
    pub wait_ms: u64,
    /// Accepted, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`NearSync`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearNews {
    /// What was not acknowledged yet, in order.
    pub forget: Vec<NearNote>,
    /// The leases that go on.
    pub leases: Vec<NearLease>,
}

/// Something to forget: a key, a namespace, or everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearNote {
    /// Goes up by one with each.
    pub seq: u64,
    /// This key of `namespace`; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of this namespace; absent: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `POST /cache/near/close`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearClose {
    /// From [`NearOpened`].
    pub client: String,
    /// Accepted, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`NearClose`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearGone {
    /// Always true.
    pub closed: bool,
}

/// `null` is a value.
fn even_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_value_and_absence_is_none() {
        let read = |text: &str| serde_json::from_str::<NearValue>(text).unwrap().value;
        assert_eq!(read(r#"{"key":"k","value":null,"version":"1.1"}"#).unwrap().get(), "null");
        assert!(read(r#"{"key":"k"}"#).is_none());
    }
}
