//! A lock while it is held: what its holder sees.
//!
//! It does not talk to the cluster; the keeper beside it does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::keeper::{self, Source};
use super::standing::{Lost, Standing};
use crate::client::Client;
use crate::error::Error;
use crate::wire::{Acquired, Guard, Mode};

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
    standing: Standing,
}

impl LockGuard {
    pub(super) fn new(client: Client, acquired: Acquired, source: Source) -> Self {
        let standing = Standing::new(source.lease());
        let hold = Hold(Arc::new(Inner { acquired, standing }));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(keeper::keep(client, hold.clone(), source, stopped));
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
        self.hold.standing().lose(Lost::Released);
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

    /// The token that guards one of several locks that were taken together: the common one, except
    /// where a shared hold joined others. Errors: as [`Hold::token`].
    pub fn token_of(&self, name: &str) -> Result<u64, Lost> {
        let common = self.token()?;
        Ok(self.0.acquired.tokens.get(name).copied().unwrap_or(common))
    }

    /// What proves this hold to a queue or the cache: a write with it is refused once they have seen
    /// a newer token of the lock. Errors: as [`Hold::token`].
    pub fn guard(&self) -> Result<Guard, Lost> {
        Ok(Guard { lock: self.name().to_owned(), token: self.token_of(self.name())?, strict: false })
    }

    /// Why the lock is lost; nothing while it is held.
    pub fn is_lost(&self) -> Option<Lost> {
        self.0.standing.is_lost()
    }

    /// Completes when the lock is lost or released. Work under a lock belongs into a `select!` with
    /// this.
    pub async fn lost(&self) -> Lost {
        self.0.standing.lost().await
    }

    /// The lock's name; the first, if several were taken together.
    pub fn name(&self) -> &str {
        self.names().first().map_or("", String::as_str)
    }

    /// All names: more than one if several locks were taken together.
    pub fn names(&self) -> &[String] {
        let acquired = &self.0.acquired;
        if acquired.names.is_empty() { std::slice::from_ref(&acquired.name) } else { &acquired.names }
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
        self.0.standing.lease_left()
    }

    pub(super) fn acquired(&self) -> &Acquired {
        &self.0.acquired
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("lock", &self.0.acquired).field("standing", &self.0.standing).finish()
    }
}
