//! HTTP, as thin as it gets: check, ask the router or the cache, word the answer.
//!
//! It knows nothing of logs or peers. What may be asked and what is answered stands in
//! `lockstep_client::wire`.

mod body;
mod cache;
mod cluster;
mod error;
mod hit;
pub mod limits;
mod locks;
mod names;
mod overload;
mod queues;
mod receipt;
pub mod server;
mod sessions;
mod sse;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock};

use axum::Router as Routes;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use lockstep_client::wire::{self, Code};
use lockstep_core::names::NodeId;

use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::router::Router;
use error::Fault;
pub use hit::hit;
use limits::Limits;

/// What handlers stand on.
pub struct Api {
    /// Locks, queues, the cluster.
    pub router: Arc<Router>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// What people are told of the store.
    pub store: crate::engine::About,
    /// How much a request may ask for.
    pub limits: Limits,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// An [`Api`] that comes later: until then a node that is still forming says so.
#[derive(Default)]
pub struct Gate {
    api: OnceLock<Api>,
    node: u64,
    leader: Mutex<Option<(NodeId, HeaderValue)>>,
    metrics: Arc<Metrics>,
    in_hand: overload::InHand,
}

type Shared = State<Arc<Gate>>;

const NODE: HeaderName = HeaderName::from_static("lockstep-node");
const LEADER: HeaderName = HeaderName::from_static("lockstep-leader");

impl Gate {
    /// A closed gate of this node.
    pub fn new(node: NodeId, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            api: OnceLock::new(),
            node: node.0,
            leader: Mutex::default(),
            metrics,
            in_hand: overload::InHand::default(),
        })
    }

    /// The node serves from now on.
    pub fn open(&self, api: Api) {
        let _ = self.api.set(api);
    }

    fn api(&self) -> Result<&Api, Fault> {
        self.api.get().ok_or_else(|| {
            Fault::new(
                Code::Forming,
                "This node has not joined its cluster yet, which needs every member once; ask again soon.",
            )
        })
    }

    /// The leader's URL as a header, made anew only when the leader changes.
    fn leader_header(&self) -> Option<HeaderValue> {
        let router = &self.api.get()?.router;
        let id = router.leader_id()?;
        let mut known = self.leader.lock().expect("nothing panics while it holds this");
        match &*known {
            Some((of, value)) if *of == id => Some(value.clone()),
            _ => {
                let value = HeaderValue::from_str(&router.leader()?.url).ok()?;
                *known = Some((id, value.clone()));
                Some(value)
            }
        }
    }
}

/// Every route of a node.
pub fn app(gate: Arc<Gate>) -> Routes {
    Routes::new()
        .route("/lock/acquire", post(locks::acquire))
        .route("/lock/release", post(locks::release))
        .route("/lock/renew", post(locks::renew))
        .route("/lock/upgrade", post(locks::upgrade))
        .route("/lock/downgrade", post(locks::downgrade))
        .route("/lock/break", post(locks::break_lock))
        .route("/lock/audit", get(locks::audit))
        .route("/lock/watch", get(locks::watch))
        .route("/session/open", post(sessions::open))
        .route("/session/renew", post(sessions::renew))
        .route("/session/close", post(sessions::close))
        .route("/lock/get", get(locks::get))
        .route("/lock/list", get(locks::list))
        .route("/queue/push", post(queues::push))
        .route("/queue/pop", get(queues::pop_get).post(queues::pop_post))
        .route("/queue/receive", post(queues::receive))
        .route("/queue/ack", post(queues::ack))
        .route("/queue/nack", post(queues::nack))
        .route("/queue/extend", post(queues::extend))
        .route("/queue/stats", get(queues::stats))
        .route("/queue/list", get(queues::list))
        .route("/queue/configure", post(queues::configure))
        .route("/queue/peek", get(queues::peek))
        .route("/queue/purge", post(queues::purge))
        .route("/queue/redrive", post(queues::redrive))
        .route("/queue/resume", post(queues::resume))
        .route("/cache/set", post(cache::set))
        .route("/cache/get", get(cache::get))
        .route("/cache/delete", post(cache::delete))
        .route("/cache/incr", post(cache::incr))
        .route("/cache/mget", post(cache::mget))
        .route("/cache/mset", post(cache::mset))
        .route("/cache/flush", post(cache::flush))
        .route("/cache/load", post(cache::load))
        .route("/cache/line", get(cache::line))
        .route("/cache/watch", get(cache::watch))
        .route("/cache/stats", get(cache::stats))
        .route("/cache/namespace", post(cache::namespace))
        .route("/cache/near/open", post(cache::near::open))
        .route("/cache/near/get", post(cache::near::get))
        .route("/cache/near/sync", post(cache::near::sync))
        .route("/cache/near/close", post(cache::near::close))
        .route("/leader", get(cluster::leader))
        .route("/cluster", get(cluster::cluster))
        .route("/health", get(cluster::health))
        .route("/ready", get(cluster::ready))
        .route("/metrics", get(cluster::metrics))
        .route("/openapi.json", get(cluster::openapi))
        .route("/", get(cluster::front))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        .layer(middleware::from_fn_with_state(Arc::clone(&gate), sign))
        .with_state(gate)
}

/// Says on every reply who answered and who leads, and counts it.
async fn sign(State(gate): Shared, request: Request, next: Next) -> Response {
    let timer = gate.metrics.begin(request.uri().path());
    let max = gate.api.get().map_or(usize::MAX, |api| api.limits.requests_max);
    let mut response = match gate.in_hand.enter(request.uri().path(), max) {
        Ok(_place) => next.run(request).await,
        Err(fault) => fault.into_response(),
    };
    timer.end(response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(NODE, HeaderValue::from(gate.node));
    if let Some(leader) = gate.leader_header() {
        headers.insert(LEADER, leader);
    }
    response
}

async fn no_route(uri: Uri) -> Fault {
    Fault::new(Code::NotFound, format!("There is no route {}; GET / lists them all.", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Fault {
    let message = format!("{} does not take {method}; GET / lists every route and its method.", uri.path());
    Fault::new(Code::MethodNotAllowed, message)
}

/// JSON that must not be kept by any cache on the way.
fn fresh(body: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

fn reply<T: serde::Serialize>(value: &T) -> Response {
    fresh(serde_json::to_vec(value).expect("our shapes always serialize"))
}

/// One result for each item, in order.
fn batch<T>(results: impl Iterator<Item = Result<T, Fault>>) -> wire::Results<T> {
    let one = |result: Result<T, Fault>| match result {
        Ok(done) => wire::OneResult::Done(done),
        Err(fault) => wire::OneResult::Failed(fault.into_wire()),
    };
    wire::Results { results: results.map(one).collect() }
}
