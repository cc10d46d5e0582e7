//! The routes of sessions.

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::command::{Lease, SessionOp};
use lockstep_core::names::Owner;
use lockstep_core::{Refusal, Reply};

use super::body::{Json, asked};
use super::error::Fault;
use super::limits::{BATCH_MAX, TTL_MS_MAX};
use super::names::{name, session, session_id, within};
use super::{Shared, batch, reply};
use crate::router::{Error, Heartbeat};

pub(super) async fn open(State(gate): Shared, body: Json<wire::OpenSession>) -> Result<Response, Fault> {
    let wire::OpenSession { owner, ttl_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = SessionOp::Open {
        owner: Owner(name("owner", &owner)?),
        ttl: within("ttl_ms", ttl_ms, 1, TTL_MS_MAX)?,
    };
    match gate.api()?.router.session(op, &asked).await? {
        Reply::Opened(lease) => Ok(reply(&told(lease))),
        _ => Err(Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn renew(State(gate): Shared, body: Json<wire::RenewSession>) -> Result<Response, Fault> {
    let wire::RenewSession { session: one, sessions, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let single = one.is_some();
    let sessions = match (one, sessions) {
        (Some(one), None) => vec![one],
        (None, Some(many)) => many,
        _ => return Err(Fault::bad("Send session, or sessions; exactly one of them.")),
    };
    within("The number of sessions", sessions.len() as u64, 1, BATCH_MAX as u64)?;
    let sessions = sessions.iter().map(|id| session(id)).collect::<Result<Vec<_>, _>>()?;
    let results = gate.api()?.router.renew_sessions(sessions, &asked).await?;
    let mut results = results.into_iter().map(|result| result.map(beat).map_err(Fault::from));
    if single {
        let one = results.next().unwrap_or(Err(Refusal::SessionExpired.into()));
        return Ok(reply(&one?));
    }
    Ok(reply(&batch(results)))
}

pub(super) async fn close(State(gate): Shared, body: Json<wire::CloseSession>) -> Result<Response, Fault> {
    let wire::CloseSession { session: id, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    gate.api()?.router.close_session(session(&id)?, &asked).await?;
    Ok(reply(&wire::Closed { closed: true }))
}

fn told(lease: Lease) -> wire::Session {
    beat(Heartbeat { lease, receipts: None, unreached: Vec::new() })
}

fn beat(heartbeat: Heartbeat) -> wire::Session {
    let Heartbeat { lease, receipts, unreached } = heartbeat;
    wire::Session {
        session: session_id(lease.session),
        ttl_ms: lease.ttl.0,
        expires_in_ms: lease.left.0,
        receipts,
        unreached_shards: unreached.into_iter().map(|shard| shard.0).collect(),
    }
}
