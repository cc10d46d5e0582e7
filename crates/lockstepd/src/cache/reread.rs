//! After a line has moved: asks its new home for the copy that this node had.
//!
//! In the background and a few at a time, so that the hit rate stays; a reader that is faster asks as
//! ever. It decides nothing about coherence: these are reads like any other, only that nobody waits.

use futures::future::join_all;
use lockstep_core::cache::copy::displaced::Displaced;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Cache, PAUSE_MAX, READ_TIMEOUT, ReadAnswer, State};

/// Reads that are under way at once. Their answers come in one message, whatever their values.
const AT_ONCE: usize = 32;

type Asked = (Displaced, oneshot::Receiver<ReadAnswer>);

impl Cache {
    /// Something may have been displaced.
    pub(super) fn reread_soon(&self, state: &mut State) {
        if state.copies.displaced() > 0 && !std::mem::replace(&mut state.rereading, true) {
            self.spawn(move |cache| async move { cache.reread().await });
        }
    }

    /// Until there is nothing left to ask for.
    async fn reread(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(asked) = self.ask_displaced() else { return };
            let has_asked = !asked.is_empty();
            let failed = wait_for(asked).await;
            let must_pause = !has_asked || !failed.is_empty();
            {
                let mut state = self.lock();
                failed.into_iter().for_each(|displaced| state.copies.still_displaced(displaced));
            }
            if must_pause {
                // The ring, or who serves under it, changes soon.
                let _ = timeout(PAUSE_MAX, changed).await;
            }
        }
    }

    /// `None`: nothing is left, and this task ends.
    fn ask_displaced(&self) -> Option<Vec<Asked>> {
        let now = self.now();
        let mut state = self.lock();
        let State { home, copies, parked, rereading, .. } = &mut *state;
        let keys = copies.take_displaced(AT_ONCE, |key| home.home_of(key), now);
        *rereading = !keys.is_empty() || copies.displaced() > 0;
        if !*rereading {
            return None;
        }
        let (mut asked, mut outputs) = (Vec::new(), Vec::new());
        for (displaced, home) in keys.into_iter().filter(|(_, home)| home.node != self.node) {
            let (tag, answer) = parked.reader();
            outputs.extend(copies.read(&displaced.key, home, tag, now));
            asked.push((displaced, answer));
        }
        self.carry_out_copies(&mut state, outputs);
        Some(asked)
    }
}

/// Returns what could not be read.
async fn wait_for(asked: Vec<Asked>) -> Vec<Displaced> {
    let answers = asked.into_iter().map(|(displaced, answer)| async move {
        let is_read = matches!(timeout(READ_TIMEOUT, answer).await, Ok(Ok(Ok(_))));
        (!is_read).then_some(displaced)
    });
    join_all(answers).await.into_iter().flatten().collect()
}
