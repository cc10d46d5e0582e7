//! The arithmetic of leases between two clocks that may drift apart.
//!
//! The holder counts from before it asked and counts short; the granter counts from when it granted
//! and counts long. So the holder's end always comes first in real time. It reads no clock itself.
//! Source of the idea: Gray and Cheriton, "Leases" (1989).

use crate::stamp::Millis;

/// How long a home lets a node read its copies without hearing from it again.
pub const LEASE: Millis = Millis(2_000);

/// One part in this many is the most by which two clocks may drift apart: 1%.
pub const DRIFT_PARTS: u64 = 100;

/// What a home waits on top, for clock granularity and scheduling.
pub const MARGIN: Millis = Millis(50);

/// An invalidation unanswered for this long is overdue: its node gets no further lease, so that a
/// node which can send but not receive cannot stall writes for ever.
pub const OVERDUE: Millis = Millis(200);

/// A lease shorter than this is not worth granting.
pub const SHORTEST: Millis = Millis(100);

/// `span` as the side that must not be late counts it.
#[must_use]
pub const fn shortened(span: Millis) -> Millis {
    Millis(span.0 - span.0.div_ceil(DRIFT_PARTS))
}

/// When a holder that asked at `sent` must stop to rely on a lease of `span`.
#[must_use]
pub const fn held_until(sent: Millis, span: Millis) -> Millis {
    sent.plus(shortened(span))
}

/// When a home that granted a lease of `span` at `granted` may be sure that it has ended.
#[must_use]
pub const fn owed_until(granted: Millis, span: Millis) -> Millis {
    granted.plus(Millis(span.0.saturating_add(span.0.div_ceil(DRIFT_PARTS)))).plus(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_stops_before_the_home_is_sure_even_when_clocks_drift_by_one_percent() {
        let slow_holder = held_until(Millis(0), LEASE).0 * DRIFT_PARTS / (DRIFT_PARTS - 1);
        let fast_home = owed_until(Millis(0), LEASE).0 * DRIFT_PARTS / (DRIFT_PARTS + 1);
        assert!(slow_holder <= fast_home, "{slow_holder} {fast_home}");
    }
}
