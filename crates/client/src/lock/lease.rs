//! When a lease must be renewed, and when it may have ended: arithmetic only, no clock.
//!
//! The cluster counts a lease from when it grants it; the holder counts from when it *asked*, which
//! is earlier, and counts short, so its end comes first even if its clock is slower.

use std::time::Duration;

/// Two clocks may drift apart by one part in this many: 1%.
const DRIFT_PARTS: u32 = 100;

/// Whole milliseconds on the wire, and the cluster's stamps, round by no more than this.
const GRANULARITY: Duration = Duration::from_millis(10);

/// A lease as its holder may count on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    sent: Duration,
    ttl: Duration,
    stop_margin: Duration,
}

impl Lease {
    /// A lease of `ttl` that was asked for at `sent`, and is to be called lost `stop_margin` early.
    pub(super) fn new(sent: Duration, ttl: Duration, stop_margin: Duration) -> Self {
        Self { sent, ttl, stop_margin }
    }

    /// The same after a renewal that was sent at `sent`.
    pub(super) fn renewed(self, sent: Duration) -> Self {
        Self { sent, ..self }
    }

    /// When to renew: early enough for several tries.
    pub(super) fn renew_at(&self) -> Duration {
        self.sent + self.ttl / 3
    }

    /// When the lock counts as lost unless it was renewed.
    pub(super) fn lost_at(&self) -> Duration {
        self.ends_at().saturating_sub(self.stop_margin).max(self.sent)
    }

    /// The first instant at which the cluster may grant the lock to another.
    pub(super) fn ends_at(&self) -> Duration {
        (self.sent + self.ttl - self.ttl / DRIFT_PARTS).saturating_sub(GRANULARITY).max(self.sent)
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_holder_stops_before_the_cluster_grants_even_if_its_clock_is_one_percent_slow() {
        for ttl_ms in [50, 1_000, 30_000, 86_400_000] {
            let ttl = Duration::from_millis(ttl_ms);
            let lease = Lease::new(5 * S, ttl, Duration::ZERO);
            // What the slow clock calls `ends_at` happens later by the true one.
            let truly = (lease.ends_at() - 5 * S).mul_f64(1.0 / 0.99);
            assert!(truly < ttl, "{ttl_ms}: {truly:?}");
        }
    }

    #[test]
    fn it_renews_well_before_it_counts_itself_as_lost() {
        let lease = Lease::new(5 * S, 30 * S, 15 * S);
        assert_eq!(lease.renew_at(), 15 * S);
        assert_eq!(lease.lost_at(), lease.ends_at() - 15 * S);
        assert!(lease.lost_at() > lease.renew_at() + 4 * S);
        assert_eq!(lease.renewed(9 * S).lost_at(), lease.lost_at() + 4 * S);
    }

    #[test]
    fn a_lease_too_short_to_rely_on_is_lost_from_the_start() {
        let lease = Lease::new(5 * S, Duration::from_millis(3), Duration::from_millis(1));
        assert_eq!((lease.lost_at(), lease.ends_at()), (5 * S, 5 * S));
    }
}
