//! The routes of locks: taking them, giving them back, looking at them.

mod watch;
mod words;

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::Reply;
use lockstep_core::command::{Acquire, Attempt, Claimant, Holder, LockOp};
use lockstep_core::names::{LockName, Owner, ShardId, Token};
use lockstep_core::query::{Answer, Query as Question};

use super::body::{Json, Query, asked};
use super::error::Fault;
use super::limits::{
    LOCK_NAMES_MAX, METADATA_BYTES_MAX, PAGE_MAX, PERMITS_MAX, REASON_BYTES_MAX, TTL_MS_MAX, WAIT_MS_MAX,
};
use super::names::{name, session, text, within};
use super::{Shared, reply};
use crate::clock::unix_millis;

pub(super) use watch::watch;
pub(super) use words::mode;

/// The lease's length where a request says nothing.
const TTL_MS: u64 = 30_000;

pub(super) async fn acquire(State(gate): Shared, body: Json<wire::Acquire>) -> Result<Response, Fault> {
    let asked = asked(&gate, body.value.request_id.clone(), body.fingerprint)?;
    let (want, said) = wanted(body.value)?;
    let grant = gate.api()?.router.acquire(want, &asked).await?;
    Ok(reply(&said.acquired(&grant)))
}

pub(super) async fn release(State(gate): Shared, body: Json<wire::Release>) -> Result<Response, Fault> {
    let wire::Release { name, names, owner, session, token, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Release {
        names: lock_names(&name, &names)?,
        by: claimant(&owner, session.as_deref(), token)?,
    };
    gate.api()?.router.lock(op, &asked).await?;
    Ok(reply(&wire::Released { released: true }))
}

pub(super) async fn renew(State(gate): Shared, body: Json<wire::Renew>) -> Result<Response, Fault> {
    let wire::Renew { name, names, owner, session, token, ttl_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Renew {
        names: lock_names(&name, &names)?,
        by: claimant(&owner, session.as_deref(), Some(token))?,
        ttl: ttl_ms.map(|ttl| within("ttl_ms", ttl, 1, TTL_MS_MAX)).transpose()?,
    };
    let said = words::Said { name, names, owner, session };
    match gate.api()?.router.lock(op, &asked).await? {
        Reply::Granted(grant) => Ok(reply(&said.acquired(&grant))),
        _ => Err(crate::router::Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn upgrade(State(gate): Shared, body: Json<wire::Upgrade>) -> Result<Response, Fault> {
    let wire::Upgrade { name: lock, owner, session, token, wait_ms, fail_on_deadlock, request_id } =
        body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let name = LockName(name("name", &lock)?);
    let by = claimant(&owner, session.as_deref(), Some(token))?;
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let careful = fail_on_deadlock.unwrap_or(true);
    let grant = gate.api()?.router.upgrade(name, by, wait, careful, &asked).await?;
    let said = words::Said { name: lock, names: Vec::new(), owner, session };
    Ok(reply(&said.acquired(&grant)))
}

pub(super) async fn downgrade(State(gate): Shared, body: Json<wire::Downgrade>) -> Result<Response, Fault> {
    let wire::Downgrade { name: lock, owner, session, token, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Downgrade {
        name: LockName(name("name", &lock)?),
        by: claimant(&owner, session.as_deref(), Some(token))?,
    };
    let said = words::Said { name: lock, names: Vec::new(), owner, session };
    match gate.api()?.router.lock(op, &asked).await? {
        Reply::Granted(grant) => Ok(reply(&said.acquired(&grant))),
        _ => Err(crate::router::Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn break_lock(State(gate): Shared, body: Json<wire::Break>) -> Result<Response, Fault> {
    let wire::Break { name: lock, reason, by, token, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Break {
        name: LockName(name("name", &lock)?),
        token: token.map(Token),
        reason: text("reason", &reason, REASON_BYTES_MAX)?,
        by: name("by", &by)?,
        asked_at: unix_millis(),
    };
    match gate.api()?.router.lock(op, &asked).await? {
        Reply::Broken(holders) => Ok(reply(&wire::Broken { broken: true, holders: words::losers(holders) })),
        _ => Err(crate::router::Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn get(State(gate): Shared, Query(query): Query<wire::GetLock>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let question = Question::Lock { name: LockName(name("name", &query.name)?) };
    let answer = api.router.query(ShardId::COORDINATION, question, api.limits.request_time).await?;
    let Answer::Lock(found) = answer else { return Err(crate::router::Error::OutcomeUnknown.into()) };
    Ok(reply(&words::lock(query.name, found)))
}

pub(super) async fn list(
    State(gate): Shared,
    Query(query): Query<wire::ListLocks>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    within("limit", query.limit.into(), 1, PAGE_MAX.into())?;
    let question = Question::Locks { prefix: query.prefix, after: query.after, limit: query.limit };
    let answer = api.router.query(ShardId::COORDINATION, question, api.limits.request_time).await?;
    let Answer::Locks(found) = answer else { return Err(crate::router::Error::OutcomeUnknown.into()) };
    let full = found.len() == query.limit as usize;
    let next = found.last().filter(|_| full).map(|last| last.name.0.to_string());
    Ok(reply(&wire::Locks { locks: found.into_iter().map(words::view).collect(), next }))
}

pub(super) async fn audit(
    State(gate): Shared,
    Query(query): Query<wire::GetAudit>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    within("limit", query.limit.into(), 1, PAGE_MAX.into())?;
    let of = query.name.as_deref().map(|of| name("name", of)).transpose()?.map(LockName);
    let question = Question::Audit { name: of, after: query.after, limit: query.limit };
    let answer = api.router.query(ShardId::COORDINATION, question, api.limits.request_time).await?;
    let Answer::Audit(found) = answer else { return Err(crate::router::Error::OutcomeUnknown.into()) };
    let full = found.len() == query.limit as usize;
    let next = found.last().filter(|_| full).map(|last| last.id);
    Ok(reply(&wire::Audit { entries: found.into_iter().map(words::entry).collect(), next }))
}

/// What a request asks for, checked, and what of it the answer repeats.
fn wanted(asks: wire::Acquire) -> Result<(Acquire, words::Said), Fault> {
    let names = lock_names(&asks.name, &asks.names)?;
    let limit = match (asks.mode, asks.limit) {
        (wire::Mode::Permit, Some(limit)) => within("limit", limit.into(), 1, PERMITS_MAX.into())?.0,
        (wire::Mode::Permit, None) => {
            return Err(Fault::bad("limit is missing: how many permits the lock has."));
        }
        (_, Some(_)) => return Err(Fault::bad("limit goes with mode permit alone.")),
        (_, None) => 0,
    };
    if asks.session.is_some() && asks.ttl_ms.is_some() {
        return Err(Fault::bad("ttl_ms and session exclude each other: the session keeps the hold."));
    }
    let want = Acquire {
        names,
        holder: Holder {
            owner: Owner(name("owner", &asks.owner)?),
            session: asks.session.as_deref().map(session).transpose()?,
        },
        mode: words::core_mode(asks.mode),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        ttl: within("ttl_ms", asks.ttl_ms.unwrap_or(TTL_MS), 1, TTL_MS_MAX)?,
        wait: within("wait_ms", asks.wait_ms, 0, WAIT_MS_MAX)?,
        delay: within("lock_delay_ms", asks.lock_delay_ms, 0, WAIT_MS_MAX)?,
        metadata: asks.metadata.map(metadata).transpose()?,
        fail_on_deadlock: asks.fail_on_deadlock.unwrap_or(true),
        attempt: Attempt::default(),
    };
    Ok((want, words::Said { name: asks.name, names: asks.names, owner: asks.owner, session: asks.session }))
}

fn metadata(value: serde_json::Value) -> Result<std::sync::Arc<str>, Fault> {
    let text = value.to_string();
    if text.len() > METADATA_BYTES_MAX {
        let length = text.len();
        return Err(Fault::bad(format!(
            "metadata has {length} bytes; at most {METADATA_BYTES_MAX} are allowed."
        )));
    }
    Ok(text.into())
}

/// One lock or several, in the order in which the core wants them.
fn lock_names(one: &str, many: &[String]) -> Result<Vec<LockName>, Fault> {
    if many.is_empty() {
        return Ok(vec![LockName(name("name", one)?)]);
    }
    if !one.is_empty() {
        return Err(Fault::bad("Send name for one lock, or names for several; not both."));
    }
    within("The number of names", many.len() as u64, 1, LOCK_NAMES_MAX as u64)?;
    let mut names = many.iter().map(|one| name("names", one).map(LockName)).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::bad(format!("names says {:?} twice.", pair[0].0))),
        None => Ok(names),
    }
}

fn claimant(owner: &str, of: Option<&str>, token: Option<u64>) -> Result<Claimant, Fault> {
    Ok(Claimant {
        owner: Owner(name("owner", owner)?),
        session: of.map(session).transpose()?,
        token: token.map(Token),
    })
}
