//! A node that leaves as planned takes nothing with it: its lines travel, and the hit rate stays.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually};

const KEYS: usize = 600;
const SOON: Duration = Duration::from_secs(20);

/// Reads every key at a node: how many had their value, and where from.
async fn read_all(node: Http) -> BTreeMap<String, usize> {
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    let answer = node.post("/cache/mget", &json!({"keys": keys})).await.unwrap();
    let mut found = BTreeMap::new();
    for (n, result) in answer.json["results"].as_array().unwrap().iter().enumerate() {
        let source = match &result["value"] {
            Value::Null => result["error"]["code"].as_str().unwrap_or("?"),
            value => {
                assert_eq!(*value, n);
                result["source"].as_str().unwrap()
            }
        };
        *found.entry(source.to_owned()).or_default() += 1;
    }
    found
}

/// How many copies of moved lines a node has not asked for again yet.
async fn displaced(node: Http) -> u64 {
    node.get("/cache/stats").await.unwrap().json["displaced_waiting"].as_u64().unwrap()
}

async fn ring_epoch(node: Http) -> u64 {
    node.get("/cluster").await.unwrap().json["ring_epoch"].as_u64().unwrap()
}

#[tokio::test]
async fn every_value_survives_a_planned_leave_and_is_in_memory_again_before_anybody_reads_it() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let leaver = cluster.others(leader)[0];
    let rest = cluster.others(leaver);
    let nodes = [cluster.http(rest[0]), cluster.http(rest[1])];
    let entries: Vec<Value> = (0..KEYS).map(|n| json!({"key": format!("k{n}"), "value": n})).collect();
    assert_eq!(nodes[0].post("/cache/mset", &json!({"entries": entries})).await.unwrap().status, 200);
    for node in nodes {
        read_all(node).await;
        assert_eq!(read_all(node).await, BTreeMap::from([("local".into(), KEYS)]), "all of it is here");
    }
    let before = ring_epoch(nodes[0]).await;
    cluster.node(leaver).terminate(SOON).await;
    for node in nodes {
        eventually("the ring has changed", SOON, || async move {
            (ring_epoch(node).await > before).then_some(())
        })
        .await;
        eventually(
            "nothing is displaced",
            SOON,
            || async move { (displaced(node).await == 0).then_some(()) },
        )
        .await;
    }
    for node in nodes {
        assert_eq!(read_all(node).await, BTreeMap::from([("local".into(), KEYS)]), "the hit rate stays");
    }
}
