//! Nodes that stop without knowing it, as a suspended machine does, and then go on.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::kit::{Cluster, eventually, parse_answer, within};

/// Enough that every node is the home of some.
const KEYS: usize = 12;

#[tokio::test]
async fn a_node_that_slept_through_a_write_does_not_answer_the_old_value() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let sleeper = cluster.others(leader)[0];
    let writer = cluster.http(leader);
    for key in 0..KEYS {
        let set =
            writer.post("/cache/set", &json!({"key": format!("k{key}"), "value": "old"})).await.unwrap();
        assert_eq!(set.status, 200, "{}", set.text);
    }
    let copies = copies_at(&cluster, sleeper).await;
    assert!(copies > 0, "the sleeper holds no copy: the test proves nothing");

    cluster.node(sleeper).pause();
    write_new(&cluster, leader).await;
    // These lie in the sleeper's sockets when it wakes, before anything that could warn it.
    let mut asked = Vec::new();
    for key in 0..KEYS {
        let request = format!("GET /cache/get?k=k{key} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        asked.push(cluster.http(sleeper).send(request.as_bytes()).await.unwrap());
    }
    cluster.node(sleeper).resume();
    for (key, mut stream) in asked.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        within("an answer of the woken node", Duration::from_secs(20), read).await.unwrap();
        let answer = parse_answer(&bytes).unwrap();
        assert_ne!(answer.json["value"], "old", "k{key}: {}", answer.text);
        assert!(matches!(answer.status, 200 | 404 | 503 | 504), "k{key}: {} {}", answer.status, answer.text);
    }
    cluster.ready(sleeper).await;
    eventually("the woken node serves the new value or a miss", Duration::from_secs(20), || async {
        let answer = cluster.http(sleeper).get("/cache/get?k=k0").await.ok()?;
        assert_ne!(answer.json["value"], "old", "{}", answer.text);
        matches!(answer.status, 200 | 404).then_some(())
    })
    .await;
}

/// Reads every key twice through `node`; how many of them it then answers from its own memory.
async fn copies_at(cluster: &Cluster, node: u64) -> usize {
    let mut local = 0;
    for key in 0..KEYS {
        for _ in 0..2 {
            let answer = cluster.http(node).get(&format!("/cache/get?k=k{key}")).await.unwrap();
            assert_eq!(answer.json["value"], "old", "{}", answer.text);
            local += usize::from(answer.json["source"] == "local");
        }
    }
    local
}

/// Writes every key until its write has returned: those whose home sleeps wait for a new home.
async fn write_new(cluster: &Cluster, through: u64) {
    let node = cluster.http(through).patient(Duration::from_secs(5));
    let writes = (0..KEYS).map(|key| async move {
        let body = json!({"key": format!("k{key}"), "value": "new"});
        eventually("a write returns", Duration::from_secs(30), || async {
            node.post("/cache/set", &body).await.ok().filter(|answer| answer.status == 200).map(drop)
        })
        .await;
    });
    futures::future::join_all(writes).await;
}

#[tokio::test]
async fn a_paused_leader_is_replaced_and_follows_when_it_wakes() {
    let mut cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let held = json!({"name": "resource", "owner": "first", "ttl_ms": 600_000});
    let first = cluster.http(others[0]).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text);

    cluster.node(old).pause();
    assert_ne!(cluster.leader_among(&others).await, old);
    let release = json!({"name": "resource", "owner": "first", "token": first.json["token"]});
    let released = cluster.http(others[0]).post("/lock/release", &release).await.unwrap();
    assert_eq!(released.status, 200, "{}", released.text);
    let second = json!({"name": "resource", "owner": "second", "ttl_ms": 600_000});
    let second = cluster.http(others[1]).post("/lock/acquire", &second).await.unwrap();
    assert_eq!(second.status, 200, "{}", second.text);

    let request = b"GET /lock/get?name=resource HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let mut asked = cluster.http(old).send(request).await.unwrap();
    cluster.node(old).resume();
    let mut bytes = Vec::new();
    within("an answer of the woken leader", Duration::from_secs(20), asked.read_to_end(&mut bytes))
        .await
        .unwrap();
    let answer = parse_answer(&bytes).unwrap();
    let truthful = answer.status != 200 || answer.json["holders"][0]["owner"] == "second";
    assert!(truthful, "a deposed leader answered from before: {}", answer.text);
    cluster.leader().await;
}
