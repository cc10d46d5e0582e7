//! Queues on the wire. Payloads are any JSON, and come back byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Fault, Guard, OneResult};

/// `POST /queue/push`: one message, or `messages`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The queue, for every message that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The payload of a single message; `null` is one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub payload: Option<Box<RawValue>>,
    /// Orders a single message behind earlier ones of this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A single message is not delivered before so many milliseconds have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// A single message is dropped, unless in flight, once so many milliseconds have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// A single message's priority: 0 to 9, larger ones first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// A single message is pushed once under this id, per queue and key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_id: Option<String>,
    /// A batch instead of a single message, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<NewMessage>>,
    /// The lock under which it is pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Whatever is there, `null` too: only an absent field is `None`.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// A message of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    /// Any JSON.
    pub payload: Box<RawValue>,
    /// Orders it behind earlier ones of this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Not delivered before so many milliseconds have passed.
    #[serde(default)]
    pub delay_ms: u64,
    /// Dropped, unless in flight, once so many milliseconds have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// 0 to 9: larger ones first among messages without a key and among the heads of keys.
    #[serde(default)]
    pub priority: u8,
    /// Pushed once under this id, per queue and key; remembered for five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_id: Option<String>,
}

/// The reply to one pushed message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Unique in the cluster.
    pub id: String,
    /// The queue.
    pub queue: String,
    /// The shard that holds it.
    pub shard: u32,
    /// It was there already, under the same `dedup_id`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// `POST /queue/pop`, and the query of `GET /queue/pop`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pop {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// How long to wait for a message, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// The lock under which it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Pop`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Popped {
    /// Nothing, if every shard proved empty.
    pub message: Option<Message>,
}

/// A message that was delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Unique in the cluster.
    pub id: String,
    /// The queue.
    pub queue: String,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// As it was pushed.
    pub payload: Box<RawValue>,
    /// How often it has been delivered, this time included.
    pub attempts: u32,
    /// How often it has failed: time-outs, and nacks that said so.
    #[serde(default)]
    pub failures: u32,
    /// As it was pushed; 0 unless said otherwise.
    #[serde(default)]
    pub priority: u8,
    /// When it was pushed: unix milliseconds by the pushing node's clock, for people.
    pub enqueued_at_ms: u64,
    /// What acknowledges it; absent after a pop, which leaves nothing to acknowledge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// When it is delivered again, unless acknowledged before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_in_ms: Option<u64>,
}

/// `POST /queue/receive`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receive {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// At most so many messages.
    #[serde(default = "default_max")]
    pub max: u32,
    /// How long they stay hidden, in milliseconds; as the queue is configured if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility_ms: Option<u64>,
    /// How long to wait for a message, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// The session that keeps the receipts: each of its heartbeats starts their `visibility_ms` anew,
    /// and its end returns the messages at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Receipts of earlier deliveries that are done, at most 1000: acknowledged with this request, which
    /// spares one of its own. They may be of any queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Vec<String>>,
    /// The lock under which they are received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Receive`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    /// Empty, if every shard proved empty.
    pub messages: Vec<Message>,
    /// One result for each receipt in `ack`, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<Vec<OneResult<Acked>>>,
    /// Why nothing could be received. Only where something was acknowledged: otherwise this is the whole
    /// answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// `POST /queue/ack`: one receipt, or `receipts`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Of one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Of many, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Vec<String>>,
    /// Pushed in the same atomic step, at most 1000: all of it or nothing. The receipts must then be of
    /// one shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Vec<Onward>>,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A message pushed together with an acknowledgement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Onward {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Any JSON.
    pub payload: Box<RawValue>,
    /// As in [`NewMessage::key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// As in [`NewMessage::delay_ms`].
    #[serde(default)]
    pub delay_ms: u64,
    /// As in [`NewMessage::ttl_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// As in [`NewMessage::priority`].
    #[serde(default)]
    pub priority: u8,
    /// As in [`NewMessage::dedup_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_id: Option<String>,
}

/// The reply to one receipt of [`Ack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// Always true.
    pub acknowledged: bool,
}

/// The reply to an [`Ack`] with `push`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckedPushed {
    /// Always true: of every receipt.
    pub acknowledged: bool,
    /// In order.
    pub pushed: Vec<PushedOnward>,
}

/// Where a message pushed together with an acknowledgement is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedOnward {
    /// Unique in the cluster; absent if it went to another shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The queue.
    pub queue: String,
    /// The shard that holds it.
    pub shard: u32,
    /// It was there already, under the same `dedup_id`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// `POST /queue/nack`: one receipt, or `receipts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nack {
    /// Of one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Of many, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Vec<String>>,
    /// Not delivered again before so many milliseconds have passed.
    #[serde(default)]
    pub delay_ms: u64,
    /// Whether it counts towards the dead-letter limit.
    #[serde(default = "default_true")]
    pub failed: bool,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to one receipt of [`Nack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nacked {
    /// Always true.
    pub returned: bool,
}

/// `POST /queue/extend`: one receipt, or `receipts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// Of one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Of many, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Vec<String>>,
    /// How long it stays hidden from now on, in milliseconds.
    pub visibility_ms: u64,
    /// The lock under which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to one receipt of [`Extend`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// How long it stays hidden.
    pub visible_in_ms: u64,
}

pub(super) fn default_queue() -> String {
    "default".into()
}

const fn default_max() -> u32 {
    1
}

const fn default_true() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_payload_and_nothing_is_none() {
        let payload = |text| serde_json::from_str::<Push>(text).unwrap().payload;
        assert_eq!(payload(r#"{"payload":null}"#).map(|raw| raw.get().to_owned()), Some("null".into()));
        assert!(payload("{}").is_none());
    }
}
