//! The cache's requests: what the client sends for what was asked of it.

mod kit;

use kit::{Node, Say, fault};
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
