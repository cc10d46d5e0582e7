//! Leases of a near cache, one for each home whose lines its node lends.
//!
//! A lease that goes on without a break is a stretch. Copies belong to a stretch, not to a lease: what
//! was kept before a break is never read again, because the node may have stopped to wait for us in
//! between. Counted from before the question was sent, a hundredth short, by a clock that counts
//! suspended time. It sends nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock;
use crate::wire;

/// An unbroken stretch of a lease: its end, in nanoseconds of our clock.
#[derive(Debug, Default)]
pub(super) struct Stretch(AtomicU64);

impl Stretch {
    pub(super) fn lasts(&self, now: u64) -> bool {
        now < self.0.load(Ordering::Acquire)
    }
}

/// The leases of one session.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<String, Arc<Stretch>>>);

impl Leases {
    /// A node granted a lease that was asked for at `sent`; the stretch to which it belongs.
    pub(super) fn extend(&self, lease: &wire::NearLease, sent: Duration) -> Arc<Stretch> {
        self.extend_at(lease, sent, nanos(clock::now()))
    }

    fn extend_at(&self, lease: &wire::NearLease, sent: Duration, now: u64) -> Arc<Stretch> {
        let until = nanos(sent + shortened(Duration::from_millis(lease.ms)));
        let mut leases = self.0.lock().expect("nothing panics while it holds this");
        let stretch = leases.entry(lease.of.clone()).or_default();
        if !stretch.lasts(now) {
            *stretch = Arc::default();
        }
        stretch.0.fetch_max(until, Ordering::AcqRel);
        Arc::clone(stretch)
    }
}

/// `span` as the side that must not be late counts it, with clocks up to one percent apart.
pub(super) fn shortened(span: Duration) -> Duration {
    span - (span / 100).max(Duration::from_nanos(1)).min(span)
}

/// As a stretch counts.
pub(super) fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ms: u64) -> wire::NearLease {
        wire::NearLease { of: "2.1".into(), ms }
    }

    #[test]
    fn a_stretch_goes_on_while_its_lease_is_renewed_in_time() {
        let leases = Leases::default();
        let at = |ms: u64| Duration::from_millis(ms);
        let first = leases.extend_at(&lease(100), at(1_000), nanos(at(1_010)));
        assert!(
            first.lasts(nanos(at(1_098))) && !first.lasts(nanos(at(1_099))),
            "a hundredth short, from the send"
        );
        let second = leases.extend_at(&lease(100), at(1_050), nanos(at(1_098)));
        assert!(Arc::ptr_eq(&first, &second) && first.lasts(nanos(at(1_148))));
        let other = wire::NearLease { of: "3.1".into(), ms: 100 };
        assert!(!Arc::ptr_eq(&first, &leases.extend_at(&other, at(1_050), nanos(at(1_060)))));
    }

    #[test]
    fn a_lease_that_lapsed_does_not_revive_what_was_kept_under_it() {
        let leases = Leases::default();
        let at = |ms: u64| Duration::from_millis(ms);
        let first = leases.extend_at(&lease(100), at(1_000), nanos(at(1_000)));
        // Asked in time, answered after the lapse.
        let second = leases.extend_at(&lease(100), at(1_090), nanos(at(1_099)));
        assert!(!first.lasts(nanos(at(1_100))) && second.lasts(nanos(at(1_100))));
    }
}
