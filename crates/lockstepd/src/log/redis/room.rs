//! Whether the Redis that holds a shard's log has memory left for what is large.
//!
//! The script of an append decides, so that many writers cannot fill it between two looks; this
//! remembers the answer, so that nobody asks in vain. It refuses nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::Value;
use tokio::time::{Duration, Instant};

use super::check::About;
use super::link::{Failed, Link};

/// How often a leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Several logs, their snapshots and the bodies of all messages share the memory.
const PARTS: u64 = 64;

/// What is known of the memory behind one shard's log.
pub(super) struct Room {
    full: AtomicBool,
    /// Bytes that may be used; 0 without a limit.
    most: AtomicU64,
    percent_max: u64,
}

impl Room {
    /// With room, as far as is known; it is full at `percent_max` of a hundred.
    pub(super) fn new(percent_max: u64) -> Arc<Self> {
        Arc::new(Self { full: AtomicBool::new(false), most: AtomicU64::new(0), percent_max })
    }

    /// Whether nothing large may be added.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// From how many percent on it is full.
    pub(super) fn percent_max(&self) -> u64 {
        self.percent_max
    }

    /// The most that a log should grow before a snapshot, `wanted` at most: a small memory must not be
    /// taken up by what a snapshot would give back.
    pub(super) fn log_bytes(&self, wanted: u64) -> u64 {
        match self.most.load(Ordering::Relaxed) {
            0 => wanted,
            most => wanted.min((most / PARTS).max(64 * 1024)),
        }
    }

    /// What was found.
    pub(super) fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!("the memory of Redis is nearly full: pushes are refused until there is room");
            } else {
                tracing::warn!("the memory of Redis has room again");
            }
        }
    }

    /// Asks Redis, unless it was asked a moment ago. Says when it was asked last.
    pub(super) async fn look(&self, link: &mut Link, last: Option<Instant>) -> Result<Instant, Failed> {
        if let Some(last) = last.filter(|last| last.elapsed() < LOOK_EVERY) {
            return Ok(last);
        }
        let text = match link.ask(redis::cmd("INFO").arg("memory")).await? {
            Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
            Value::VerbatimString { text, .. } => text,
            _ => String::new(),
        };
        let (used, most) = About::parse(&text).memory;
        self.most.store(most, Ordering::Relaxed);
        // A little room must be there before it counts: at the edge it would come and go all the time.
        let percent = (self.percent_max - u64::from(self.is_full())).max(1);
        self.set_full(most > 0 && used.saturating_mul(100) >= most.saturating_mul(percent));
        Ok(Instant::now())
    }
}
