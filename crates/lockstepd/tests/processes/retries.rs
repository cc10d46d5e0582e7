//! Requests that are sent again under their own name, to whichever node: done once, answered the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kit::Cluster;

const MESSAGES: usize = 12;

async fn push(cluster: &Cluster, count: usize) {
    for number in 0..count {
        let answer = cluster.http(1).post("/queue/push", &json!({"payload": number})).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_repeated_pop_or_receive_gets_its_first_messages_whatever_the_queue_holds_by_now() {
    let cluster = Cluster::start(3).await;
    let pop = json!({"request_id": "pop"});
    let receive = json!({"request_id": "receive", "max": 2, "visibility_ms": 600_000});

    // One message alone: when the retry comes, no shard has anything to deliver.
    push(&cluster, 1).await;
    let popped = cluster.http(1).post("/queue/pop", &pop).await.unwrap().json;
    assert!(popped["message"]["id"].is_string(), "{popped}");
    for id in cluster.ids() {
        assert_eq!(cluster.http(id).post("/queue/pop", &pop).await.unwrap().json, popped, "at node {id}");
    }
    push(&cluster, 1).await;
    let received = cluster.http(2).post("/queue/receive", &receive).await.unwrap().json;
    assert_eq!(received["messages"].as_array().map(Vec::len), Some(1), "{received}");

    // Then every shard has some: a retry must not begin with another one.
    push(&cluster, MESSAGES).await;
    for id in cluster.ids() {
        assert_eq!(cluster.http(id).post("/queue/pop", &pop).await.unwrap().json, popped, "at node {id}");
        let again = cluster.http(id).post("/queue/receive", &receive).await.unwrap().json;
        assert_eq!(receipts(&again), receipts(&received), "at node {id}");
    }
    let mut left = BTreeSet::new();
    while let Some(id) = cluster.http(3).get("/queue/pop").await.unwrap().json["message"]["id"].as_str() {
        left.insert(id.to_owned());
    }
    assert_eq!(left.len(), MESSAGES, "retries took more than the first answer");
}

fn receipts(received: &Value) -> Vec<String> {
    let messages = received["messages"].as_array().cloned().unwrap_or_default();
    messages.iter().map(|message| message["receipt"].to_string()).collect()
}
