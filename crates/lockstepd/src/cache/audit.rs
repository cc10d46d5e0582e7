//! The auditor: compares what may be read here with what its home says, a copy a second.
//!
//! A copy that could be read before and after the home was asked, unchanged, must be what the home
//! committed. A disagreement is a bug of the protocol or of a clock; the auditor mends nothing.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;

use super::stats::count;
use super::{Cache, Key, Route};

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Audits until the cache is dropped.
pub(super) async fn audit(cache: Weak<Cache>) {
    let mut last: Option<Key> = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(cache) = cache.upgrade() else { return };
        last = cache.audit_one(last).await;
    }
}

impl Cache {
    /// Compares one copy behind `last`; returns which.
    async fn audit_one(&self, last: Option<Key>) -> Option<Key> {
        let now = self.now();
        let (key, version, serial, route) = {
            let state = self.lock();
            let (key, version, serial) = state.copies.sample(last.as_deref(), now)?;
            let route = state.remote(&key, self.node);
            (key, version, serial, route)
        };
        let Route::Remote(home) = route else { return Some(key) };
        if let Ok(held) = self.read_past_copies(&key, home, Instant::now() + EVERY).await {
            let there = held.map(|held| held.version);
            let now = self.now();
            if self.lock().copies.is_still(&key, serial, now) {
                count(&self.counts.audited);
                if there != Some(version) {
                    count(&self.counts.disagreements);
                    tracing::error!(
                        key = &*key,
                        here = %version,
                        there = there.map(|version| version.to_string()),
                        home = home.node.0,
                        "a copy that may be read here is not what its home committed"
                    );
                }
            }
        }
        Some(key)
    }
}
