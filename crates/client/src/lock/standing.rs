//! Whether something is still held, as everybody who holds a view of it sees it: until it is lost
//! for good, be it because the cluster said so, or by this process's clock alone.
//!
//! It asks nobody; whoever renews tells it.

use std::time::Duration;

use tokio::sync::watch;

use super::lease::Lease;
use crate::clock;

/// Why a lock or a session is not held any more. Stop the work that relies on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It could not be renewed in time: by this process's clock its lease may have ended.
    #[error("the lock is lost: it could not be renewed in time")]
    Expired,
    /// The cluster says that it is not held: `not_held`, `stale_token`, `not_holder`,
    /// `session_expired`.
    #[error("the lock is lost: {0}")]
    Refused(String),
    /// It was released.
    #[error("the lock was released")]
    Released,
}

/// Held under a lease, or lost.
#[derive(Debug)]
pub(super) struct Standing(watch::Sender<State>);

/// Held under a lease, or lost, and under which lease it was held last.
#[derive(Clone, Debug)]
pub(super) enum State {
    Held(Lease),
    Lost(Lost, Lease),
}

impl Standing {
    pub(super) fn new(lease: Lease) -> Self {
        Self(watch::Sender::new(State::Held(lease)))
    }

    /// Why it is lost; nothing while it is held.
    pub(super) fn is_lost(&self) -> Option<Lost> {
        if self.lease().lost_at() <= clock::now() {
            // Nobody may be told "held" after somebody was told "lost".
            self.lose(Lost::Expired);
        }
        match &*self.0.borrow() {
            State::Held(_) => None,
            State::Lost(lost, _) => Some(lost.clone()),
        }
    }

    /// Completes when it is lost.
    pub(super) async fn lost(&self) -> Lost {
        let mut state = self.0.subscribe();
        loop {
            let lease = match &*state.borrow_and_update() {
                State::Lost(lost, _) => return lost.clone(),
                State::Held(lease) => *lease,
            };
            tokio::select! {
                // The sender lives in `self`.
                _ = state.changed() => {}
                () = clock::sleep_until(lease.lost_at()) => drop(self.is_lost()),
            }
        }
    }

    /// The last lease.
    pub(super) fn lease(&self) -> Lease {
        let (State::Held(lease) | State::Lost(_, lease)) = &*self.0.borrow();
        *lease
    }

    /// What is certainly left of the last lease.
    pub(super) fn lease_left(&self) -> Duration {
        self.lease().ends_at().saturating_sub(clock::now())
    }

    /// Every change from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Goes on under a renewed lease, unless the former one was called lost meanwhile.
    pub(super) fn renew(&self, lease: Lease) -> bool {
        self.is_lost().is_none()
            && self.0.send_if_modified(|state| match state {
                State::Held(of) => {
                    *of = lease;
                    true
                }
                State::Lost(..) => false,
            })
    }

    /// Lost from now on; the first reason stands.
    pub(super) fn lose(&self, why: Lost) {
        self.0.send_if_modified(|state| match state {
            State::Held(lease) => {
                *state = State::Lost(why, *lease);
                true
            }
            State::Lost(..) => false,
        });
    }
}
