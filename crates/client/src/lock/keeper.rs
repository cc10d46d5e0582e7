//! The task beside each held lock: renews its lease, notices its loss, releases it at the end.
//!
//! It alone talks to the cluster about a hold, so a release never crosses a renewal.

use std::time::Duration;

use hyper::Method;
use tokio::sync::oneshot;

use super::guard::Hold;
use super::lease::Lease;
use super::session::Session;
use super::standing::Lost;
use super::{give_back, release};
use crate::backoff::Backoff;
use crate::call::{Call, Patience};
use crate::client::{Client, json};
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire::{self, Acquired};

/// An order to release: where to say what came of it.
pub(super) type Release = oneshot::Sender<Result<(), Error>>;

/// What keeps a hold alive.
pub(super) enum Source {
    /// Its own lease.
    Lease(Lease),
    /// The lease of a session.
    Session(Session),
}

impl Source {
    /// The lease by now.
    pub(super) fn lease(&self) -> Lease {
        match self {
            Self::Lease(lease) => *lease,
            Self::Session(session) => session.standing().lease(),
        }
    }

    /// The next lease, once there is one.
    async fn next(&mut self, client: &Client, hold: &Hold) -> Result<Lease, Lost> {
        match self {
            Self::Lease(lease) => {
                clock::sleep_until(lease.renew_at()).await;
                *lease = renew(client, hold.acquired(), lease, lease.lost_at()).await?;
                Ok(*lease)
            }
            Self::Session(session) => session.next_lease(hold.standing().lease()).await,
        }
    }
}

/// No try is given up sooner: a busy node may need it.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);

/// Keeps `hold` alive until it is lost, or until its guard orders its release or is dropped.
pub(super) async fn keep(
    client: Client,
    hold: Hold,
    mut source: Source,
    mut stop: oneshot::Receiver<Release>,
) {
    let order = loop {
        tokio::select! {
            biased;
            order = &mut stop => break order,
            renewed = source.next(&client, &hold) => match renewed {
                Ok(next) => drop(hold.standing().renew(next)),
                Err(lost) => hold.standing().lose(lost),
            },
        }
        if hold.is_lost().is_some() {
            break (&mut stop).await;
        }
    };
    finish(&client, &hold, order.ok()).await;
}

/// Renews, as often as it takes until `until`.
pub(super) async fn renew(
    client: &Client,
    acquired: &Acquired,
    lease: &Lease,
    until: Duration,
) -> Result<Lease, Lost> {
    let sent = persist(until, || renew_once(client, acquired, lease, until)).await?;
    Ok(lease.renewed(sent))
}

/// Tries until it works, is refused for good, or `until` has come.
pub(super) async fn persist<T, F>(until: Duration, mut attempt: impl FnMut() -> F) -> Result<T, Lost>
where
    F: Future<Output = Result<T, Error>>,
{
    let tries = async {
        let mut backoff = Backoff::default();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Error::Refused { status, fault }) if status < 500 => {
                    return Err(Lost::Refused(format!("{} ({})", fault.message, fault.code)));
                }
                Err(_) => tokio::time::sleep(backoff.pause()).await,
            }
        }
    };
    tokio::select! {
        done = tries => done,
        () = clock::sleep_until(until) => Err(Lost::Expired),
    }
}

/// When the renewal was sent that succeeded. It needs no request id: one too many does no harm.
async fn renew_once(
    client: &Client,
    acquired: &Acquired,
    lease: &Lease,
    until: Duration,
) -> Result<Duration, Error> {
    let body = wire::Renew {
        name: acquired.name.clone(),
        names: acquired.names.clone(),
        owner: acquired.owner.clone(),
        token: acquired.token,
        ttl_ms: Some(clock::millis(lease.ttl())),
        ..wire::Renew::default()
    };
    let call = Call {
        method: Method::POST,
        target: "/lock/renew".into(),
        body: json(&body)?,
        toward: Toward::Leader,
        patience: patience(client, lease, until),
    };
    let answered = client.call(&call).await?;
    answered.read::<Acquired>()?;
    Ok(answered.last_sent)
}

/// Several tries fit into what is left of a lease.
pub(super) fn patience(client: &Client, lease: &Lease, until: Duration) -> Patience {
    let attempt = (lease.ttl() / 6).clamp(ATTEMPT_MIN, client.patience().attempt.max(ATTEMPT_MIN));
    Patience { attempt, total: until.saturating_sub(clock::now()) }
}

/// Releases, and says what came of it to whoever ordered it.
async fn finish(client: &Client, hold: &Hold, order: Option<Release>) {
    let acquired = hold.acquired();
    let lost = hold.is_lost().filter(|lost| *lost != Lost::Released);
    hold.standing().lose(Lost::Released);
    let may_stand = match (lost, order) {
        (None, Some(answer)) => {
            let _ = answer.send(release(client, acquired, client.patience()).await);
            return;
        }
        (Some(lost), Some(answer)) => {
            let _ = answer.send(Err(lost.clone().into()));
            lost == Lost::Expired
        }
        (lost, None) => lost.is_none_or(|lost| lost == Lost::Expired),
    };
    if may_stand {
        // It may still stand at the cluster, for a moment; nobody works under it any more.
        give_back(client, acquired).await;
    }
}
