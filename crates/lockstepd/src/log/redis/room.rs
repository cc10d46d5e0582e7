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

/// Memory is short from this part of what makes it full on, of a hundred. From there snapshots are taken
/// earlier, so that little log waits to be written as chunks when it is full.
const SHORT: u64 = 75;
/// While memory is short a log is at most this part of it: half of what a whole snapshot may need by default.
const PARTS_WHEN_SHORT: u64 = 16;
/// Snapshots leave the last parts, of a hundred, to entries: acknowledgements above all.
const PIECES_PERCENT_MAX: u64 = 95;

/// Whether Redis has said that it has no memory for a command.
pub(super) fn is_out_of_memory(why: &str) -> bool {
    why.contains("OOM")
}

/// From how many percent on no piece of a snapshot is taken.
pub(super) fn pieces_percent_max() -> u64 {
    PIECES_PERCENT_MAX
}

/// What is known of the memory behind one shard's log.
pub(super) struct Room {
    full: AtomicBool,
    short: AtomicBool,
    /// Bytes that may be used; 0 without a limit.
    most: AtomicU64,
    percent_max: u64,
}

impl Room {
    /// With room, as far as is known; it is full at `percent_max` of a hundred.
    pub(super) fn new(percent_max: u64) -> Arc<Self> {
        Arc::new(Self {
            full: AtomicBool::default(),
            short: AtomicBool::default(),
            most: AtomicU64::new(0),
            percent_max,
        })
    }

    /// Whether nothing large may be added.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether it may soon be full, or is.
    pub(super) fn is_short(&self) -> bool {
        self.is_full() || self.short.load(Ordering::Relaxed)
    }

    /// So much log calls for a snapshot, whatever the last one has cost; `None` while there is memory enough.
    pub(super) fn most_log(&self) -> Option<u64> {
        let most = self.most.load(Ordering::Relaxed);
        let parts = if self.is_full() { PARTS } else { PARTS_WHEN_SHORT };
        self.is_short().then(|| (most / parts).max(64 * 1024))
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
        let reaches = |percent: u64| most > 0 && used.saturating_mul(100) >= most.saturating_mul(percent);
        self.set_full(reaches(percent));
        self.short.store(reaches((self.percent_max * SHORT / 100).max(1)), Ordering::Relaxed);
        Ok(Instant::now())
    }
}
