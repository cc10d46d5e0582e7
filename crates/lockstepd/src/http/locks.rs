//! The routes of locks.

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::command::{self, Grant, LockOp};
use lockstep_core::names::{LockName, Owner, ShardId, Token};
use lockstep_core::query::{Answer, LockView, Query as Question};
use lockstep_core::{Millis, Reply};

use super::body::{Json, Query, asked};
use super::error::Fault;
use super::limits::{PAGE_MAX, TTL_MS_MAX, WAIT_MS_MAX};
use super::names::{name, within};
use super::{Shared, reply};

pub(super) async fn acquire(State(gate): Shared, body: Json<wire::Acquire>) -> Result<Response, Fault> {
    let wire::Acquire { name: lock, owner, mode: how, ttl_ms, wait_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let lock_name = LockName(name("name", &lock)?);
    let holder = Owner(name("owner", &owner)?);
    let ttl = within("ttl_ms", ttl_ms, 1, TTL_MS_MAX)?;
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let mode = match how {
        wire::Mode::Exclusive => command::Mode::Exclusive,
        wire::Mode::Shared => command::Mode::Shared,
    };
    let grant = gate.api()?.router.acquire(lock_name, holder, mode, ttl, wait, &asked).await?;
    Ok(reply(&acquired(lock, owner, &grant)))
}

pub(super) async fn release(State(gate): Shared, body: Json<wire::Release>) -> Result<Response, Fault> {
    let wire::Release { name: lock, owner, token, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Release {
        name: LockName(name("name", &lock)?),
        owner: Owner(name("owner", &owner)?),
        token: token.map(Token),
    };
    gate.api()?.router.lock(op, &asked).await?;
    Ok(reply(&wire::Released { released: true }))
}

pub(super) async fn renew(State(gate): Shared, body: Json<wire::Renew>) -> Result<Response, Fault> {
    let wire::Renew { name: lock, owner, token, ttl_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let op = LockOp::Renew {
        name: LockName(name("name", &lock)?),
        owner: Owner(name("owner", &owner)?),
        token: Token(token),
        ttl: ttl_ms.map(|ttl| within("ttl_ms", ttl, 1, TTL_MS_MAX)).transpose()?,
    };
    match gate.api()?.router.lock(op, &asked).await? {
        Reply::Granted(grant) => Ok(reply(&acquired(lock, owner, &grant))),
        _ => Err(crate::router::Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn get(State(gate): Shared, Query(query): Query<wire::GetLock>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let question = Question::Lock { name: LockName(name("name", &query.name)?) };
    let answer = api.router.query(ShardId::COORDINATION, question, api.limits.request_time).await?;
    let Answer::Lock(found) = answer else { return Err(crate::router::Error::OutcomeUnknown.into()) };
    let free = wire::Lock { name: query.name, holders: Vec::new(), waiters: Vec::new() };
    Ok(reply(&found.map_or(free, view)))
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
    Ok(reply(&wire::Locks { locks: found.into_iter().map(view).collect(), next }))
}

fn acquired(name: String, owner: String, grant: &Grant) -> wire::Acquired {
    let Millis(ttl_ms) = grant.ttl;
    let mode = mode(grant.mode);
    wire::Acquired {
        acquired: true,
        name,
        owner,
        mode,
        token: grant.token.0,
        ttl_ms,
        expires_in_ms: grant.left.0,
    }
}

fn view(lock: LockView) -> wire::Lock {
    let holders = lock.holders.into_iter().map(|holder| wire::Holder {
        owner: holder.owner.0.to_string(),
        mode: mode(holder.mode),
        token: holder.token.0,
        ttl_ms: holder.ttl.0,
        expires_in_ms: holder.left.0,
    });
    let waiters = lock.waiters.into_iter().map(|waiter| wire::Waiter {
        owner: waiter.owner.0.to_string(),
        mode: mode(waiter.mode),
        waits_ms: waiter.left.0,
    });
    wire::Lock { name: lock.name.0.to_string(), holders: holders.collect(), waiters: waiters.collect() }
}

pub(super) fn mode(mode: command::Mode) -> wire::Mode {
    match mode {
        command::Mode::Exclusive => wire::Mode::Exclusive,
        command::Mode::Shared => wire::Mode::Shared,
    }
}
