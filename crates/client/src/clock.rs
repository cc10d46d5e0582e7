//! The client's one clock: time since boot, suspend included.
//!
//! `std::time::Instant` stops while a machine is suspended, and a lease counted by it would outlive
//! itself. No wall clock: nothing here may jump.

use std::time::Duration;

/// Timers of the runtime stop in suspend, too: a sleeper looks at the clock at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time since an arbitrary, fixed instant.
#[cfg(target_os = "linux")]
pub(crate) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Time since an arbitrary, fixed instant.
#[cfg(not(target_os = "linux"))]
pub(crate) fn now() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Sleeps until [`now`] is `at`; after a suspend it wakes at most a second late.
pub(crate) async fn sleep_until(at: Duration) {
    loop {
        let left = at.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Whole milliseconds, as the wire counts.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
