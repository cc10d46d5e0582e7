//! What near caches ask: see `lockstep_client::wire::NearOpen`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::Millis;
use lockstep_core::cache::{near, space};
use lockstep_core::names::Origin;
use serde_json::value::RawValue;

use super::{Named, known};
use crate::cache::{Lent, NearNews, Subject};
use crate::http::body::Json;
use crate::http::error::Fault;
use crate::http::limits::WAIT_MS_MAX;
use crate::http::names::{request_id, within};
use crate::http::{Shared, reply};

pub(crate) async fn open(State(gate): Shared, body: Json<wire::NearOpen>) -> Result<Response, Fault> {
    let api = gate.api()?;
    body.value.request_id.as_deref().map(request_id).transpose()?;
    let client = api.cache.near_open()?;
    Ok(reply(&wire::NearOpened { client, lease_ms_max: near::LEASE.0 }))
}

pub(crate) async fn get(State(gate): Shared, body: Json<wire::NearGet>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::NearGet { client, key, namespace, request_id: _ } = body.value;
    let named = Named::new("key", key, &known(api, namespace).await?)?;
    let Lent { entry, lease: of } =
        api.cache.near_get(&client, &named.key, api.limits.request_time).await??;
    let (value, version, left) = match entry {
        Some(entry) => (Some(json(&entry.value)?), Some(entry.version.to_string()), entry.left),
        None => (None, None, None),
    };
    let expires_in_ms = left.map(|left| left.0);
    Ok(reply(&wire::NearValue { key: named.text, value, version, expires_in_ms, lease: of.map(lease) }))
}

pub(crate) async fn sync(State(gate): Shared, body: Json<wire::NearSync>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::NearSync { client, acked, wait_ms, request_id: _ } = body.value;
    let wait = Duration::from_millis(within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?.0);
    let NearNews { notes, leases } = api.cache.near_sync(&client, acked, wait).await?;
    let forget = notes.into_iter().map(|note| word(note.seq, &note.subject)).collect();
    Ok(reply(&wire::NearNews { forget, leases: leases.into_iter().map(lease).collect() }))
}

pub(crate) async fn close(State(gate): Shared, body: Json<wire::NearClose>) -> Result<Response, Fault> {
    gate.api()?.cache.near_close(&body.value.client);
    Ok(reply(&wire::NearGone { closed: true }))
}

fn word(seq: u64, subject: &Subject) -> wire::NearNote {
    let (key, namespace) = match subject {
        Subject::Key(key) => {
            let (namespace, key) = space::split(key);
            (Some(key.to_owned()), Some(namespace.to_owned()))
        }
        Subject::Namespace(namespace) => (None, Some(namespace.to_string())),
        Subject::Everything => (None, None),
    };
    wire::NearNote { seq, key, namespace }
}

fn lease((of, span): (Origin, Millis)) -> wire::NearLease {
    wire::NearLease { of: format!("{}.{}", of.node, of.incarnation.0), ms: span.0 }
}

/// Values are JSON, as it came.
fn json(value: &[u8]) -> Result<Box<RawValue>, Fault> {
    serde_json::from_slice(value).map_err(|_| Fault::bad("The value under this key is no JSON."))
}
