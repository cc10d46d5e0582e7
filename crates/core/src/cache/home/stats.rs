//! What has happened at a home, counted since the process began.
//!
//! Nothing is decided by it.

use crate::stamp::Millis;

/// Upper ends of the classes of write stalls; a last class has none.
pub const STALL_BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 1_000, 2_500];

/// Counters of a home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Committed writes.
    pub writes: u64,
    /// Changes that had to wait for somebody to forget; with `invalidations`: their fan-out.
    pub changes_with_sharers: u64,
    /// Orders to forget, repeats not counted.
    pub invalidations: u64,
    /// Of these, orders to owners.
    pub recalls: u64,
    /// Owned lines whose owner fell silent: misses since.
    pub lost: u64,
    /// Orders that ended with the sharer's lease instead of its answer.
    pub lease_expiries: u64,
    /// Lines dropped to make room.
    pub evictions: u64,
    /// Rights to fill that were handed out.
    pub fills: u64,
    /// Namespaces emptied.
    pub flushes: u64,
    /// Lines that went to another home.
    pub moved_out: u64,
    /// Lines that came from another home.
    pub moved_in: u64,
    /// How long committed writes took here, by the classes of [`STALL_BOUNDS_MS`].
    pub stalls: [u64; STALL_BOUNDS_MS.len() + 1],
    /// All stalls together, in milliseconds.
    pub stalls_ms: u64,
}

impl Stats {
    pub(super) fn stalled(&mut self, span: Millis) {
        let class = STALL_BOUNDS_MS.iter().position(|bound| span.0 <= *bound);
        self.stalls[class.unwrap_or(STALL_BOUNDS_MS.len())] += 1;
        self.stalls_ms += span.0;
    }
}
