//! The routes of the cache. A hit in this node's memory is the shortest way through this program.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use lockstep_client::wire::{self, Code};
use serde_json::value::RawValue;

use super::body::{Json, Query};
use super::error::{Fault, not_modified};
use super::limits::DELAY_MS_MAX;
use super::names::{name, namespace, request_id, within};
use super::{Shared, fresh, reply};
use crate::cache::{Entry, Version, Write};

pub(super) async fn get(
    State(gate): Shared,
    Query(query): Query<wire::Get>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let key = match (query.k, query.key) {
        (Some(key), None) | (None, Some(key)) => key,
        _ => return Err(Fault::bad("Say which key: ?k=KEY or ?key=KEY, exactly one of them.")),
    };
    name("k", &key)?;
    namespace(query.namespace.as_deref())?;
    let skip_local = match query.mode.as_deref() {
        None | Some("local") => false,
        Some("home") => true,
        Some(other) => {
            return Err(Fault::bad(format!("mode {other:?} is unknown: use home, or leave it out.")));
        }
    };
    let local = if skip_local { None } else { api.cache.get_local(&key) };
    let found = match local {
        Some(entry) => Some(entry),
        None => api.cache.get(&key, skip_local, api.limits.request_time).await?,
    };
    let entry = found.ok_or_else(|| Fault::new(Code::Miss, "There is no value under this key."))?;
    let etag = HeaderValue::from_str(&format!("\"{}\"", entry.version)).map_err(|_| Fault::bad("key"))?;
    if headers.get(header::IF_NONE_MATCH).is_some_and(|seen| *seen == etag) {
        return Ok(not_modified(etag));
    }
    let mut response = fresh(value(&key, &entry));
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

pub(super) async fn set(State(gate): Shared, body: Json<wire::Set>) -> Result<Response, Fault> {
    let wire::Set { key, value, ttl_ms, if_version, if_absent, namespace: space, request_id: id } =
        body.value;
    let api = gate.api()?;
    name("key", &key)?;
    namespace(space.as_deref())?;
    id.as_deref().map(request_id).transpose()?;
    if value.get().len() > api.limits.payload_bytes_max {
        let max = api.limits.payload_bytes_max;
        return Err(Fault::new(Code::PayloadTooLarge, format!("The value may have at most {max} bytes.")));
    }
    if if_absent && if_version.is_some() {
        return Err(Fault::bad("if_version and if_absent exclude each other."));
    }
    let write = Write {
        key: key.clone(),
        value: Some(raw(value)),
        ttl: ttl_ms.map(|ttl| within("ttl_ms", ttl, 1, DELAY_MS_MAX)).transpose()?,
        if_version: if_version.as_deref().map(version).transpose()?,
        if_absent,
        request_id: id,
    };
    match api.cache.write(write, api.limits.request_time).await? {
        Some(version) => Ok(reply(&wire::Written { key, version: version.to_string() })),
        None => Err(crate::cache::Error::OutcomeUnknown.into()),
    }
}

pub(super) async fn delete(State(gate): Shared, body: Json<wire::Delete>) -> Result<Response, Fault> {
    let wire::Delete { key, if_version, namespace: space, request_id: id } = body.value;
    let api = gate.api()?;
    name("key", &key)?;
    namespace(space.as_deref())?;
    id.as_deref().map(request_id).transpose()?;
    let write = Write {
        key: key.clone(),
        value: None,
        ttl: None,
        if_version: if_version.as_deref().map(version).transpose()?,
        if_absent: false,
        request_id: id,
    };
    let deleted = api.cache.write(write, api.limits.request_time).await?.is_some();
    Ok(reply(&wire::Deleted { key, deleted }))
}

/// Written by hand: the value is JSON already, and this is the hottest reply of all.
fn value(key: &str, entry: &Entry) -> Vec<u8> {
    let mut body = Vec::with_capacity(entry.value.len() + key.len() + 128);
    body.extend_from_slice(b"{\"key\":");
    serde_json::to_writer(&mut body, key).expect("writing to memory cannot fail");
    body.extend_from_slice(b",\"value\":");
    body.extend_from_slice(&entry.value);
    let source = if entry.local { "local" } else { "home" };
    let rest =
        format!(",\"version\":\"{}\",\"state\":\"{}\",\"source\":\"{source}\"", entry.version, entry.state);
    body.extend_from_slice(rest.as_bytes());
    if let Some(left) = entry.left {
        body.extend_from_slice(format!(",\"expires_in_ms\":{}", left.0).as_bytes());
    }
    body.push(b'}');
    body
}

fn raw(value: Box<RawValue>) -> bytes::Bytes {
    String::from(Box::<str>::from(value)).into_bytes().into()
}

fn version(text: &str) -> Result<Version, Fault> {
    let parse = || {
        let (epoch, counter) = text.split_once('.')?;
        Some(Version { epoch: epoch.parse().ok()?, counter: counter.parse().ok()? })
    };
    parse()
        .ok_or_else(|| Fault::bad("if_version must be a version as a reply showed it, such as \"7.1834\"."))
}
