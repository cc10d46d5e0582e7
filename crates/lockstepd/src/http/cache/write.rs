//! Writing one key: set, delete, incr.

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;

use super::{Named, fits, known, raw, ttl, version, versions, write, written};
use crate::cache::{Change, Error, Write};
use crate::http::body::Json;
use crate::http::error::Fault;
use crate::http::names::{guard, request_id};
use crate::http::{Shared, reply};

pub(crate) async fn set(State(gate): Shared, body: Json<wire::Set>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Set { key, value, if_version, if_absent, .. } = body.value;
    fits(api, &value)?;
    let if_version = versions(if_version.as_deref(), if_absent)?;
    let fill = body.value.fill_token.as_deref().map(|text| version("fill_token", text)).transpose()?;
    let (ttl, id) = (ttl(body.value.ttl_ms)?, body.value.request_id);
    id.as_deref().map(request_id).transpose()?;
    let claim = guard(body.value.guard)?;
    let named = Named::new("key", key, &known(api, body.value.namespace).await?)?;
    let plain = Write::new(named.key, Change::Set(raw(value)));
    let set = Write { ttl, if_version, if_absent, fill, request_id: id, ..plain };
    Ok(reply(&written(named.text, write(api, claim.as_ref(), set).await?)?))
}

pub(crate) async fn delete(State(gate): Shared, body: Json<wire::Delete>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Delete { key, if_version, namespace, guard: guarded, request_id: id } = body.value;
    let if_version = versions(if_version.as_deref(), false)?;
    id.as_deref().map(request_id).transpose()?;
    let claim = guard(guarded)?;
    let named = Named::new("key", key, &known(api, namespace).await?)?;
    let delete = Write { if_version, request_id: id, ..Write::new(named.key, Change::Delete) };
    let deleted = write(api, claim.as_ref(), delete).await?.version.is_some();
    Ok(reply(&wire::Deleted { key: named.text, deleted }))
}

pub(crate) async fn incr(State(gate): Shared, body: Json<wire::Incr>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Incr { key, by, ttl_ms, namespace, guard: guarded, request_id: id } = body.value;
    let ttl = ttl(ttl_ms)?;
    id.as_deref().map(request_id).transpose()?;
    let claim = guard(guarded)?;
    let named = Named::new("key", key, &known(api, namespace).await?)?;
    let add = Write { ttl, request_id: id, ..Write::new(named.key, Change::Add(by)) };
    let done = write(api, claim.as_ref(), add).await?;
    let (Some(version), Some(value)) = (done.version, done.sum) else {
        return Err(Error::OutcomeUnknown.into());
    };
    Ok(reply(&wire::Counted { key: named.text, value, version: version.to_string() }))
}
