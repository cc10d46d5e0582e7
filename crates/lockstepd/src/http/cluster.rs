//! The routes about the cluster and this node.

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use lockstep_client::wire;
use lockstep_client::wire::Code;

use super::error::{Fault, not_ready};
use super::{Shared, reply};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn leader(State(gate): Shared) -> Result<Response, Fault> {
    let api = gate.api()?;
    let leader = api.router.leader().ok_or_else(|| {
        Fault::new(
            Code::NoLeader,
            "The cluster has no leader that this node knows of. Ask again in a moment.",
        )
    })?;
    let node = wire::Node { id: leader.id.0, url: leader.url };
    Ok(reply(&wire::Leader { leader: node, epoch: leader.epoch.0, node: gate.node }))
}

pub(super) async fn cluster(State(gate): Shared) -> Result<Response, Fault> {
    let api = gate.api()?;
    let router = &api.router;
    let leader = router.leader_id();
    let members = router.members().into_iter().map(|member| wire::Member {
        id: member.id.0,
        role: if leader == Some(member.id) { "leader" } else { "follower" }.into(),
        alive: member.alive,
        url: member.url,
        peer: member.peer,
    });
    let shards = router.shards().into_iter().map(|shard| wire::Shard {
        id: shard.id.0,
        leader: shard.leader.map(|node| node.0),
        replicas: shard.replicas.iter().map(|node| node.0).collect(),
        epoch: shard.epoch.0,
        applied: shard.applied,
    });
    Ok(reply(&wire::Cluster {
        node: gate.node,
        members: members.collect(),
        shards: shards.collect(),
        ring_epoch: router.ring_epoch(),
        store: api.store.kind().into(),
        store_warnings: api.store.warnings(),
        version: VERSION.into(),
    }))
}

pub(super) async fn health(State(gate): Shared) -> Response {
    let warnings = gate.api().map(|api| api.store.warnings()).unwrap_or_default();
    reply(&wire::Health { status: "ok".into(), node: gate.node, version: VERSION.into(), warnings })
}

pub(super) async fn ready(State(gate): Shared) -> Result<Response, Fault> {
    let reasons = gate.api()?.router.not_ready();
    let ready = reasons.is_empty();
    let response = reply(&wire::Ready { ready, reasons });
    Ok(if ready { response } else { not_ready(response) })
}

pub(super) async fn metrics(State(gate): Shared) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], gate.metrics.encode()).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

pub(super) async fn front() -> Html<&'static str> {
    Html(include_str!("front.html"))
}
