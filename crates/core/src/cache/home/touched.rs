//! Whether a line was read since it was last considered for eviction.
//!
//! It is set by readers that only look, so that a hit costs no more than that; it decides which line goes
//! first, and nothing about any value.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by a read, cleared by whoever looks for a line to evict.
#[derive(Default)]
pub(super) struct Touched(AtomicBool);

impl Touched {
    /// It was read.
    pub(super) fn set(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was read since this was last asked.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(self.0.get_mut())
    }
}

impl Clone for Touched {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Says nothing: models that differ in this alone are the same.
impl fmt::Debug for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}
