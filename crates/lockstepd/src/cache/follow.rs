//! Following what other members change, and telling those who follow this one.
//!
//! A question is parked until there is something to tell. What may have been missed is decided by the
//! pure machine; nothing here holds up a write.

use std::sync::Weak;
use std::time::Duration;

use lockstep_core::cache::feed::{Change, News};
use lockstep_core::cache::message::{self, Answer, Refusal, Request};
use lockstep_core::cache::watch::{Ask, FOLLOW_TIMEOUT, FOLLOW_WAIT, Follow, Heard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Cache, RETRY, State};
use crate::peer::Lane;

/// A member that has said everything is asked again after so long: what it changes meanwhile comes
/// together.
const PACE: Duration = Duration::from_millis(2);

/// Rings where followers and watchers of this node wait.
#[derive(Debug, Default)]
pub(super) struct Bells {
    /// This node has changed something.
    pub(super) fed: watch::Sender<()>,
    /// There is something in the common feed.
    pub(super) told: watch::Sender<()>,
}

impl Cache {
    /// This node has changed something.
    pub(super) fn tell(&self, state: &mut State, news: News) {
        state.watching.own(&news);
        state.feed.push(news);
        ring(&self.bells.fed);
        ring(&self.bells.told);
    }

    /// This node has lost what it cannot name.
    pub(super) fn tell_gap(&self, state: &mut State) {
        state.watching.lost_own(self.now());
        state.feed.forget();
        ring(&self.bells.fed);
        ring(&self.bells.told);
    }

    /// This node has written a line that it owns.
    pub(super) fn tell_owned(&self, state: &mut State, write: &message::Write, answer: &Answer) {
        let (Answer::Written(Some(version)) | Answer::Counted { version, .. }) = *answer else { return };
        let how = match write.change {
            message::Change::Delete => Change::Deleted,
            message::Change::Set(_) | message::Change::Add(_) => Change::Set,
        };
        self.tell(state, News::Changed { key: write.key.clone(), version, how });
    }

    /// What this node has changed, for a member that follows it.
    pub(super) async fn followed(&self, ask: Ask) -> Answer {
        let deadline = Instant::now() + Duration::from_millis(FOLLOW_WAIT.0);
        let mut bell = self.bells.fed.subscribe();
        loop {
            bell.borrow_and_update();
            let heard = {
                let state = self.lock();
                let Some(process) = state.copies.process() else { return Answer::Refused(Refusal::NotHome) };
                Heard::new(process, state.home.tenure().ring_epoch(), &state.feed, ask)
            };
            if heard.is_urgent() || timeout_at(deadline, bell.changed()).await.is_err() {
                return Answer::Followed(heard);
            }
        }
    }

    /// Follows these members from now on.
    pub(super) fn follow_all(&self, members: Vec<Follow>) {
        for of in members {
            tokio::spawn(follow(self.me.clone(), of));
        }
    }

    /// The view of the ring has changed.
    pub(super) fn follow_ring(&self, state: &mut State) {
        let now = self.now();
        let State { home, watching, .. } = state;
        let before = watching.last();
        let new = watching.set_members(home.tenure().ring_epoch(), home.tenure().origins(), now);
        self.ring_if_told(state, before);
        self.follow_all(new);
    }

    /// Time has passed.
    pub(super) fn tick_watching(&self, state: &mut State) {
        let now = self.now();
        let before = state.watching.last();
        state.watching.tick(state.home.tenure().is_open(now), now);
        self.ring_if_told(state, before);
    }

    fn ring_if_told(&self, state: &State, before: u64) {
        if state.watching.last() != before {
            ring(&self.bells.told);
        }
    }

    /// Asks a member once; returns the pause before the next question, `None` if there is to be none.
    async fn follow_once(&self, of: Follow) -> Option<Duration> {
        let (ask, sent) = (self.lock().watching.ask(of)?, self.now());
        let timeout = Duration::from_millis(FOLLOW_TIMEOUT.0);
        let answer = self.call_on(Lane::Request, of.member.node, &Request::Follow(ask), timeout).await;
        let Ok(Answer::Followed(heard)) = answer else { return Some(RETRY) };
        let now = self.now();
        let mut state = self.lock();
        let before = (state.watching.last(), state.watching.is_in_step());
        let has_more = state.watching.heard(of, heard, sent, now);
        if before != (state.watching.last(), state.watching.is_in_step()) {
            ring(&self.bells.told);
        }
        Some(if has_more { Duration::ZERO } else { PACE })
    }
}

/// Follows one member until nobody needs it any more.
async fn follow(cache: Weak<Cache>, of: Follow) {
    loop {
        let Some(alive) = cache.upgrade() else { return };
        let Some(pause) = alive.follow_once(of).await else { return };
        drop(alive);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Most of the time nobody listens.
fn ring(bell: &watch::Sender<()>) {
    if bell.receiver_count() > 0 {
        bell.send_replace(());
    }
}
