//! What is HTTP alone: every bad request is refused before anything is asked of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use lockstep_core::names::{Incarnation, Origin, ShardId};
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::clock::Clock;
use crate::peer::{self, Lane, Peers, Service};
use crate::router::Placement;

/// A network in which nobody answers.
struct Nobody;

#[async_trait]
impl Peers for Nobody {
    async fn call(
        &self,
        _: NodeId,
        _: Lane,
        _: Service,
        _: Bytes,
        _: Duration,
    ) -> Result<Bytes, peer::Error> {
        Err(peer::Error::Unreachable)
    }
}

/// The routes of a node that reaches nobody: a request that is in order gets 503.
fn lonely() -> Routes {
    let (node, other) = (NodeId(1), NodeId(2));
    let members = BTreeMap::from([(node, "one".into()), (other, "two".into())]);
    let replicas = (0..=3).map(|shard| (ShardId(shard), vec![other])).collect();
    let peers: Arc<dyn Peers> = Arc::new(Nobody);
    let origin = Origin { node, incarnation: Incarnation(1) };
    let router = Router::new(origin, Placement { members, replicas }, Arc::clone(&peers), Clock::tokio());
    let cache = Cache::new(node, Clock::tokio(), peers, crate::cache::Limits::default());
    let limits = Limits { request_time: Duration::from_millis(1), ..Limits::around(1024) };
    let gate = Gate::new(node, Arc::default());
    gate.open(Api {
        router,
        cache,
        store: crate::engine::About::embedded(),
        limits,
        metrics: Arc::default(),
    });
    app(gate)
}

async fn ask(method: &str, uri: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned())).unwrap();
    let response = lonely().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn assert_refused(method: &str, uri: &str, body: &str, status: u16, code: &str, names: &str) {
    let (got, answer) = ask(method, uri, body).await;
    let error = &answer["error"];
    assert_eq!((got, error["code"].as_str()), (status, Some(code)), "{method} {uri} {body}: {answer}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(names), "{method} {uri} {body}: {message:?} does not name {names:?}");
}

#[tokio::test]
async fn every_bad_request_gets_its_code_and_names_what_is_wrong() {
    let long = "x".repeat(513);
    let big = format!(r#"{{"payload":"{}"}}"#, "x".repeat(1025));
    let huge = format!(r#"{{"payload":"{}"}}"#, "x".repeat(100_000));
    let long_name = format!(r#"{{"name":"{long}","owner":"o"}}"#);
    let long_id = format!(r#"{{"name":"n","owner":"o","request_id":"{}"}}"#, "x".repeat(129));
    let long_key = format!(r#"{{"payload":1,"key":"{long}"}}"#);
    let batch = format!(r#"{{"messages":[{}]}}"#, vec![r#"{"payload":1}"#; 1001].join(","));
    let many: Vec<_> = (0..65).map(|nth| format!("n{nth}")).collect();
    let many_names = format!(r#"{{"owner":"o","names":{}}}"#, serde_json::to_string(&many).unwrap());
    let big_metadata = format!(r#"{{"name":"n","owner":"o","metadata":"{}"}}"#, "x".repeat(4_096));
    let long_cache_key = format!(r#"{{"key":"{long}","value":1}}"#);
    let big_value = format!(r#"{{"key":"k","value":"{}"}}"#, "x".repeat(1025));
    let cases: &[(&str, &str, u16, &str, &str)] = &[
        ("/lock/acquire", "", 400, "bad_request", "EOF"),
        ("/cache/set?namespace=n", r#"{"key":"k","value":1}"#, 400, "bad_request", "query"),
        ("/lock/acquire", "{", 400, "bad_request", "EOF"),
        ("/lock/acquire", "[]", 400, "bad_request", "object"),
        ("/lock/acquire", r#" ["n","o","exclusive",30000,0,"id"]"#, 400, "bad_request", "object"),
        ("/lock/acquire", r#"{"name":"n"}"#, 400, "bad_request", "owner"),
        ("/lock/acquire", r#"{"name":"n","owner":7}"#, 400, "bad_request", "owner"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","colour":"red"}"#, 400, "bad_request", "colour"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","session":"s"}"#, 400, "bad_request", "session"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","session":"s07"}"#, 400, "bad_request", "session"),
        (
            "/lock/acquire",
            r#"{"name":"n","owner":"o","session":"s7","ttl_ms":9}"#,
            400,
            "bad_request",
            "ttl_ms",
        ),
        ("/lock/acquire", r#"{"owner":"o"}"#, 400, "bad_request", "name"),
        ("/lock/acquire", r#"{"owner":"o","names":[]}"#, 400, "bad_request", "name"),
        ("/lock/acquire", r#"{"owner":"o","name":"n","names":["m"]}"#, 400, "bad_request", "names"),
        ("/lock/acquire", r#"{"owner":"o","names":["m","n","m"]}"#, 400, "bad_request", "twice"),
        ("/lock/acquire", r#"{"owner":"o","names":["m",""]}"#, 400, "bad_request", "names"),
        ("/lock/acquire", &many_names, 400, "bad_request", "64"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","mode":"permit"}"#, 400, "bad_request", "limit"),
        (
            "/lock/acquire",
            r#"{"name":"n","owner":"o","mode":"permit","limit":0}"#,
            400,
            "bad_request",
            "limit",
        ),
        ("/lock/acquire", r#"{"name":"n","owner":"o","limit":2}"#, 400, "bad_request", "limit"),
        ("/lock/acquire", &big_metadata, 400, "bad_request", "metadata"),
        (
            "/lock/acquire",
            r#"{"name":"n","owner":"o","lock_delay_ms":60001}"#,
            400,
            "bad_request",
            "lock_delay_ms",
        ),
        ("/lock/release", r#"{"name":"n","owner":""}"#, 400, "bad_request", "owner"),
        ("/lock/release", r#"{"owner":"o"}"#, 400, "bad_request", "name"),
        ("/lock/renew", r#"{"name":"n","owner":"o","token":1,"ttl_ms":0}"#, 400, "bad_request", "ttl_ms"),
        ("/lock/upgrade", r#"{"name":"n","owner":"o"}"#, 400, "bad_request", "token"),
        (
            "/lock/upgrade",
            r#"{"name":"n","owner":"o","token":1,"wait_ms":60001}"#,
            400,
            "bad_request",
            "wait_ms",
        ),
        ("/lock/downgrade", r#"{"name":"","owner":"o","token":1}"#, 400, "bad_request", "name"),
        ("/lock/break", r#"{"name":"n","by":"ann"}"#, 400, "bad_request", "reason"),
        ("/lock/break", r#"{"name":"n","by":"ann","reason":""}"#, 400, "bad_request", "reason"),
        ("/lock/break", r#"{"name":"n","by":"","reason":"r"}"#, 400, "bad_request", "by"),
        ("/session/open", r#"{"ttl_ms":1000}"#, 400, "bad_request", "owner"),
        ("/session/open", r#"{"owner":"o","ttl_ms":0}"#, 400, "bad_request", "ttl_ms"),
        ("/session/open", r#"{"owner":"o","ttl_ms":86400001}"#, 400, "bad_request", "ttl_ms"),
        ("/session/renew", "{}", 400, "bad_request", "session"),
        ("/session/renew", r#"{"sessions":[]}"#, 400, "bad_request", "sessions"),
        ("/session/close", r#"{"session":"17"}"#, 400, "bad_request", "session"),
        ("/lock/acquire", r#"{"name":"n","name":"m","owner":"o"}"#, 400, "bad_request", "name"),
        ("/lock/acquire", r#"{"name":"","owner":"o"}"#, 400, "bad_request", "name"),
        ("/lock/acquire", r#"{"name":"a\nb","owner":"o"}"#, 400, "bad_request", "name"),
        ("/lock/acquire", &long_name, 400, "bad_request", "name"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","mode":"sideways"}"#, 400, "bad_request", "mode"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","ttl_ms":0}"#, 400, "bad_request", "ttl_ms"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","ttl_ms":-1}"#, 400, "bad_request", "ttl_ms"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","ttl_ms":86400001}"#, 400, "bad_request", "ttl_ms"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","wait_ms":60001}"#, 400, "bad_request", "wait_ms"),
        ("/lock/acquire", r#"{"name":"n","owner":"o","request_id":""}"#, 400, "bad_request", "request_id"),
        ("/lock/acquire", &long_id, 400, "bad_request", "request_id"),
        ("/lock/renew", r#"{"name":"n","owner":"o"}"#, 400, "bad_request", "token"),
        ("/queue/push", "{}", 400, "bad_request", "payload"),
        ("/queue/push", r#"{"payload":1,"messages":[]}"#, 400, "bad_request", "messages"),
        ("/queue/push", r#"{"messages":[]}"#, 400, "bad_request", "messages"),
        ("/queue/push", r#"{"messages":[{"payload":1}],"colour":2}"#, 400, "bad_request", "colour"),
        ("/queue/push", r#"{"payload":1,"queue":""}"#, 400, "bad_request", "queue"),
        ("/queue/push", r#"{"payload":1,"key":""}"#, 400, "bad_request", "key"),
        ("/queue/push", r#"{"payload":1,"delay_ms":-5}"#, 400, "bad_request", "delay_ms"),
        ("/queue/push", r#"{"payload":1,"priority":10}"#, 400, "bad_request", "priority"),
        ("/queue/push", r#"{"payload":1,"ttl_ms":0}"#, 400, "bad_request", "ttl_ms"),
        ("/queue/push", r#"{"payload":1,"dedup_id":""}"#, 400, "bad_request", "dedup_id"),
        ("/queue/push", r#"{"messages":[{"payload":1}],"priority":1}"#, 400, "bad_request", "priority"),
        ("/queue/push", &long_key, 400, "bad_request", "key"),
        ("/queue/push", &batch, 400, "bad_request", "messages"),
        ("/queue/push", r#"{"payload":1,"guard":{"lock":"l","token":0}}"#, 400, "bad_request", "token"),
        ("/queue/push", r#"{"payload":1,"guard":{"lock":"l"}}"#, 400, "bad_request", "token"),
        ("/queue/push", &big, 413, "payload_too_large", "1024"),
        ("/queue/push", &huge, 413, "payload_too_large", "body"),
        ("/queue/receive", r#"{"max":0}"#, 400, "bad_request", "max"),
        ("/queue/receive", r#"{"max":1001}"#, 400, "bad_request", "max"),
        ("/queue/receive", r#"{"visibility_ms":0}"#, 400, "bad_request", "visibility_ms"),
        ("/queue/ack", "{}", 400, "bad_request", "receipt"),
        ("/queue/ack", r#"{"receipt":"r1.2.3"}"#, 400, "bad_receipt", "receipt"),
        ("/queue/ack", r#"{"receipt":"x","receipts":["y"]}"#, 400, "bad_request", "exactly one"),
        ("/queue/ack", r#"{"receipts":[]}"#, 400, "bad_request", "receipts"),
        ("/queue/ack", r#"{"receipt":"r1.2.3","push":[{"payload":1}]}"#, 400, "bad_receipt", "receipt"),
        ("/queue/ack", r#"{"receipt":"r1.2.3","push":[]}"#, 400, "bad_request", "push"),
        ("/queue/ack", r#"{"receipt":"x","push":[{"payload":1,"colour":2}]}"#, 400, "bad_request", "colour"),
        ("/queue/nack", r#"{"receipt":"x","delay_ms":-1}"#, 400, "bad_request", "delay_ms"),
        ("/queue/nack", "{}", 400, "bad_request", "receipt"),
        ("/queue/configure", r#"{"max_attempts":10001}"#, 400, "bad_request", "max_attempts"),
        ("/queue/configure", r#"{"on_poison":"panic"}"#, 400, "bad_request", "on_poison"),
        ("/queue/configure", r#"{"queue":"q","dead_letter":"q"}"#, 400, "bad_request", "dead_letter"),
        ("/queue/configure", r#"{"visibility_ms":0}"#, 400, "bad_request", "visibility_ms"),
        ("/queue/configure", r#"{"max_messages":-1}"#, 400, "bad_request", "max_messages"),
        ("/queue/purge", "{}", 400, "bad_request", "queue"),
        ("/queue/redrive", r#"{"max":0}"#, 400, "bad_request", "max"),
        ("/queue/resume", r#"{"key":""}"#, 400, "bad_request", "key"),
        ("/queue/nack", r#"{"receipt":"nonsense"}"#, 400, "bad_receipt", "receipt"),
        ("/queue/extend", r#"{"receipt":"x","visibility_ms":0}"#, 400, "bad_request", "visibility_ms"),
        ("/cache/set", r#"{"key":"k"}"#, 400, "bad_request", "value"),
        ("/cache/set", r#"{"key":"","value":1}"#, 400, "bad_request", "key"),
        ("/cache/set", r#"{"key":"k","value":1,"ttl_ms":0}"#, 400, "bad_request", "ttl_ms"),
        ("/cache/set", r#"{"key":"k","value":1,"if_version":"seven"}"#, 400, "bad_request", "if_version"),
        ("/cache/set", r#"{"key":"k","value":1,"namespace":""}"#, 400, "bad_request", "namespace"),
        ("/cache/set", r#"{"key":"k","value":1,"fill_token":"x"}"#, 400, "bad_request", "fill_token"),
        ("/cache/set", r#"{"key":"k","value":1,"ttl_ms":-1}"#, 400, "bad_request", "ttl_ms"),
        ("/cache/set", &long_cache_key, 400, "bad_request", "key"),
        ("/cache/set", &big_value, 413, "payload_too_large", "1024"),
        ("/cache/incr", r#"{"key":"k","by":1.5}"#, 400, "bad_request", "by"),
        ("/cache/mget", r#"{"keys":[]}"#, 400, "bad_request", "keys"),
        ("/cache/mset", r#"{"entries":[]}"#, 400, "bad_request", "entries"),
        ("/cache/mset", r#"{"entries":[{"key":"k","value":1,"x":1}]}"#, 400, "bad_request", "entries[0]"),
        ("/cache/load", r#"{"key":"k","lease_ms":0}"#, 400, "bad_request", "lease_ms"),
        ("/cache/load", r#"{"key":"k","lease_ms":60001}"#, 400, "bad_request", "lease_ms"),
        ("/cache/namespace", r#"{"namespace":"a","write":"around"}"#, 400, "bad_request", "write"),
        ("/cache/namespace", r#"{"namespace":"a","max_bytes":0}"#, 400, "bad_request", "max_bytes"),
        ("/cache/namespace", r#"{"namespace":"a","default_ttl_ms":0}"#, 400, "bad_request", "default_ttl_ms"),
        ("/cache/flush", r#"{"name":"a"}"#, 400, "bad_request", "name"),
        ("/cache/set", r#"{"key":"k","value":1,"guard":{"lock":"l"}}"#, 400, "bad_request", "token"),
    ];
    for (uri, body, status, code, names) in cases {
        assert_refused("POST", uri, body, *status, code, names).await;
    }
    assert_refused("GET", "/nowhere", "", 404, "not_found", "/nowhere").await;
    assert_refused("DELETE", "/lock/acquire", "", 405, "method_not_allowed", "DELETE").await;
    assert_refused("GET", "/queue/pop?colour=red", "", 400, "bad_request", "colour").await;
    assert_refused("GET", "/queue/peek?max=0", "", 400, "bad_request", "max").await;
    assert_refused("GET", "/queue/list?limit=1001", "", 400, "bad_request", "limit").await;
    assert_refused("GET", "/queue/pop?wait_ms=soon", "", 400, "bad_request", "wait_ms").await;
    assert_refused("GET", "/cache/get?k=%ff", "", 400, "bad_request", "UTF-8").await;
    assert_refused("GET", "/cache/get", "", 400, "bad_request", "k").await;
    assert_refused("GET", "/cache/get?k=a&mode=fast", "", 400, "bad_request", "fast").await;
    assert_refused("GET", "/cache/get?k=a&guard_lock=l", "", 400, "bad_request", "guard_token").await;
    assert_refused("GET", "/cache/line?k=a&key=b", "", 400, "bad_request", "k").await;
    assert_refused("GET", "/lock/list?limit=0", "", 400, "bad_request", "limit").await;
    assert_refused("GET", "/lock/audit?limit=1001", "", 400, "bad_request", "limit").await;
    assert_refused("GET", "/lock/watch", "", 400, "bad_request", "name").await;
    assert_refused("GET", "/lock/watch?name=n&after=soon", "", 400, "bad_request", "after").await;
}

#[tokio::test]
async fn each_bad_message_of_a_batch_is_an_error_of_its_own() {
    let big = format!(r#"{{"payload":"{}"}}"#, "x".repeat(1025));
    let long_key = format!(r#"{{"payload":1,"key":"{}"}}"#, "x".repeat(513));
    let cases = [
        (&*big, "payload_too_large", "1024"),
        (&*long_key, "bad_request", "key"),
        (r#"{"payload":1,"colour":2}"#, "bad_request", "colour"),
        (r#"{"payload":1,"delay_ms":-1}"#, "bad_request", "delay_ms"),
        (r#"{"payload":1,"priority":10}"#, "bad_request", "priority"),
        (r#"{"key":"k"}"#, "bad_request", "payload"),
        ("7", "bad_request", "struct"),
        (r#"{"payload":"good"}"#, "no_leader", "leader"),
    ];
    let messages: Vec<&str> = cases.iter().map(|(message, ..)| *message).collect();
    let (status, answer) =
        ask("POST", "/queue/push", &format!(r#"{{"messages":[{}]}}"#, messages.join(","))).await;
    assert_eq!(status, 200, "{answer}");
    for ((message, code, names), result) in cases.iter().zip(answer["results"].as_array().unwrap()) {
        assert_eq!(result["error"]["code"], *code, "{message}: {result}");
        assert!(result["error"]["message"].as_str().unwrap().contains(names), "{message}: {result}");
    }
    let (status, answer) = ask("POST", "/queue/ack", r#"{"receipts":["nonsense",""]}"#).await;
    assert_eq!(status, 200, "{answer}");
    for nth in [0, 1] {
        assert_eq!(answer["results"][nth]["error"]["code"], "bad_receipt", "{answer}");
    }
}

#[tokio::test]
async fn a_good_request_without_a_leader_is_told_so_whatever_its_content_type() {
    for body in [r#"{"name":"n","owner":"o"}"#, r#"{"name":"n","owner":"o","request_id":"once"}"#] {
        assert_refused("POST", "/lock/acquire", body, 503, "no_leader", "Ask again").await;
    }
    assert_refused("GET", "/leader", "", 503, "no_leader", "leader").await;
}

#[tokio::test]
async fn a_node_that_is_forming_says_so_and_is_healthy() {
    let app = app(Gate::new(NodeId(7), Arc::default()));
    let get = |uri: &str| Request::builder().uri(uri).body(Body::empty()).unwrap();
    let health = app.clone().oneshot(get("/health")).await.unwrap();
    assert_eq!(health.status(), 200);
    assert_eq!(health.headers()[&NODE], "7");
    assert_eq!(app.oneshot(get("/leader")).await.unwrap().status(), 503);
}

#[test]
fn every_code_is_documented() {
    let documented = include_str!("../../../../docs/errors.md");
    for code in Code::ALL {
        let row = format!("| `{}` |", code.as_str());
        assert!(documented.contains(&row), "docs/errors.md has no row for {}", code.as_str());
    }
}

#[tokio::test]
async fn the_published_document_names_every_route_and_no_other() {
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let (status, answer) = ask(&method.to_uppercase(), path, "").await;
            assert!(status != 404 && status != 405, "{method} {path} is documented: {status} {answer}");
        }
        let undocumented = ["get", "post"].into_iter().filter(|method| methods.get(method).is_none());
        for method in undocumented {
            let (status, _) = ask(&method.to_uppercase(), path, "").await;
            assert_eq!(status, 405, "{method} {path} is served and not documented");
        }
    }
    for route in crate::metrics::ROUTES {
        assert!(paths.contains_key(route), "{route} is not documented");
    }
}
