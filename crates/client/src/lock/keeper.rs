//! The task beside each held lock: renews its lease, notices its loss, releases it at the end.
//!
//! It alone talks to the cluster about a hold, so a release never crosses a renewal.

use std::time::Duration;

use hyper::Method;
use tokio::sync::oneshot;

use super::guard::{Hold, Lost};
use super::lease::Lease;
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

/// No try is given up sooner: a busy node may need it.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);

/// Keeps `hold` alive until it is lost, or until its guard orders its release or is dropped.
pub(super) async fn keep(client: Client, hold: Hold, mut lease: Lease, mut stop: oneshot::Receiver<Release>) {
    let order = loop {
        tokio::select! {
            biased;
            order = &mut stop => break order,
            renewed = renew_when_due(&client, &hold, &lease) => match renewed {
                Ok(next) if hold.renew(next) => lease = next,
                Ok(_) => {}
                Err(lost) => hold.lose(lost),
            },
        }
        if hold.is_lost().is_some() {
            break (&mut stop).await;
        }
    };
    finish(&client, &hold, order.ok()).await;
}

async fn renew_when_due(client: &Client, hold: &Hold, lease: &Lease) -> Result<Lease, Lost> {
    clock::sleep_until(lease.renew_at()).await;
    renew(client, hold.acquired(), lease, lease.lost_at()).await
}

/// Renews, as often as it takes until `until`.
pub(super) async fn renew(
    client: &Client,
    acquired: &Acquired,
    lease: &Lease,
    until: Duration,
) -> Result<Lease, Lost> {
    let tries = async {
        let mut backoff = Backoff::default();
        loop {
            match renew_once(client, acquired, lease, until).await {
                Ok(sent) => return Ok(lease.renewed(sent)),
                Err(Error::Refused { status, fault }) if status < 500 => {
                    return Err(Lost::Refused(format!("{} ({})", fault.message, fault.code)));
                }
                Err(_) => tokio::time::sleep(backoff.pause()).await,
            }
        }
    };
    tokio::select! {
        renewed = tries => renewed,
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
        owner: acquired.owner.clone(),
        token: acquired.token,
        ttl_ms: Some(clock::millis(lease.ttl())),
        ..wire::Renew::default()
    };
    let attempt = (lease.ttl() / 6).clamp(ATTEMPT_MIN, client.patience().attempt.max(ATTEMPT_MIN));
    let call = Call {
        method: Method::POST,
        target: "/lock/renew".into(),
        body: json(&body)?,
        toward: Toward::Leader,
        patience: Patience { attempt, total: until.saturating_sub(clock::now()) },
    };
    let answered = client.call(&call).await?;
    answered.read::<Acquired>()?;
    Ok(answered.last_sent)
}

/// Releases, and says what came of it to whoever ordered it.
async fn finish(client: &Client, hold: &Hold, order: Option<Release>) {
    let Acquired { name, owner, token, .. } = hold.acquired();
    let lost = hold.is_lost().filter(|lost| *lost != Lost::Released);
    hold.lose(Lost::Released);
    let may_stand = match (lost, order) {
        (None, Some(answer)) => {
            let _ = answer.send(release(client, name, owner, Some(*token), client.patience()).await);
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
        give_back(client, name, owner, Some(*token)).await;
    }
}
