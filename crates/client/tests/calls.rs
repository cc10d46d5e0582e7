//! How the client asks: whom, how often, and with what when it asks again.

mod kit;

use std::time::Duration;

use kit::{Node, Say, dead_url, fault};
use lockstep_client::{Client, Code, Error};
use serde_json::json;

fn client(urls: &[&str], timeout_ms: u64) -> Client {
    let builder = Client::builder(urls.iter().copied()).timeout(Duration::from_millis(timeout_ms));
    builder.attempt_timeout(Duration::from_millis(300)).build().unwrap()
}

fn push() -> serde_json::Value {
    json!({"payload": 1})
}

#[tokio::test]
async fn a_broken_connection_is_asked_again_at_another_node_with_the_same_request_id() {
    let broken = Node::start(|_, _| Say::HangUp).await;
    let good = Node::start(|_, _| Say::Answer(200, json!({}))).await;
    good.name_leader(&broken.url);
    let client = client(&[&good.url], 10_000);
    for _ in 0..2 {
        let reply = client.post("/lock/release", json!({"name": "a", "owner": "b"})).await.unwrap();
        assert_eq!(reply.status, 200);
    }
    let (broken, good) = (broken.seen(), good.seen());
    assert_eq!((broken.len(), good.len()), (1, 2));
    assert_eq!(broken[0].body, good[1].body);
    assert!(good[1].body["request_id"].is_string(), "{good:?}");
    assert_ne!(good[0].body["request_id"], good[1].body["request_id"]);
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_again_with_the_same_bytes() {
    let node = Node::start(|number, _| match number {
        0 => Say::Answer(504, fault("outcome_unknown")),
        1 => Say::Answer(503, fault("no_leader")),
        2 => Say::HangUp,
        3 => Say::Nothing,
        _ => Say::Answer(200, json!({"id": "1"})),
    })
    .await;
    let reply = client(&[&node.url], 20_000).post("/queue/push", push()).await.unwrap();
    assert_eq!((reply.status, reply.node), (200, Some(1)));
    let seen = node.seen();
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.iter().all(|request| request.body == seen[0].body), "{seen:?}");
}

#[tokio::test]
async fn tries_are_apart_and_few() {
    let node = Node::start(|_, _| Say::Answer(503, fault("no_leader"))).await;
    let error = client(&[&node.url], 1_500).post("/queue/push", push()).await.unwrap_err();
    assert!(error.is(Code::NoLeader), "{error}");
    assert!((3..=12).contains(&node.seen().len()), "{} tries", node.seen().len());
}

#[tokio::test]
async fn a_refusal_stands_and_is_typed() {
    let node = Node::start(|_, _| Say::Answer(409, fault("held"))).await;
    let error = client(&[&node.url], 10_000).lock("a").acquire().await.unwrap_err();
    assert!(error.is(Code::Held) && matches!(error, Error::Refused { status: 409, .. }), "{error}");
    assert_eq!(node.paths(), ["/lock/acquire"]);
}

#[tokio::test]
async fn a_code_of_a_later_version_is_still_a_refusal() {
    let node = Node::start(|_, _| Say::Answer(409, fault("tangled"))).await;
    let error = client(&[&node.url], 10_000).lock("a").acquire().await.unwrap_err();
    assert_eq!(error.code(), None);
    assert!(error.to_string().contains("tangled"), "{error}");
}

#[tokio::test]
async fn locks_go_to_the_leader_that_replies_name_and_elsewhere_when_it_is_gone() {
    let leader = Node::start(|_, _| Say::Answer(200, json!({"released": true}))).await;
    let follower = Node::start(|_, _| Say::Answer(200, json!({"released": true}))).await;
    follower.name_leader(&leader.url);
    let client = client(&[&follower.url], 10_000);
    for _ in 0..3 {
        client.post("/lock/release", json!({"name": "a", "owner": "b"})).await.unwrap();
    }
    assert_eq!((follower.seen().len(), leader.seen().len()), (1, 2));
    client.post("/queue/push", push()).await.unwrap();
    assert_eq!(follower.seen().len(), 2, "what is no lock stays where it was");
    drop(leader);
    client.post("/lock/release", json!({"name": "a", "owner": "b"})).await.unwrap();
    assert_eq!(follower.seen().len(), 3);
}

#[tokio::test]
async fn what_was_certainly_not_done_differs_from_what_may_have_been() {
    let dead = dead_url().await;
    let error = client(&[&dead], 400).post("/queue/push", push()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let silent = Node::start(|_, _| Say::Nothing).await;
    let error = client(&[&silent.url, &dead], 700).post("/queue/push", push()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
}
