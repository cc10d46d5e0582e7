//! The one clock: time since boot, suspend included, or a simulated one.
//!
//! `std::time::Instant` stops while a machine is suspended; a lease counted by it would outlive
//! itself. Wall clocks appear only in [`unix_millis`], whose result is shown to people and decides nothing.

use std::sync::Arc;
use std::time::Duration;

/// A monotonic clock, cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// `CLOCK_BOOTTIME`.
    pub fn boot() -> Self {
        Self(Arc::new(|| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
        }))
    }

    /// Any other source of time: tests move it by hand.
    pub fn with(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Tokio's clock, which simulations and paused tests control.
    pub fn tokio() -> Self {
        let start = tokio::time::Instant::now();
        Self(Arc::new(move || start.elapsed()))
    }

    /// Time since an arbitrary, fixed instant.
    pub fn now(&self) -> Duration {
        (self.0)()
    }

    /// [`Self::now`] in whole milliseconds.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The wall clock, for people.
pub fn unix_millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
