//! After a line has moved: asks its new home for the copy that this node had.
//!
//! In the background and a few at a time, so that the hit rate stays; a reader that is faster asks as
//! ever. It decides nothing about coherence: these are reads like any other, only that nobody waits.

use futures::future::join_all;
use lockstep_core::cache::copy::Copies;
use lockstep_core::cache::copy::displaced::Displaced;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Cache, PAUSE_MAX, READ_TIMEOUT, ReadAnswer, State};

/// Reads that are under way at once. Their answers come in one message, whatever their values.
const AT_ONCE: usize = 32;

type Asked = (Displaced, oneshot::Receiver<ReadAnswer>);

/// Whether somebody asks for what moves have displaced.
#[derive(Debug, Default)]
pub(super) struct Rereads {
    is_busy: bool,
    under_way: usize,
}

impl Rereads {
    /// How many copies are not here again.
    pub(super) fn left(&self, copies: &Copies) -> usize {
        copies.displaced() + self.under_way
    }
}

impl Cache {
    /// Something may have been displaced.
    pub(super) fn reread_soon(&self, state: &mut State) {
        if state.copies.displaced() > 0 && !std::mem::replace(&mut state.rereads.is_busy, true) {
            self.spawn(move |cache| async move { cache.reread().await });
        }
    }

    /// Until there is nothing left to ask for.
    async fn reread(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(asked) = self.ask_displaced() else { return };
            let count = asked.len();
            let failed = wait_for(asked).await;
            let is_fruitless = failed.len() == count;
            let must_pause = {
                let mut state = self.lock();
                state.rereads.under_way = 0;
                failed.into_iter().for_each(|displaced| state.copies.still_displaced(displaced));
                is_fruitless && (count > 0 || state.copies.displaced_ready() == 0)
            };
            if must_pause {
                // The ring, or who serves under it, changes soon.
                let _ = timeout(PAUSE_MAX, changed).await;
            }
        }
    }

    /// `None`: nothing is left, or this node leaves, and this task ends.
    fn ask_displaced(&self) -> Option<Vec<Asked>> {
        let now = self.now();
        let mut state = self.lock();
        let State { home, copies, parked, rereads, .. } = &mut *state;
        let tenure = home.tenure();
        let of = |key: &str| tenure.home_of(key);
        let keys = copies.take_displaced(AT_ONCE, tenure.ring_epoch(), self.node, of, now);
        rereads.under_way = keys.len();
        if rereads.left(copies) == 0 || tenure.has_retired() {
            *rereads = Rereads::default();
            return None;
        }
        let (mut asked, mut outputs) = (Vec::new(), Vec::new());
        for (displaced, home) in keys {
            let (tag, answer) = parked.reader();
            outputs.extend(copies.reread(&displaced, home, tag, now));
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
