//! Nonsense on every port: each a clear refusal, and nobody dies of it.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Cluster, Http};

#[tokio::test]
async fn bad_requests_get_a_code_that_says_so() {
    let cluster = Cluster::start(1).await;
    let node = cluster.http(1);
    let long = "n".repeat(10_000);
    let bodies = [
        ("/lock/acquire", String::new()),
        ("/lock/acquire", "{".to_owned()),
        ("/lock/acquire", "[]".to_owned()),
        ("/lock/acquire", "\u{0}".to_owned()),
        ("/lock/acquire", json!({"name": "a"}).to_string()),
        ("/lock/acquire", json!({"name": 7, "owner": "o"}).to_string()),
        ("/lock/acquire", json!({"name": "", "owner": "o"}).to_string()),
        ("/lock/acquire", json!({"name": long, "owner": "o"}).to_string()),
        ("/lock/acquire", json!({"name": "a", "owner": "o", "mode": "mine"}).to_string()),
        ("/lock/acquire", json!({"name": "a", "owner": "o", "ttl_ms": -1}).to_string()),
        ("/lock/acquire", json!({"name": "a", "owner": "o", "ttl_ms": 1e300}).to_string()),
        ("/lock/acquire", json!({"name": "a", "owner": "o", "surprise": 1}).to_string()),
        ("/queue/push", json!({"key": "k"}).to_string()),
        ("/queue/ack", json!({"receipt": "not a receipt"}).to_string()),
        ("/cache/set", json!({"key": "", "value": 1}).to_string()),
    ];
    for (target, body) in bodies {
        let answer = node.post_text(target, &body).await.unwrap();
        let shown = &body[..body.len().min(80)];
        assert_eq!(answer.status, 400, "{target} {shown}: {}", answer.text);
        assert!(!answer.code().is_empty(), "{target} {shown}: {}", answer.text);
    }
    for (target, status) in
        [("/nowhere", 404), ("/cache/get?k=a&surprise=1", 400), ("/cache/get", 400), ("/lock/acquire", 405)]
    {
        let answer = node.get(target).await.unwrap();
        assert_eq!(answer.status, status, "{target}: {}", answer.text);
    }
    let huge = json!({"payload": "x".repeat(2 << 20)});
    // The node may close the connection before it has read all of it.
    if let Ok(answer) = node.post("/queue/push", &huge).await {
        assert_eq!(answer.status, 413, "{}", answer.text);
    }
    works(node).await;
}

#[tokio::test]
async fn garbage_on_any_port_kills_nobody() {
    let mut cluster = Cluster::start(3).await;
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let ports: Vec<u16> = cluster
        .ids()
        .iter()
        .flat_map(|id| {
            let node = cluster.node(*id);
            [node.http, node.peer]
        })
        .collect();
    let mut half_open = Vec::new();
    for port in ports {
        for length in [1, 4, 5, 64, 4_096, 200_000] {
            let mut bytes = vec![0; length];
            random.fill_bytes(&mut bytes);
            half_open.push(throw(port, &bytes).await);
            // A length that no frame may have, and one that never arrives.
            half_open.push(throw(port, &u32::MAX.to_be_bytes()).await);
            half_open.push(throw(port, &u32::MAX.to_le_bytes()).await);
            half_open.push(throw(port, &[0, 0, 1, 0, 7]).await);
        }
        half_open.push(throw(port, b"GET / HTTP/1.1\r\nhost: x\r\n").await);
        half_open.push(
            throw(port, b"POST /lock/acquire HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{").await,
        );
    }
    for id in cluster.ids() {
        assert!(cluster.node(id).runs(), "node {id} has ended");
        works(cluster.http(id)).await;
    }
    drop(half_open);
    for id in cluster.ids() {
        assert!(cluster.node(id).runs(), "node {id} has ended");
        works(cluster.http(id)).await;
    }
}

/// Sends bytes, takes whatever comes back at once, and leaves the connection open.
async fn throw(port: u16, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    // The node may have hung up already, which is its right.
    stream.write_all(bytes).await.ok()?;
    let mut answer = [0; 1024];
    let _ = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut answer)).await;
    Some(stream)
}

async fn works(node: Http) {
    let body = json!({"name": "still-here", "owner": "o", "ttl_ms": 60_000});
    let answer = node.post("/lock/acquire", &body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(node.get("/health").await.unwrap().status, 200);
}
