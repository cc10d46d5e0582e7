//! Reading one key. A hit in this node's memory is the shortest way through this program.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use lockstep_client::wire::{self, Code};

use super::{Named, known, one_key};
use crate::cache::Entry;
use crate::http::body::Query;
use crate::http::error::{Fault, not_modified};
use crate::http::names::guard;
use crate::http::{Api, Shared, fresh};

pub(crate) async fn get(
    State(gate): Shared,
    Query(query): Query<wire::Get>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Get { k, key, namespace, mode, guard_lock, guard_token, guard_strict } = query;
    let text = one_key(k, key)?;
    let skip_local = match mode.as_deref() {
        None | Some("local") => false,
        Some("home") => true,
        Some(other) => {
            return Err(Fault::bad(format!("mode {other:?} is unknown: use home, or leave it out.")));
        }
    };
    let named = Named::new("k", text, &known(api, namespace).await?)?;
    let guarded = claim(guard_lock, guard_token, guard_strict)?;
    let skip_local = skip_local || guarded.is_some();
    if let Some(claim) = guard(guarded)? {
        mark(api, &claim, &named).await?;
    }
    let found = api.cache.get(&named.key, skip_local, api.limits.request_time).await?;
    let entry = found.ok_or_else(|| Fault::new(Code::Miss, "There is no value under this key."))?;
    let etag = HeaderValue::from_str(&format!("\"{}\"", entry.version)).map_err(|_| Fault::bad("key"))?;
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|seen| is_among(seen, &etag)) {
        return Ok(not_modified(etag));
    }
    let mut response = fresh(value(&named.text, &entry));
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

/// A guard in a query.
fn claim(
    lock: Option<String>,
    token: Option<u64>,
    strict: Option<bool>,
) -> Result<Option<wire::Guard>, Fault> {
    match (lock, token, strict) {
        (Some(lock), Some(token), strict) => {
            Ok(Some(wire::Guard { lock, token, strict: strict.unwrap_or(false) }))
        }
        (None, None, None) => Ok(None),
        _ => Err(Fault::bad("A guard needs guard_lock and guard_token, both of them.")),
    }
}

/// Notes at the home that the claim's token was seen.
async fn mark(api: &Api, claim: &crate::router::Claim, named: &Named) -> Result<(), Fault> {
    let timeout = api.limits.request_time;
    let work = |guard: Option<lockstep_core::guards::Guard>| async move {
        match guard {
            Some(guard) => super::fence(api.cache.guard(&named.key, &guard, timeout).await),
            None => Ok(Ok(())),
        }
    };
    Ok(api.router.guarded(Some(claim), timeout, work).await??)
}

/// Whether a list such as `"7.1", W/"7.2"` or `*` names this entity.
fn is_among(seen: &HeaderValue, etag: &HeaderValue) -> bool {
    let is_it = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == etag.as_bytes();
    seen.to_str().is_ok_and(|list| list.split(',').map(str::trim).any(is_it))
}

/// Written by hand: the value is JSON already, and this is the hottest reply of all.
pub(crate) fn value(key: &str, entry: &Entry) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_entity_tags_names_what_stands_in_it() {
        let etag = HeaderValue::from_static("\"7.1\"");
        for list in ["\"7.1\"", "*", "\"7.0\", \"7.1\"", "W/\"7.1\""] {
            assert!(is_among(&HeaderValue::from_static(list), &etag), "{list}");
        }
        for list in ["", "7.1", "\"7.11\"", "\"7.0\",\"8.1\""] {
            assert!(!is_among(&HeaderValue::from_static(list), &etag), "{list}");
        }
    }
}
