//! What the cache of this node has done so far, as names and numbers.
//!
//! Nothing is decided by it; counting costs one relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_core::cache::home::STALL_BOUNDS_MS;

use super::Cache;
use crate::metrics::Kept;

/// Reads by where they were answered.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) local_hits: AtomicU64,
    pub(super) home_reads: AtomicU64,
    pub(super) misses: AtomicU64,
    /// Copies compared with their home, and those that were not the same.
    pub(super) audited: AtomicU64,
    pub(super) disagreements: AtomicU64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the cache of a node has done, and what it holds.
#[derive(Clone, Debug)]
pub struct Figures {
    /// By name.
    pub plain: Vec<(&'static str, u64)>,
    /// How long writes took at this home: an upper bound in milliseconds (`None`: longer), and how
    /// many took at most that and more than the bound before.
    pub stalls: Vec<(Option<u64>, u64)>,
}

impl Cache {
    /// How long writes took at this home, in seconds.
    pub fn stalls(&self) -> Kept {
        let state = self.lock();
        let stats = state.home.stats();
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a process stay far below 2^53")]
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let bounds = STALL_BOUNDS_MS.iter().map(|ms| seconds(*ms)).chain([f64::INFINITY]);
        Kept { sum: seconds(stats.stalls_ms), buckets: bounds.zip(stats.stalls).collect() }
    }

    /// Everything that is counted.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let (home, copies) = (state.home.stats(), state.copies.stats());
        let (near, (near_clients, near_keys)) = (state.near.machine.stats(), state.near.machine.sizes());
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let plain = vec![
            ("local_hits", read(&self.counts.local_hits)),
            ("home_reads", read(&self.counts.home_reads)),
            ("misses", read(&self.counts.misses)),
            ("audited_copies", read(&self.counts.audited)),
            ("disagreements", read(&self.counts.disagreements)),
            ("lines", state.home.len() as u64),
            ("line_bytes", state.home.bytes() as u64),
            ("copies", state.copies.len() as u64),
            ("copy_bytes", state.copies.bytes() as u64),
            ("writes", home.writes),
            ("owned_writes", copies.owned_writes),
            ("changes_with_sharers", home.changes_with_sharers),
            ("invalidations", home.invalidations),
            ("recalls", home.recalls),
            ("lost_lines", home.lost),
            ("lease_expiries", home.lease_expiries),
            ("lapsed_leases", copies.lapsed_leases),
            ("forgotten_copies", copies.forgotten),
            ("displaced_copies", copies.displaced),
            ("displaced_waiting", state.rereads.left(&state.copies) as u64),
            ("refused_fills", copies.refused_fills),
            ("line_evictions", home.evictions),
            ("copy_evictions", copies.evictions),
            ("fill_rights", home.fills),
            ("flushes", home.flushes),
            ("lines_moved_in", home.moved_in),
            ("lines_moved_out", home.moved_out),
            ("write_stall_ms_sum", home.stalls_ms),
            ("near_clients", near_clients as u64),
            ("near_keys", near_keys as u64),
            ("watchers", state.watching.watchers() as u64),
            ("near_invalidations", near.invalidations),
            ("near_lease_expiries", near.lease_expiries),
            ("near_resets", near.resets),
        ];
        let bounds = STALL_BOUNDS_MS.iter().copied().map(Some).chain([None]);
        Figures { plain, stalls: bounds.zip(home.stalls).collect() }
    }
}
