//! Work that waits for a disk, off the thread that serves everybody.
//!
//! A simulation has no threads: its disk answers at once.

use std::io;

/// Runs `work` beside the caller's thread, or at once where the disk is `memory`.
pub async fn run<T: Send + 'static>(
    memory: bool,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if memory {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
