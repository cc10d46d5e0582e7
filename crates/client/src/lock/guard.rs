//! A lock while it is held: what its holder sees.
//!
//! It does not talk to the cluster; the keeper beside it does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::keeper;
use super::lease::Lease;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::wire::{Acquired, Mode};

/// Why a lock is not held any more. Stop the work that relies on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It could not be renewed in time: by this process's clock its lease may have ended.
    #[error("the lock is lost: it could not be renewed in time")]
    Expired,
    /// The cluster says that it is not held under this token: `not_held`, `stale_token`, `not_holder`.
    #[error("the lock is lost: {0}")]
    Refused(String),
    /// It was released.
    #[error("the lock was released")]
    Released,
}

/// A lock that is held, and released when this is dropped.
///
/// It is renewed in the background at a third of its lease. Everything else it can do stands at
/// [`Hold`], to which it derefs.
#[must_use = "a guard that is dropped releases its lock"]
pub struct LockGuard {
    hold: Hold,
    stop: Option<oneshot::Sender<keeper::Release>>,
}

/// A view of a held lock, cheap to clone and to pass to the tasks that work under it. It keeps the
/// lock from nothing: when the [`LockGuard`] goes, every view of it says `Released`.
#[derive(Clone)]
pub struct Hold(Arc<Inner>);

struct Inner {
    acquired: Acquired,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug)]
enum State {
    Held(Lease),
    Lost(Lost, Lease),
}

impl LockGuard {
    pub(super) fn new(client: Client, acquired: Acquired, lease: Lease) -> Self {
        let hold = Hold(Arc::new(Inner { acquired, state: watch::Sender::new(State::Held(lease)) }));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(keeper::keep(client, hold.clone(), lease, stopped));
        Self { hold, stop: Some(stop) }
    }

    /// Gives the lock back, and waits until the cluster has it. Errors: [`Error::Lost`] if it was
    /// lost before; otherwise the release may or may not have arrived, and the lease ends it.
    pub async fn release(mut self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(answer);
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Error::OutcomeUnknown { why: "the runtime is stopping".into() }))
    }
}

impl std::ops::Deref for LockGuard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.hold
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // The keeper sees that its order never came, and releases.
        drop(self.stop.take());
        self.hold.lose(Lost::Released);
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hold.fmt(f)
    }
}

impl Hold {
    /// The fencing token, larger than that of every earlier grant. Errors: the lock is lost, as far
    /// as this process knows or by its own clock; once lost it stays lost.
    pub fn token(&self) -> Result<u64, Lost> {
        match self.is_lost() {
            None => Ok(self.0.acquired.token),
            Some(lost) => Err(lost),
        }
    }

    /// Why the lock is lost; nothing while it is held.
    pub fn is_lost(&self) -> Option<Lost> {
        if self.lost_at() <= clock::now() {
            // Nobody may be told "held" after somebody was told "lost".
            self.lose(Lost::Expired);
        }
        match &*self.0.state.borrow() {
            State::Held(_) => None,
            State::Lost(lost, _) => Some(lost.clone()),
        }
    }

    /// Completes when the lock is lost or released. Work under a lock belongs into a `select!` with
    /// this.
    pub async fn lost(&self) -> Lost {
        let mut state = self.0.state.subscribe();
        loop {
            let lease = match &*state.borrow_and_update() {
                State::Lost(lost, _) => return lost.clone(),
                State::Held(lease) => *lease,
            };
            tokio::select! {
                // The sender lives in `self`.
                _ = state.changed() => {}
                () = clock::sleep_until(lease.lost_at()) => self.expire(&lease),
            }
        }
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        &self.0.acquired.name
    }

    /// Who holds it.
    pub fn owner(&self) -> &str {
        &self.0.acquired.owner
    }

    /// How it is held.
    pub fn mode(&self) -> Mode {
        self.0.acquired.mode
    }

    /// What is certainly left of the lease if it is never renewed again, by this process's clock.
    /// It counts on after the lock was called lost early for [`super::Acquire::stop_margin`].
    pub fn lease_left(&self) -> Duration {
        let (State::Held(lease) | State::Lost(_, lease)) = &*self.0.state.borrow();
        lease.ends_at().saturating_sub(clock::now())
    }

    pub(super) fn acquired(&self) -> &Acquired {
        &self.0.acquired
    }

    /// Goes on under a renewed lease, unless the former one was called lost meanwhile.
    pub(super) fn renew(&self, lease: Lease) -> bool {
        self.is_lost().is_none()
            && self.0.state.send_if_modified(|state| match state {
                State::Held(of) => {
                    *of = lease;
                    true
                }
                State::Lost(..) => false,
            })
    }

    /// Lost from now on; the first reason stands.
    pub(super) fn lose(&self, why: Lost) {
        self.0.state.send_if_modified(|state| match state {
            State::Held(lease) => {
                *state = State::Lost(why, *lease);
                true
            }
            State::Lost(..) => false,
        });
    }

    /// Lost if it is still this lease that ran out.
    fn expire(&self, lease: &Lease) {
        if self.lost_at() <= lease.lost_at() {
            self.lose(Lost::Expired);
        }
    }

    fn lost_at(&self) -> Duration {
        let (State::Held(lease) | State::Lost(_, lease)) = &*self.0.state.borrow();
        lease.lost_at()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.borrow().clone();
        f.debug_struct("Hold").field("lock", &self.0.acquired).field("state", &state).finish()
    }
}
