//! Callers that hang up before they are answered: what they were granted is free again at once, not
//! when its lease ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Cluster, Http, eventually, within};

const CALLERS: usize = 120;
/// Long enough that nothing here ends by itself.
const TTL_MS: u64 = 600_000;

/// Sends a request without waiting for its answer.
async fn ask(http: Http, target: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    http.send(format!("{head}{body}").as_bytes()).await.unwrap()
}

/// Hangs up, and waits until the node has noticed: it closes its side unanswered.
async fn hang_up(mut stream: TcpStream) {
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the node hangs up, too", Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty(), "answered before it hung up: {}", String::from_utf8_lossy(&answer));
}

/// One caller for each way to ask without waiting, over and over.
fn request(nth: usize) -> Value {
    let (name, owner) = (format!("h{nth}"), format!("o{nth}"));
    let mut body = match nth % 5 {
        0 => json!({"name": name}),
        1 => json!({"name": "crowd", "mode": "shared"}),
        2 => json!({"name": "permits", "mode": "permit", "limit": CALLERS}),
        3 => json!({"names": [name, format!("{name}-too")]}),
        // Behind somebody who stays.
        _ => json!({"name": "kept", "wait_ms": 60_000}),
    };
    body["owner"] = owner.into();
    body["ttl_ms"] = TTL_MS.into();
    if nth.is_multiple_of(2) {
        body["request_id"] = format!("r{nth}").into();
    }
    body
}

async fn done(http: Http, target: &str, body: Value) -> Value {
    let answer = http.post(target, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text);
    answer.json
}

#[tokio::test]
async fn what_was_granted_to_callers_that_hung_up_is_free_at_once() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let node = cluster.others(leader)[0];
    let (near, far) = (cluster.http(leader), cluster.http(node));
    let keep = json!({"name": "kept", "owner": "keeper", "ttl_ms": TTL_MS});
    let kept = done(near, "/lock/acquire", keep.clone()).await;
    let reader = json!({"name": "read", "owner": "reader", "mode": "shared", "ttl_ms": TTL_MS});
    let reader = done(near, "/lock/acquire", reader).await;

    // Requests stay on their way until everybody has hung up.
    cluster.cut_one_way(node, leader);
    let mut callers = Vec::new();
    for nth in 0..CALLERS {
        callers.push(ask(far, "/lock/acquire", &request(nth)).await);
    }
    // Holders who ask for what they have, and for more, are told nothing either.
    callers.push(ask(far, "/lock/acquire", &keep).await);
    let up = json!({"name": "read", "owner": "reader", "token": reader["token"]});
    callers.push(ask(far, "/lock/upgrade", &up).await);
    futures::future::join_all(callers.into_iter().map(hang_up)).await;
    cluster.heal();

    let free = "all was granted, and is free that nobody knows of, and only that";
    eventually(free, Duration::from_secs(30), || async {
        // Tokens count what was granted before.
        let after = done(far, "/lock/acquire", json!({"name": "after", "owner": "o"})).await;
        done(far, "/lock/release", json!({"name": "after", "owner": "o"})).await;
        let granted = after["token"].as_u64()? - reader["token"].as_u64()?;
        let locks = near.get("/lock/list").await.ok()?.json["locks"].as_array()?.clone();
        let idle = locks.iter().all(|lock| lock["waiters"].as_array().is_some_and(Vec::is_empty));
        let names: Vec<_> = locks.iter().filter_map(|lock| lock["name"].as_str()).collect();
        let only = names == ["kept", "read"] && locks[1]["holders"][0]["mode"] == "shared";
        (granted > CALLERS as u64 && idle && only).then_some(())
    })
    .await;
    let renew = |held: &Value| json!({"name": held["name"], "owner": held["owner"], "token": held["token"]});
    assert_eq!(done(far, "/lock/renew", renew(&kept)).await["mode"], "exclusive");
    assert_eq!(done(far, "/lock/renew", renew(&reader)).await["mode"], "shared");
}
