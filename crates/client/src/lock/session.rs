//! A session: one heartbeat that keeps any number of locks and received messages, and whose end releases
//! all of them.
//!
//! A lock that is broken while its session lives is not noticed by the heartbeat: its token is what
//! tells, where the work lands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::oneshot;

use super::keeper::{patience, persist};
use super::lease::Lease;
use super::standing::{Lost, Standing, State};
use super::{Acquire, GIVING_BACK};
use crate::call::{Answered, Call, Patience};
use crate::client::{Client, json};
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire;

/// A session that is about to be opened.
#[derive(Clone)]
pub struct OpenSession {
    client: Client,
    owner: String,
    ttl: Duration,
}

/// An open session. Clones are the same session; it is closed when the last of them is gone, those
/// of its locks' guards and of its deliveries included.
#[derive(Clone)]
pub struct Session(Arc<Open>);

struct Open {
    client: Client,
    id: String,
    standing: Arc<Standing>,
    _close_when_dropped: oneshot::Sender<()>,
}

impl Client {
    /// A session: say how long it lasts, then [`OpenSession::open`]. `owner` is for people.
    pub fn session(&self, owner: impl Into<String>) -> OpenSession {
        OpenSession { client: self.clone(), owner: owner.into(), ttl: Duration::from_secs(30) }
    }
}

impl OpenSession {
    /// How long it lasts after its last heartbeat, 30 seconds unless said.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Opens it, and keeps it alive in the background. Errors: `too_many_sessions`.
    pub async fn open(self) -> Result<Session, Error> {
        let Self { client, owner, ttl } = self;
        let request_id = Some(client.request_id());
        let body = wire::OpenSession { owner, ttl_ms: clock::millis(ttl), request_id };
        let answered = ask(&client, "/session/open", &body, client.patience()).await?;
        let opened: wire::Session = answered.read()?;
        let lease = Lease::new(answered.first_sent, ttl, Duration::ZERO);
        let standing = Arc::new(Standing::new(lease));
        let (close, closed) = oneshot::channel();
        tokio::spawn(keep(client.clone(), opened.session.clone(), Arc::clone(&standing), closed));
        Ok(Session(Arc::new(Open { client, id: opened.session, standing, _close_when_dropped: close })))
    }
}

impl Session {
    /// A lock that lives as long as this session: no heartbeat of its own.
    pub fn lock(&self, name: impl Into<String>) -> Acquire {
        Acquire { session: Some(self.clone()), ..self.0.client.lock(name) }
    }

    /// Several locks that live as long as this session, taken together or not at all.
    pub fn locks<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> Acquire {
        Acquire { session: Some(self.clone()), ..self.0.client.locks(names) }
    }

    /// Its id, as `session` in requests.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// How long it lasts after its last heartbeat.
    pub fn ttl(&self) -> Duration {
        self.0.standing.lease().ttl()
    }

    /// Why it has ended; nothing while it is alive.
    pub fn is_lost(&self) -> Option<Lost> {
        self.0.standing.is_lost()
    }

    /// Completes when it has ended.
    pub async fn lost(&self) -> Lost {
        self.0.standing.lost().await
    }

    /// Ends it now, and with it all of its locks, in one step. Messages that it holds go back at once.
    pub async fn close(self) -> Result<(), Error> {
        self.0.standing.lose(Lost::Released);
        close(&self.0.client, &self.0.id, self.0.client.patience()).await
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// The lease that follows `than`.
    pub(super) async fn next_lease(&self, than: Lease) -> Result<Lease, Lost> {
        let mut state = self.0.standing.subscribe();
        let newer = state.wait_for(|state| match state {
            State::Held(lease) => *lease != than,
            State::Lost(..) => true,
        });
        match newer.await.as_deref() {
            Ok(State::Held(lease)) => Ok(*lease),
            Ok(State::Lost(lost, _)) => Err(lost.clone()),
            // The sender lives in `self`.
            Err(_) => Err(Lost::Released),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.0.id).field("standing", &self.0.standing).finish()
    }
}

/// The heartbeat.
async fn keep(client: Client, id: String, standing: Arc<Standing>, mut closed: oneshot::Receiver<()>) {
    while standing.is_lost().is_none() {
        tokio::select! {
            _ = &mut closed => {
                // Its end comes by itself if this fails.
                let _ = close(&client, &id, GIVING_BACK).await;
                return;
            }
            _ = standing.lost() => return,
            renewed = renew_when_due(&client, &id, standing.lease()) => match renewed {
                Ok(lease) => drop(standing.renew(lease)),
                Err(lost) => standing.lose(lost),
            },
        }
    }
}

async fn renew_when_due(client: &Client, id: &str, lease: Lease) -> Result<Lease, Lost> {
    clock::sleep_until(lease.renew_at()).await;
    let until = lease.lost_at();
    let sent = persist(until, || async {
        let body = wire::RenewSession { session: Some(id.to_owned()), ..wire::RenewSession::default() };
        let answered = ask(client, "/session/renew", &body, patience(client, &lease, until)).await?;
        answered.read::<wire::Session>()?;
        Ok(answered.last_sent)
    });
    Ok(lease.renewed(sent.await?))
}

async fn close(client: &Client, id: &str, patience: Patience) -> Result<(), Error> {
    let body = wire::CloseSession { session: id.to_owned(), request_id: Some(client.request_id()) };
    ask(client, "/session/close", &body, patience).await?.read::<wire::Closed>().map(drop)
}

async fn ask(
    client: &Client,
    path: &str,
    body: &impl serde::Serialize,
    patience: Patience,
) -> Result<Answered, Error> {
    let (target, body) = (path.to_owned(), json(body)?);
    client.call(&Call { method: Method::POST, target, body, toward: Toward::Leader, patience }).await
}
