//! Namespaces as wholes, filling values in, and what the protocol sees of a key.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire::{self, Code};
use lockstep_core::cache::message::Place;
use lockstep_core::command::NamespaceOp;
use lockstep_core::guards::Guard;
use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::{Op, Reply};
use serde_json::json;

use super::get::value;
use super::{Named, known, one_key};
use crate::cache::{self, Line, Loaded};
use crate::http::body::{Json, Query, asked};
use crate::http::error::Fault;
use crate::http::limits::{BYTES_MAX, DELAY_MS_MAX, LOAD_LEASE_MS_MAX, WAIT_MS_MAX};
use crate::http::names::{guard, name, request_id, within};
use crate::http::{Shared, fresh, reply};

pub(crate) async fn namespace(State(gate): Shared, body: Json<wire::Namespace>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Namespace { namespace, write, max_bytes, default_ttl_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let write_back = match write.as_deref() {
        None => None,
        Some("through") => Some(false),
        Some("back") => Some(true),
        Some(other) => return Err(Fault::bad(format!("write is {other:?}; it must be through or back."))),
    };
    let bytes_max = max_bytes.map(|bytes| within("max_bytes", bytes, 1, BYTES_MAX)).transpose()?;
    let ttl = default_ttl_ms.map(|ttl| within("default_ttl_ms", ttl, 1, DELAY_MS_MAX)).transpose()?;
    let op = NamespaceOp::Configure {
        name: name("namespace", &namespace)?,
        write_back,
        bytes_max: bytes_max.map(|bytes| bytes.0),
        ttl,
    };
    match api.router.execute(ShardId::COORDINATION, Op::Namespace(op), &asked).await? {
        Reply::Namespace { settings, revision } => {
            api.cache.spread(revision, api.limits.request_time).await.map_err(|_| {
                Fault::new(
                    Code::OutcomeUnknown,
                    "It is in the log, and some node has not heard of it yet. Ask again.",
                )
            })?;
            Ok(reply(&wire::NamespaceSettings {
                namespace,
                write: if settings.write_back { "back" } else { "through" }.into(),
                max_bytes: settings.bytes_max,
                default_ttl_ms: settings.ttl.map(|ttl| ttl.0),
            }))
        }
        _ => Err(crate::router::Error::OutcomeUnknown.into()),
    }
}

pub(crate) async fn flush(State(gate): Shared, body: Json<wire::Flush>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Flush { namespace, guard: guarded, request_id: id } = body.value;
    id.as_deref().map(request_id).transpose()?;
    let claim = guard(guarded)?;
    let namespace = known(api, namespace).await?;
    let work = |guard: Option<Guard>| {
        let flushed = api.cache.flush(&namespace, guard, api.limits.flush_time);
        async move { super::fence(flushed.await) }
    };
    api.router.guarded(claim.as_ref(), api.limits.request_time, work).await?.map_err(|error| {
        let message = match error {
            cache::Error::OutcomeUnknown => {
                "A newer token of the guard's lock was seen when some nodes may have emptied it already. The lock is lost: leave it to its holder."
            }
            _ => "Not every node has emptied it in time. Flush again; twice is harmless.",
        };
        Fault::new(Code::OutcomeUnknown, message)
    })?;
    Ok(reply(&wire::Flushed { namespace, flushed: true }))
}

pub(crate) async fn load(State(gate): Shared, body: Json<wire::Load>) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::Load { key, lease_ms, wait_ms, namespace, request_id: id } = body.value;
    id.as_deref().map(request_id).transpose()?;
    let lease = within("lease_ms", lease_ms, 1, LOAD_LEASE_MS_MAX)?;
    let wait = within("wait_ms", wait_ms.unwrap_or(lease_ms), 0, WAIT_MS_MAX)?;
    let named = Named::new("key", key, &known(api, namespace).await?)?;
    let wait = Duration::from_millis(wait.0);
    match api.cache.load(named.key, lease, wait, api.limits.request_time).await? {
        Loaded::Hit(entry) => Ok(fresh(value(&named.text, &entry))),
        Loaded::Fill { token, left } => {
            Ok(reply(&wire::Fill { key: named.text, fill_token: token.to_string(), expires_in_ms: left.0 }))
        }
        Loaded::Loading { left } => {
            let message = "Somebody else fills the value in. Ask again after a pause, or wait with wait_ms.";
            Err(Fault::new(Code::Loading, message).with("expires_in_ms", left.0))
        }
    }
}

pub(crate) async fn line(
    State(gate): Shared,
    Query(query): Query<wire::LineQuery>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let text = one_key(query.k, query.key)?;
    let namespace = known(api, query.namespace).await?;
    let named = Named::new("k", text, &namespace)?;
    let Line { home, ring_epoch, places } = api.cache.line(&named.key).await;
    let home = home.map(|home| home.node);
    let is_home = |(node, place): &&(NodeId, Option<Place>)| Some(*node) == home && place.is_some();
    let at_home = places.iter().find(is_home).and_then(|(_, place)| place.clone()?.line);
    let at_home = at_home.unwrap_or_default();
    let node = |(node, place): &(NodeId, Option<Place>)| {
        let copy = place.as_ref().and_then(|place| place.copy.clone());
        let line = place.as_ref().and_then(|place| place.line.clone());
        let as_home = line.filter(|line| line.owner.is_none() && line.version.is_some());
        let version = copy.as_ref().map_or(as_home.as_ref().and_then(|l| l.version), |copy| copy.version);
        let state = match (&copy, &as_home) {
            (Some(copy), _) => copy.state,
            (None, Some(_)) => 'S',
            (None, None) => 'I',
        };
        wire::LineNode {
            node: node.0,
            reachable: place.is_some(),
            state: state.to_string(),
            version: version.map(|version| version.to_string()),
            lease_ms: copy.map(|copy| copy.lease.0),
            home_lease_ms: at_home.sharers.iter().find(|(of, _)| of == node).map(|(_, left)| left.0),
        }
    };
    Ok(reply(&wire::Line {
        key: named.text,
        namespace,
        home: home.map(|home| home.0),
        ring_epoch,
        version: at_home.version.map(|version| version.to_string()),
        expires_in_ms: at_home.left.map(|left| left.0),
        changing: at_home.is_changing,
        nodes: places.iter().map(node).collect(),
    }))
}

/// A query that says nothing.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

pub(crate) async fn stats(State(gate): Shared, Query(Nothing {}): Query<Nothing>) -> Result<Response, Fault> {
    let figures = gate.api()?.cache.figures();
    let mut shown: serde_json::Map<String, serde_json::Value> =
        figures.plain.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let stalls =
        figures.stalls.into_iter().map(|(ms_max, writes)| json!({"ms_max": ms_max, "writes": writes}));
    shown.insert("write_stalls".into(), stalls.collect());
    Ok(reply(&shown))
}
