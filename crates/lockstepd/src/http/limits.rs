//! How much one request may ask for. Every limit has a name, a default, and an error that names it.

use std::time::Duration;

/// What a request may ask for at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The payload of one message, or one cache value, in bytes.
    pub payload_bytes_max: usize,
    /// A whole request body, in bytes: room for a batch, whatever its payloads.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// How long a request waits for its outcome, waiting that it asked for not counted.
    pub request_time: Duration,
    /// How long a flush waits for every home.
    pub flush_time: Duration,
    /// Requests to the cache in hand at once; above it: 503 `overloaded`, at once.
    pub requests_max: usize,
}

impl Limits {
    /// The defaults, around a largest payload.
    pub fn around(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            body_bytes_max: payload_bytes_max * 8 + NAME_BYTES_MAX * 16,
            body_time: Duration::from_secs(30),
            request_time: Duration::from_secs(10),
            flush_time: Duration::from_secs(20),
            requests_max: 4_096,
        }
    }
}

/// Names, owners, queues and keys, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// A `request_id`, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Fencing tokens: JSON numbers are exact up to here.
pub const TOKEN_MAX: u64 = (1 << 53) - 1;
/// Locks that one request may take together.
pub const LOCK_NAMES_MAX: usize = lockstep_core::locks::NAMES_MAX;
/// Permits of one lock.
pub const PERMITS_MAX: u32 = 100_000;
/// What a holder may attach to a lock, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Why a lock was broken, in bytes.
pub const REASON_BYTES_MAX: usize = 1_024;
/// The longest lease and the longest visibility time-out: a day.
pub const TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// The longest wait for a lock or a message.
pub const WAIT_MS_MAX: u64 = 60_000;
/// The longest delay of a message: 30 days.
pub const DELAY_MS_MAX: u64 = 30 * TTL_MS_MAX;
/// Messages or receipts in one request.
pub const BATCH_MAX: usize = 1_000;
/// Failures after which a message may be dead-lettered.
pub const ATTEMPTS_MAX: u32 = 10_000;
/// Locks or queues on one page.
pub const PAGE_MAX: u32 = 1_000;
/// The longest right to fill a missing cache value in.
pub const LOAD_LEASE_MS_MAX: u64 = 60_000;
/// The largest byte budget: what JSON numbers hold exactly.
pub const BYTES_MAX: u64 = 1 << 53;
