//! What a stream of events waits for: something to say, a time to say that it lives, or the end.
//!
//! It knows nothing of what is said.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Why a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be something to say.
    Rung,
    /// Nothing was said for too long.
    Quiet,
    /// The node is stopping: nothing is said any more.
    Stopping,
}

/// Waits for the bell, until `quiet_at` at the latest, however often it rings. Whoever looks for something
/// to say marks the bell as seen first, so that nothing rings in vain.
pub async fn turn(
    bell: &mut watch::Receiver<()>,
    stopping: &mut watch::Receiver<bool>,
    quiet_at: Instant,
) -> Turn {
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => Turn::Stopping,
        () = sleep_until(quiet_at) => Turn::Quiet,
        _ = bell.changed() => Turn::Rung,
    }
}
