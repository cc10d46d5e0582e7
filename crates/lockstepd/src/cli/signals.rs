//! SIGTERM and SIGINT: the first asks to stop, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Both signals as one stream.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on the two signals do nothing but show up in [`Self::next`].
    pub(super) fn listen() -> Result<Self, Failure> {
        let fail = |error| Failure::new(format_args!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(fail)?,
            interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
        })
    }

    /// Waits for the next signal to stop, and says which.
    pub(super) async fn next(&mut self) -> rustix::process::Signal {
        tokio::select! {
            _ = self.terminate.recv() => rustix::process::Signal::TERM,
            _ = self.interrupt.recv() => rustix::process::Signal::INT,
        }
    }
}
