//! Locks: a lease on a name, kept alive in the background, with a fencing token that proves it.
//!
//! Between machines a lease is not a mutex: a holder may be paused for longer than its lease and go
//! on without knowing. What makes work safe is the token, checked where the work lands.

mod guard;
mod keeper;
mod lease;

use std::time::Duration;

use hyper::Method;
use tokio::sync::oneshot;

pub use guard::{Hold, LockGuard, Lost};
use lease::Lease;

use crate::call::{Call, Patience};
use crate::client::{Client, json};
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire::{self, Code, Mode};

/// The longest that one request may wait in a lock's queue.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long giving back a hold that nobody wants any more is tried; then its lease ends it.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// A lock that is about to be acquired.
#[derive(Clone)]
pub struct Acquire {
    client: Client,
    name: String,
    owner: Option<String>,
    mode: Mode,
    ttl: Duration,
    wait: Duration,
    stop_margin: Duration,
}

impl Client {
    /// The lock `name` (1 to 512 bytes): say how, then [`Acquire::acquire`].
    ///
    /// ```no_run
    /// # async fn example(client: lockstep_client::Client) -> Result<(), lockstep_client::Error> {
    /// use std::time::Duration;
    ///
    /// let guard = client.lock("reports").wait(Duration::from_secs(10)).acquire().await?;
    /// let token = guard.token()?; // pass it along with every write
    /// # let _ = token;
    /// guard.release().await
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<String>) -> Acquire {
        Acquire {
            client: self.clone(),
            name: name.into(),
            owner: None,
            mode: Mode::Exclusive,
            ttl: Duration::from_secs(30),
            wait: Duration::ZERO,
            stop_margin: Duration::ZERO,
        }
    }

    /// Who holds a lock, and who waits for it.
    pub async fn lock_info(&self, name: &str) -> Result<wire::Lock, Error> {
        let query = form(&[("name", name)]);
        self.fetch(format!("/lock/get?{query}"), Toward::Leader).await
    }
}

impl Acquire {
    /// One holder and nobody else. This is the default.
    #[must_use]
    pub fn exclusive(self) -> Self {
        Self { mode: Mode::Exclusive, ..self }
    }

    /// Any number of holders, all of them shared.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { mode: Mode::Shared, ..self }
    }

    /// How long the lease lasts after its last renewal, 30 seconds unless said. A lost holder keeps
    /// others out for so long; an election of the cluster's leader must fit in with room to spare.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// How long to wait, first come first served; without it a held lock is refused at once. More
    /// than a minute is asked for again each minute, at the end of the queue.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Who holds it. Unless said, every acquire has an owner of its own, so that two tasks of one
    /// process exclude each other, too. The same owner acquires what it holds again.
    #[must_use]
    pub fn owner(self, owner: impl Into<String>) -> Self {
        Self { owner: Some(owner.into()), ..self }
    }

    /// Calls the lock lost so long before its lease can have ended: the time that it takes to stop
    /// the work. At most half of the lease.
    #[must_use]
    pub fn stop_margin(self, stop_margin: Duration) -> Self {
        Self { stop_margin, ..self }
    }

    /// Acquires the lock. Dropping the future leaves the queue, and gives back what may have been
    /// granted meanwhile.
    ///
    /// Errors: `held` (at once, without a wait), `wait_timeout`, `deadlock`, `too_many_waiters`,
    /// `mode_conflict`; see [`Error`] for what else.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        if self.stop_margin > self.ttl / 2 {
            return Err(Error::Invalid("stop_margin must be at most half of ttl".into()));
        }
        // A task of its own outlives a caller that hangs up, and gives back what it then gets.
        let (answer, caller) = oneshot::channel();
        tokio::spawn(async move { self.acquire_for(answer).await });
        caller.await.unwrap_or_else(|_| Err(Error::Unreachable { why: "the runtime is stopping".into() }))
    }

    async fn acquire_for(self, mut answer: oneshot::Sender<Result<LockGuard, Error>>) {
        let owner = self.owner.clone().unwrap_or_else(|| self.client.request_id());
        let granted = tokio::select! {
            granted = self.rounds(&owner) => granted,
            () = answer.closed() => {
                // The closed connection says it already; this is for an answer that was on its way.
                if self.owner.is_none() {
                    give_back(&self.client, &self.name, &owner, None).await;
                }
                return;
            }
        };
        let guard = granted.map(|(acquired, lease)| LockGuard::new(self.client.clone(), acquired, lease));
        // A guard that cannot be handed over is dropped, which releases it.
        let _ = answer.send(guard);
    }

    /// One request after another until the wait is over: each waits for a minute at most.
    async fn rounds(&self, owner: &str) -> Result<(wire::Acquired, Lease), Error> {
        let until = clock::now().saturating_add(self.wait);
        loop {
            let round = until.saturating_sub(clock::now()).min(WAIT_MAX);
            let outcome = self.round(owner, round).await;
            let again = match &outcome {
                Err(Error::Lost(_)) => true,
                Err(error) => matches!(error.code(), Some(Code::WaitTimeout | Code::LockLost)),
                Ok(_) => false,
            };
            if !again || clock::now() >= until {
                return outcome;
            }
        }
    }

    async fn round(&self, owner: &str, wait: Duration) -> Result<(wire::Acquired, Lease), Error> {
        let body = wire::Acquire {
            name: self.name.clone(),
            owner: owner.to_owned(),
            mode: self.mode,
            ttl_ms: Some(clock::millis(self.ttl)),
            wait_ms: clock::millis(wait),
            request_id: Some(self.client.request_id()),
            ..wire::Acquire::default()
        };
        let call = Call {
            method: Method::POST,
            target: "/lock/acquire".into(),
            body: json(&body)?,
            toward: Toward::Leader,
            patience: self.client.patience().beyond(wait),
        };
        let answered = self.client.call(&call).await?;
        let acquired: wire::Acquired = answered.read()?;
        // Granted at some instant since it was first asked for: only the first is safe to count from.
        let lease = Lease::new(answered.first_sent, self.ttl, self.stop_margin);
        if clock::now() < lease.renew_at() {
            return Ok((acquired, lease));
        }
        // The wait has used up what is certain of the lease; a renewal says where it stands.
        let until = clock::now() + self.ttl;
        let lease = keeper::renew(&self.client, &acquired, &lease, until).await?;
        Ok((acquired, lease))
    }
}

/// Releases a hold for which nobody is left, as well as that can be done in a few seconds.
async fn give_back(client: &Client, name: &str, owner: &str, token: Option<u64>) {
    let patience = Patience { attempt: GIVE_BACK / 3, total: GIVE_BACK };
    // Whatever comes of it: the lease ends it at the latest.
    let _ = release(client, name, owner, token, patience).await;
}

async fn release(
    client: &Client,
    name: &str,
    owner: &str,
    token: Option<u64>,
    patience: Patience,
) -> Result<(), Error> {
    let body = wire::Release {
        name: name.to_owned(),
        owner: owner.to_owned(),
        token,
        request_id: Some(client.request_id()),
        ..wire::Release::default()
    };
    let call = Call {
        method: Method::POST,
        target: "/lock/release".into(),
        body: json(&body)?,
        toward: Toward::Leader,
        patience,
    };
    client.call(&call).await?.read::<wire::Released>().map(drop)
}

/// A query string.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}
