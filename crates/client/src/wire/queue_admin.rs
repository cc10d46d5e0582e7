//! Queues as operators see them, on the wire.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::queues::default_queue;

/// What happens behind a message that is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPoison {
    /// Its key goes on with the next.
    Skip,
    /// Its key stops until the message is redriven, or the key resumed.
    ParkKey,
    /// The shard's part of the queue stops until the message is redriven, or the queue resumed.
    Block,
}

/// `POST /queue/configure`. What is absent stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// A message that has failed so often is dead-lettered; 0: never. 5 unless configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Where to; `<queue>.dead` unless configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// How long a delivery lasts where the consumer says nothing; 30000 unless configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility_ms: Option<u64>,
    /// Messages that the queue may hold, in whatever state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// Bytes of their payloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// What happens behind a message that is dead-lettered; `skip` unless configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_poison: Option<OnPoison>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The whole configuration of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The queue.
    pub queue: String,
    /// See [`Configure::max_attempts`].
    pub max_attempts: u32,
    /// See [`Configure::dead_letter`].
    pub dead_letter: String,
    /// See [`Configure::visibility_ms`].
    pub visibility_ms: u64,
    /// Absent where the cluster's limit holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// Absent where the cluster's limit holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// See [`Configure::on_poison`].
    pub on_poison: OnPoison,
}

/// The query of `GET /queue/stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStats {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
}

/// The reply to [`GetStats`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The queue.
    pub queue: String,
    /// Neither in flight nor delayed. Some may wait behind an earlier message of their key.
    pub ready: u64,
    /// Delivered and not yet acknowledged.
    pub in_flight: u64,
    /// Waiting for their delay to end.
    pub delayed: u64,
    /// Messages of this queue that lie in its dead-letter queue.
    pub dead: u64,
    /// Keys that stand still behind a dead letter.
    pub parked_keys: u64,
    /// Whether a shard's part of the queue stands still behind a dead letter.
    pub blocked: bool,
    /// Payload bytes of all that is ready, in flight or delayed.
    pub bytes: u64,
    /// How long the oldest message that could be delivered has waited, in milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// How fast messages came and went of late.
    #[serde(default)]
    pub rates: Rates,
    /// What has become of messages since the queue is known.
    pub totals: Totals,
    /// How the queue behaves.
    pub config: Configuration,
}

/// Messages per second over the last ten seconds, or since the queue or the leader of its shard is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Accepted.
    pub pushed_per_second: f64,
    /// Delivered, repeats included.
    pub delivered_per_second: f64,
    /// Acknowledged or popped.
    pub acked_per_second: f64,
}

/// What has become of messages since the queue is known. A queue that was empty for ten minutes and is
/// not configured is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Accepted, repeats not counted.
    pub pushed: u64,
    /// How often any was delivered, repeats included.
    #[serde(default)]
    pub deliveries: u64,
    /// Acknowledged or popped.
    pub delivered: u64,
    /// Dropped at the end of their time to live.
    pub expired: u64,
    /// Dropped by a purge.
    pub purged: u64,
    /// Left for the dead-letter queue.
    pub dead_lettered: u64,
    /// Came back from it.
    pub redriven: u64,
    /// Came in as dead letters of other queues.
    pub dead_in: u64,
    /// Went back to the queues that they came from.
    pub dead_out: u64,
}

/// The query of `GET /queue/list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQueues {
    /// The last name of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(default = "default_page")]
    pub limit: u32,
}

/// The reply to `GET /queue/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Queues that are known, in order.
    pub queues: Vec<String>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `GET /queue/peek`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peek {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// At most so many, at most 1000.
    #[serde(default = "default_peek")]
    pub max: u32,
}

/// The reply to [`Peek`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peeked {
    /// What waits, as far as is known in the order in which it would be delivered.
    pub messages: Vec<Waiting>,
}

/// A message that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// Unique in the cluster.
    pub id: String,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// As it was pushed.
    pub payload: Box<RawValue>,
    /// How often it has been delivered.
    pub attempts: u32,
    /// How often it has failed.
    pub failures: u32,
    /// As it was pushed.
    pub priority: u8,
    /// When it was pushed: unix milliseconds by the pushing node's clock, for people.
    pub enqueued_at_ms: u64,
}

/// `POST /queue/purge`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// The queue; there is no default, for it cannot be undone.
    pub queue: String,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Purge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Messages that were dropped.
    pub purged: u64,
}

/// `POST /queue/redrive`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    /// The queue that the dead letters came from.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// At most so many; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Redrive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Messages that are back in their queue.
    pub redriven: u64,
    /// Dead letters of the queue that are left where they are.
    pub dead: u64,
}

/// `POST /queue/resume`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// One parked key; if absent all of them, and the queue itself where it is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Makes a retry harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The reply to [`Resume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Keys that were parked and go on.
    pub keys: u64,
}

const fn default_page() -> u32 {
    1_000
}

const fn default_peek() -> u32 {
    10
}
