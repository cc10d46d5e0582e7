//! What a stream of events waits for: something to say, a time to say that it lives, or the end.
//!
//! It knows nothing of what is said.

use std::time::Duration;

use tokio::sync::watch;

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

/// Waits for the bell, for at most `quiet`. Whoever looks for something to say marks the bell as seen
/// first, so that nothing rings in vain.
pub async fn turn(
    bell: &mut watch::Receiver<()>,
    stopping: &mut watch::Receiver<bool>,
    quiet: Duration,
) -> Turn {
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => Turn::Stopping,
        _ = bell.changed() => Turn::Rung,
        () = tokio::time::sleep(quiet) => Turn::Quiet,
    }
}
