//! Locks: a lease on a name, kept alive in the background, with a fencing token that proves it.
//!
//! Between machines a lease is not a mutex: a holder may be paused for longer than its lease and go
//! on without knowing. What makes work safe is the token, checked where the work lands.

mod guard;
mod keeper;
mod lease;
mod session;
mod standing;
mod watch;

use std::time::Duration;

use hyper::Method;
use tokio::sync::oneshot;

pub use guard::{Hold, LockGuard};
use keeper::Source;
use lease::Lease;
pub use session::{OpenSession, Session};
pub use standing::Lost;
pub use watch::{LockWatch, Watched};

use crate::call::{Call, Patience};
use crate::client::{Client, json};
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire::{self, Code, Mode};

/// The longest that one request may wait in a lock's queue.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long giving back a hold that nobody wants any more is tried; then its lease ends it.
const GIVING_BACK: Patience = Patience { attempt: Duration::from_secs(2), total: Duration::from_secs(5) };

/// A lock that is about to be acquired, or several together.
#[derive(Clone)]
pub struct Acquire {
    client: Client,
    wanted: wire::Acquire,
    owner: Option<String>,
    session: Option<Session>,
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
        Acquire::new(self, wire::Acquire { name: name.into(), ..wire::Acquire::default() })
    }

    /// Several locks (at most 64), taken together or not at all: waiting for them holds none.
    pub fn locks<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> Acquire {
        let names = names.into_iter().map(Into::into).collect();
        Acquire::new(self, wire::Acquire { names, ..wire::Acquire::default() })
    }

    /// Who holds a lock, and who waits for it.
    pub async fn lock_info(&self, name: &str) -> Result<wire::Lock, Error> {
        let query = form(&[("name", name)]);
        self.fetch(format!("/lock/get?{query}"), Toward::Leader).await
    }
}

impl Acquire {
    fn new(client: &Client, wanted: wire::Acquire) -> Self {
        Self {
            client: client.clone(),
            wanted,
            owner: None,
            session: None,
            ttl: Duration::from_secs(30),
            wait: Duration::ZERO,
            stop_margin: Duration::ZERO,
        }
    }

    /// One holder and nobody else. This is the default.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.wanted.mode = Mode::Exclusive;
        self
    }

    /// Any number of holders, all of them shared.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.wanted.mode = Mode::Shared;
        self
    }

    /// One of `limit` holders: a counting semaphore. All who ask must name the same limit.
    #[must_use]
    pub fn permit(mut self, limit: u32) -> Self {
        self.wanted.mode = Mode::Permit;
        self.wanted.limit = Some(limit);
        self
    }

    /// Any JSON, shown to whoever looks at the lock.
    #[must_use]
    pub fn metadata(mut self, metadata: serde_json::Value) -> Self {
        self.wanted.metadata = Some(metadata);
        self
    }

    /// If the hold is lost rather than released, nobody gets the lock for so long: time for work
    /// that was under way to come to an end.
    #[must_use]
    pub fn lock_delay(mut self, lock_delay: Duration) -> Self {
        self.wanted.lock_delay_ms = clock::millis(lock_delay);
        self
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
                    self.give_back_by_owner(owner).await;
                }
                return;
            }
        };
        let guard = granted.map(|(acquired, source)| LockGuard::new(self.client.clone(), acquired, source));
        // A guard that cannot be handed over is dropped, which releases it.
        let _ = answer.send(guard);
    }

    /// Releases what the owner of this one acquire may have got without ever hearing of it.
    async fn give_back_by_owner(&self, owner: String) {
        let wire::Acquire { name, names, .. } = self.wanted.clone();
        let session = self.session.as_ref().map(|session| session.id().to_owned());
        let body = wire::Release { name, names, owner, session, ..wire::Release::default() };
        let _ = send_release(&self.client, body, GIVING_BACK).await;
    }

    /// One request after another until the wait is over: each waits for a minute at most. A grant that
    /// was given back, as the connection broke on which it came, is asked for once more in any case.
    async fn rounds(&self, owner: &str) -> Result<(wire::Acquired, Source), Error> {
        let until = clock::now().saturating_add(self.wait);
        let mut given_back = false;
        loop {
            let round = until.saturating_sub(clock::now()).min(WAIT_MAX);
            let outcome = self.round(owner, round).await;
            let over = clock::now() >= until;
            let again = match &outcome {
                Err(Error::Lost(_)) => !over,
                Err(error) => match error.code() {
                    Some(Code::WaitTimeout) => !over,
                    Some(Code::LockLost) => !over || !std::mem::replace(&mut given_back, true),
                    _ => false,
                },
                Ok(_) => false,
            };
            if !again {
                return outcome;
            }
        }
    }

    async fn round(&self, owner: &str, wait: Duration) -> Result<(wire::Acquired, Source), Error> {
        let body = wire::Acquire {
            owner: owner.to_owned(),
            ttl_ms: self.session.is_none().then(|| clock::millis(self.ttl)),
            session: self.session.as_ref().map(|session| session.id().to_owned()),
            wait_ms: clock::millis(wait),
            request_id: Some(self.client.request_id()),
            ..self.wanted.clone()
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
        if let Some(session) = &self.session {
            return Ok((acquired, Source::Session(session.clone())));
        }
        // Granted at some instant since it was first asked for: only the first is safe to count from.
        let lease = Lease::new(answered.first_sent, self.ttl, self.stop_margin);
        if clock::now() < lease.renew_at() {
            return Ok((acquired, Source::Lease(lease)));
        }
        // The wait has used up what is certain of the lease; a renewal says where it stands.
        let until = clock::now() + self.ttl;
        let lease = keeper::renew(&self.client, &acquired, &lease, until).await?;
        Ok((acquired, Source::Lease(lease)))
    }
}

/// Releases a hold for which nobody is left, as well as that can be done in a few seconds.
async fn give_back(client: &Client, acquired: &wire::Acquired) {
    // Whatever comes of it: the lease ends it at the latest.
    let _ = release(client, acquired, GIVING_BACK).await;
}

async fn release(client: &Client, acquired: &wire::Acquired, patience: Patience) -> Result<(), Error> {
    let wire::Acquired { name, names, owner, session, token, .. } = acquired.clone();
    let body = wire::Release { name, names, owner, session, token: Some(token), request_id: None };
    send_release(client, body, patience).await
}

async fn send_release(client: &Client, body: wire::Release, patience: Patience) -> Result<(), Error> {
    let body = wire::Release { request_id: Some(client.request_id()), ..body };
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
