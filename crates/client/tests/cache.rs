//! The cache's requests: what the client sends for what was asked of it.

mod kit;

use kit::{Node, Say, fault};
use std::time::Duration;

use lockstep_client::cache::Loaded;
use lockstep_client::{Client, Code};
use serde_json::json;

#[tokio::test]
async fn namespaces_guards_and_counters_reach_the_node() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/cache/set" => Say::Answer(412, fault("fenced")),
        "/cache/incr" => Say::Answer(200, json!({"key": "k", "value": 5, "version": "1.2"})),
        "/cache/flush" => Say::Answer(200, json!({"namespace": "n", "flushed": true})),
        "/cache/get" => Say::Answer(404, fault("miss")),
        _ => kit::acquired(request, 3),
    })
    .await;
    let client = Client::new([&node.url]).unwrap();
    let guard = client.lock("a").acquire().await.unwrap();
    let cache = client.cache().namespace("n");
    let refused = cache.set("k", &1).guard(guard.guard().unwrap()).send().await.unwrap_err();
    assert!(refused.is(Code::Fenced), "{refused}");
    assert_eq!(cache.incr("k", -2).await.unwrap(), 5);
    assert_eq!(cache.get::<u32>("k").await.unwrap(), None);
    cache.flush().await.unwrap();
    let seen = node.seen();
    let body = |path: &str| &seen.iter().find(|request| request.path == path).unwrap().body;
    assert_eq!(body("/cache/set")["guard"], json!({"lock": "a", "token": 3}));
    assert_eq!((&body("/cache/incr")["by"], &body("/cache/incr")["namespace"]), (&json!(-2), &json!("n")));
    assert_eq!(body("/cache/flush")["namespace"], "n");
}

#[tokio::test]
async fn batches_and_loads_have_one_outcome_for_each_key() {
    let node = Node::start(|_, request| match request.path.as_str() {
        "/cache/mget" => {
            let hit = json!({"key": "a", "value": 1, "version": "1.1", "state": "S", "source": "local"});
            Say::Answer(200, json!({"results": [hit, fault("miss"), fault("bad_request")]}))
        }
        "/cache/mset" => {
            Say::Answer(200, json!({"results": [{"key": "a", "version": "1.2"}, fault("bad_request")]}))
        }
        "/cache/load" => Say::Answer(200, json!({"key": "k", "fill_token": "1.3", "expires_in_ms": 500})),
        _ => Say::Answer(409, fault("fill_void")),
    })
    .await;
    let cache = Client::new([&node.url]).unwrap().cache();
    let found = cache.get_many::<u32>(&["a", "b", ""]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().as_ref().unwrap().value, 1);
    assert!(matches!(found[1], Ok(None)) && found[2].as_ref().unwrap_err().is(Code::BadRequest));
    let set = cache.set_many(&[("a", 1), ("", 2)]).await.unwrap();
    assert!(set[0].as_ref().unwrap() == "1.2" && set[1].as_ref().unwrap_err().is(Code::BadRequest));
    let Loaded::Fill(fill) = cache.load::<u32>("k", Duration::from_secs(1)).await.unwrap() else {
        panic!("there is a value")
    };
    assert!(fill.set(&5).send().await.unwrap_err().is(Code::FillVoid));
    assert_eq!(node.seen().last().unwrap().body["fill_token"], "1.3");
}
