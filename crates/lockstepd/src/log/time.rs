//! Log time: what has passed while somebody led, added up from the leaders' own clocks.
//!
//! No wall clock comes near it. Time that nobody led does not count.

use std::time::Duration;

use lockstep_core::{Epoch, Millis};

use crate::clock::Clock;

/// Log time as this leader counts it: the last stamp, plus what has passed on its own clock since.
pub(super) struct LogTime {
    clock: Clock,
    epoch: Epoch,
    last: Millis,
    at: Duration,
}

impl LogTime {
    pub(super) fn new(clock: Clock) -> Self {
        Self { at: clock.now(), clock, epoch: Epoch(0), last: Millis(0) }
    }

    /// Now, without writing it down. Time before this leader's reign does not count, and neither
    /// does more than `max_step` since the last stamp: the shard would not believe it.
    pub(super) fn now(&mut self, epoch: Epoch, applied: Millis, max_step: Millis) -> Millis {
        if epoch != self.epoch || self.last < applied {
            (self.epoch, self.last, self.at) = (epoch, applied, self.clock.now());
        }
        let passed = self.clock.now().saturating_sub(self.at).as_millis();
        self.last.plus(Millis(u64::try_from(passed).unwrap_or(u64::MAX)).min(max_step))
    }

    /// The last stamp came into no entry, and nobody could write since: log time goes on where the log ends,
    /// from when it is next asked for.
    pub(super) fn forget(&mut self) {
        self.epoch = Epoch(0);
    }

    /// Now, as the next entry says it. Fractions of a millisecond count towards the next stamp.
    pub(super) fn stamp(&mut self, epoch: Epoch, applied: Millis, max_step: Millis) -> Millis {
        let now = self.now(epoch, applied, max_step);
        let step = now.since(self.last);
        self.at = if step < max_step { self.at + Duration::from_millis(step.0) } else { self.clock.now() };
        self.last = now;
        now
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn log_time_keeps_fractions_and_skips_what_nobody_led() {
        let micros = Arc::new(AtomicU64::new(0));
        let clock = Clock::with({
            let micros = Arc::clone(&micros);
            move || Duration::from_micros(micros.load(Ordering::Relaxed))
        });
        let (epoch, max) = (Epoch(1), Millis(2_000));
        let mut time = LogTime::new(clock);
        let mut applied = time.stamp(epoch, Millis(500), max);
        for _ in 0..1_000 {
            micros.fetch_add(300, Ordering::Relaxed);
            applied = time.stamp(epoch, applied, max);
        }
        assert_eq!(applied, Millis(800), "1000 stamps 0.3 ms apart");
        micros.fetch_add(60_000_000, Ordering::Relaxed);
        applied = time.stamp(epoch, applied, max);
        assert_eq!(applied, Millis(2_800), "a minute without an entry counts as one step");
        micros.fetch_add(1_000, Ordering::Relaxed);
        assert_eq!(time.stamp(epoch, applied, max), Millis(2_801), "and what was skipped stays skipped");
        micros.fetch_add(9_000_000, Ordering::Relaxed);
        assert_eq!(
            time.stamp(Epoch(2), Millis(2_801), max),
            Millis(2_801),
            "a new reign begins where the log ends"
        );
    }

    #[test]
    fn what_was_refused_moves_log_time_no_further_however_often_it_was_tried() {
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = Clock::with({
            let seconds = Arc::clone(&seconds);
            move || Duration::from_secs(seconds.load(Ordering::Relaxed))
        });
        let (epoch, applied, max) = (Epoch(1), Millis(500), Millis(2_000));
        let mut time = LogTime::new(clock);
        time.stamp(epoch, applied, max);
        for _ in 0..60 {
            seconds.fetch_add(1, Ordering::Relaxed);
            time.stamp(epoch, applied, max);
            time.forget();
        }
        assert_eq!(time.now(epoch, applied, max), applied);
        seconds.fetch_add(1, Ordering::Relaxed);
        assert_eq!(time.stamp(epoch, applied, max), Millis(1_500), "and from then on it counts");
    }
}
