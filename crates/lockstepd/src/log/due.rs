//! When a shard should take a snapshot: by the log written since the last one, by what the last one
//! cost, and by the space that another would give back.
//!
//! A snapshot writes all of a shard's metadata, so with a deep backlog it must be taken more rarely: as
//! long as there is room for the log, writing snapshots costs a fixed part of what writing the log costs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// While the disk is full, so much to give back is worth a snapshot.
const GARBAGE_WHEN_FULL: u64 = 1024 * 1024;
/// A log that a follower still needs grows to this before a snapshot cuts it off all the same.
const LOG_WHILE_SENDING: u64 = 2 * 1024 * 1024 * 1024;

/// What is counted for one shard.
pub(super) struct Due {
    /// Bytes of log for each byte of the last snapshot.
    log_per_snapshot: u64,
    /// Bytes of log applied since the last snapshot.
    log: AtomicU64,
    /// Bytes of the shard's own part of the last snapshot.
    snapshot: AtomicU64,
    /// What the last snapshot could not give back.
    kept: AtomicU64,
    sending: AtomicUsize,
}

impl Due {
    /// Counts from nothing. The log between two snapshots is `log_per_snapshot` times the last one.
    pub(super) fn new(log_per_snapshot: u64) -> Self {
        Self {
            log_per_snapshot,
            log: AtomicU64::new(0),
            snapshot: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            sending: AtomicUsize::new(0),
        }
    }

    pub(super) fn applied(&self, bytes: usize) {
        self.log.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of log applied since the last snapshot.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.load(Ordering::Relaxed)
    }

    /// A snapshot is being taken of everything so far.
    pub(super) fn frozen(&self) {
        self.log.store(0, Ordering::Relaxed);
    }

    /// It is durable, has `bytes`, and left so much `garbage`.
    pub(super) fn saved(&self, bytes: u64, garbage: u64) {
        self.snapshot.store(bytes, Ordering::Relaxed);
        self.kept.store(garbage, Ordering::Relaxed);
    }

    /// A snapshot is on its way to a follower until the guard goes: it needs the log from there on.
    pub(super) fn sending(self: &std::sync::Arc<Self>) -> Sending {
        self.sending.fetch_add(1, Ordering::Relaxed);
        Sending(std::sync::Arc::clone(self))
    }

    /// Whether a follower still needs the log behind the present snapshot.
    pub(super) fn holds_log(&self, disk_full: bool) -> bool {
        let bearable = self.log.load(Ordering::Relaxed) < LOG_WHILE_SENDING && !disk_full;
        self.sending.load(Ordering::Relaxed) > 0 && bearable
    }

    /// Whether a snapshot should be taken. `log_bytes` is the least log between two of them.
    pub(super) fn is(&self, log_bytes: u64, garbage: u64, pinned: bool, disk_full: bool) -> bool {
        if self.holds_log(disk_full) {
            return false;
        }
        let log = self.log.load(Ordering::Relaxed);
        let enough = log_bytes.max(self.log_per_snapshot * self.snapshot.load(Ordering::Relaxed));
        let worth = if disk_full { GARBAGE_WHEN_FULL.min(log_bytes) } else { log_bytes };
        let more = garbage.saturating_sub(self.kept.load(Ordering::Relaxed));
        log >= enough || more >= worth || (pinned && log > 0)
    }
}

/// See [`Due::sending`].
pub(super) struct Sending(std::sync::Arc<Due>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: u64 = 1_000;

    #[test]
    fn a_large_snapshot_is_taken_more_rarely() {
        let due = Due::new(4);
        due.applied(1_000);
        assert!(due.is(LOG, 0, false, false));
        due.frozen();
        due.saved(5_000, 0);
        due.applied(19_999);
        assert!(!due.is(LOG, 0, false, false));
        due.applied(1);
        assert!(due.is(LOG, 0, false, false));
    }

    #[test]
    fn space_to_give_back_is_a_reason_but_not_again_and_again() {
        let due = Due::new(4);
        assert!(due.is(LOG, 1_000, false, false));
        due.saved(0, 1_000);
        assert!(!due.is(LOG, 1_999, false, false));
        assert!(due.is(LOG, 2_000, false, false));
        let due = Due::new(4);
        assert!(!due.is(1 << 30, 2 << 20, false, false));
        assert!(due.is(1 << 30, 2 << 20, false, true), "a full disk cannot wait");
    }

    #[test]
    fn a_follower_that_is_being_sent_one_keeps_its_log() {
        let due = std::sync::Arc::new(Due::new(4));
        due.applied(1_000);
        let sending = due.sending();
        assert!(!due.is(LOG, 0, false, false));
        drop(sending);
        assert!(due.is(LOG, 0, false, false));
    }
}
