//! Several keys in one request, each for itself.

use axum::extract::State;
use axum::response::Response;
use futures::future::join_all;
use lockstep_client::wire::{self, Code};

use super::get::value;
use super::{Named, fits, known, raw, ttl, versions, write, written};
use crate::cache::{Change, Key, Write, Written};
use crate::http::body::Json;
use crate::http::error::Fault;
use crate::http::limits::{BATCH_MAX, REQUEST_ID_BYTES_MAX};
use crate::http::names::{guard, request_id, within};
use crate::http::{Api, Shared, fresh};
use crate::router::Claim;

/// Bytes of values in one answer.
const VALUES_BYTES_MAX: usize = 64 << 20;

const TOO_MUCH: &str = "The values before this one fill the answer (64 MiB). Ask for this key and those behind it in another request.";

pub(crate) async fn mget(State(gate): Shared, body: Json<wire::MultiGet>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::MultiGet { keys, namespace, request_id: _ } = body.value;
    within("The number of keys", keys.len() as u64, 1, BATCH_MAX as u64)?;
    let namespace = known(api, namespace).await?;
    let named: Vec<_> = keys.into_iter().map(|key| Named::new("keys", key, &namespace)).collect();
    let good: Vec<Key> = named.iter().flatten().map(|named| named.key.clone()).collect();
    let mut found = api.cache.get_many(&good, api.limits.request_time).await.into_iter();
    let mut bytes = 0;
    let one = |named: Result<Named, Fault>| {
        let named = named?;
        let entry = found.next().unwrap_or(Ok(None))?;
        let entry = entry.ok_or_else(|| {
            Fault::new(Code::Miss, "There is no value under this key.").with("key", named.text.clone())
        })?;
        bytes += entry.value.len();
        if bytes > VALUES_BYTES_MAX {
            return Err(Fault::new(Code::PayloadTooLarge, TOO_MUCH).with("key", named.text.clone()));
        }
        Ok(value(&named.text, &entry))
    };
    Ok(results(named.into_iter().map(one)))
}

pub(crate) async fn mset(State(gate): Shared, body: Json<wire::MultiSet>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::MultiSet { entries, namespace, guard: guarded, request_id: id } = body.value;
    within("The number of entries", entries.len() as u64, 1, BATCH_MAX as u64)?;
    if let Some(id) = &id {
        request_id(id)?;
        if id.len() > REQUEST_ID_BYTES_MAX - 4 {
            return Err(Fault::bad(
                "request_id leaves no room to number the entries: four bytes less, please.",
            ));
        }
    }
    let claim = guard(guarded)?;
    let namespace = known(api, namespace).await?;
    let sets: Vec<Result<(String, Write), Fault>> = entries
        .into_iter()
        .enumerate()
        .map(|(nth, entry)| one_set(api, entry, &namespace, id.as_ref().map(|id| format!("{id}#{nth}"))))
        .collect();
    let good: Vec<Write> = sets.iter().flatten().map(|(_, write)| write.clone()).collect();
    let mut done = write_all(api, claim.as_ref(), good).await.into_iter();
    let one = |set: Result<(String, Write), Fault>| {
        let (key, _) = set?;
        let outcome = done.next().unwrap_or_else(|| Err(crate::cache::Error::OutcomeUnknown.into()))?;
        Ok(serde_json::to_vec(&written(key, outcome)?).expect("our shapes always serialize"))
    };
    Ok(results(sets.into_iter().map(one)))
}

fn one_set(
    api: &Api,
    entry: wire::OneSet,
    namespace: &str,
    request_id: Option<String>,
) -> Result<(String, Write), Fault> {
    let wire::OneSet { key, value, ttl_ms, if_version, if_absent } = entry;
    fits(api, &value)?;
    let (if_version, ttl) = (versions(if_version.as_deref(), if_absent)?, ttl(ttl_ms)?);
    let named = Named::new("key", key, namespace)?;
    let plain = Write::new(named.key, Change::Set(raw(value)));
    Ok((named.text, Write { ttl, if_version, if_absent, request_id, ..plain }))
}

async fn write_all(api: &Api, claim: Option<&Claim>, writes: Vec<Write>) -> Vec<Result<Written, Fault>> {
    if claim.is_some() {
        return join_all(writes.into_iter().map(|one| write(api, claim, one))).await;
    }
    let outcomes = api.cache.write_many(writes, api.limits.request_time).await;
    outcomes.into_iter().map(|outcome| outcome.map_err(Fault::from)).collect()
}

/// Written by hand, because values are JSON already.
fn results(items: impl Iterator<Item = Result<Vec<u8>, Fault>>) -> Response {
    let mut body = b"{\"results\":[".to_vec();
    for (nth, item) in items.enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        let failed =
            |fault: Fault| serde_json::to_vec(&fault.into_wire()).expect("our shapes always serialize");
        body.extend(item.unwrap_or_else(failed));
    }
    body.extend_from_slice(b"]}");
    fresh(body)
}
