//! Sessions of consumers: one heartbeat keeps all receipts, and the end of a session returns them at once,
//! whoever is killed meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually};

const SOON: Duration = Duration::from_secs(20);
/// Longer than any of these tests: nothing comes back by this.
const LONG_MS: u64 = 600_000;
const KEYS: u64 = 12;

async fn ok(node: Http, route: &str, body: Value) -> Value {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

async fn open(node: Http, ttl_ms: u64) -> Value {
    ok(node, "/session/open", json!({"owner": "consumer", "ttl_ms": ttl_ms})).await["session"].clone()
}

/// One message for each of so many keys: over all shards.
async fn fill(node: Http, queue: &str) {
    let messages: Vec<Value> =
        (0..KEYS).map(|key| json!({"key": format!("k{key}"), "payload": key})).collect();
    ok(node, "/queue/push", json!({"queue": queue, "messages": messages})).await;
}

/// Receives everything: each receive is of one shard.
async fn take_all(cluster: &Cluster, queue: &str, session: &Value, visibility_ms: u64) -> Vec<Value> {
    let mut taken = Vec::new();
    for turn in 0.. {
        let body = json!({"queue": queue, "max": KEYS, "session": session, "visibility_ms": visibility_ms});
        let messages = ok(cluster.http(turn % 3 + 1), "/queue/receive", body).await["messages"].clone();
        match messages.as_array().expect("messages") {
            none if none.is_empty() => break,
            some => taken.extend(some.iter().cloned()),
        }
    }
    assert_eq!(taken.len() as u64, KEYS);
    taken
}

async fn in_flight(node: Http, queue: &str) -> Option<u64> {
    let answer =
        node.patient(Duration::from_secs(2)).get(&format!("/queue/stats?queue={queue}")).await.ok()?;
    answer.json["in_flight"].as_u64()
}

async fn refused(node: Http, route: &str, body: Value) -> (u16, String) {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    (answer.status, answer.code().to_owned())
}

/// What came back has been tried once more, and has not failed.
async fn came_back(node: Http, queue: &str) {
    let body = json!({"queue": queue, "visibility_ms": LONG_MS});
    let message = ok(node, "/queue/receive", body).await["messages"][0].clone();
    assert_eq!((&message["attempts"], &message["failures"]), (&json!(2), &json!(0)), "{message}");
}

#[tokio::test]
async fn one_heartbeat_keeps_all_receipts_and_an_end_returns_them_whoever_dies() {
    let mut cluster = Cluster::start(3).await;
    a_heartbeat_keeps_what_would_come_back(&cluster).await;
    a_close_returns_everything_before_it_answers(&cluster).await;
    a_dead_consumer_is_noticed_by_its_session_alone(&cluster).await;
    an_end_is_told_though_both_leaders_die(&mut cluster).await;
}

async fn a_heartbeat_keeps_what_would_come_back(cluster: &Cluster) {
    fill(cluster.http(1), "kept").await;
    let session = open(cluster.http(1), 30_000).await;
    let other = open(cluster.http(2), 30_000).await;
    let taken = take_all(cluster, "kept", &session, 1_000).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2_500) {
        let beat = ok(cluster.http(2), "/session/renew", json!({"session": session})).await;
        assert_eq!(beat["receipts"], KEYS, "{beat}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let beat = ok(cluster.http(3), "/session/renew", json!({"session": other})).await;
    assert!(beat.get("receipts").is_none(), "it has received nothing: {beat}");
    let receipts: Vec<&Value> = taken.iter().map(|message| &message["receipt"]).collect();
    let acked = ok(cluster.http(3), "/queue/ack", json!({"receipts": receipts[1..]})).await;
    for result in acked["results"].as_array().unwrap() {
        assert_eq!(*result, json!({"acknowledged": true}), "{acked}");
    }
    // Without a heartbeat its own time-out counts, and that is a failure.
    let message = eventually("the last one comes back", SOON, || async {
        let body = json!({"queue": "kept", "wait_ms": 1_000});
        let answer = cluster.http(1).post("/queue/receive", &body).await.ok()?;
        Some(answer.json["messages"][0].clone()).filter(|message| !message.is_null())
    })
    .await;
    assert_eq!((&message["attempts"], &message["failures"]), (&json!(2), &json!(1)), "{message}");
}

async fn a_close_returns_everything_before_it_answers(cluster: &Cluster) {
    fill(cluster.http(1), "closed").await;
    let session = open(cluster.http(1), 30_000).await;
    let taken = take_all(cluster, "closed", &session, LONG_MS).await;
    ok(cluster.http(3), "/session/close", json!({"session": session})).await;
    assert_eq!(in_flight(cluster.http(2), "closed").await, Some(0));
    came_back(cluster.http(2), "closed").await;
    let receive = |queue: &str| json!({"queue": queue, "session": session, "wait_ms": 20_000});
    for queue in ["closed", "nothing-here"] {
        let refusal = refused(cluster.http(1), "/queue/receive", receive(queue)).await;
        assert_eq!(refusal, (410, "session_expired".into()), "{queue}");
    }
    let ack = json!({"receipt": taken[0]["receipt"]});
    assert_eq!(refused(cluster.http(1), "/queue/ack", ack).await, (409, "stale_receipt".into()));
}

async fn a_dead_consumer_is_noticed_by_its_session_alone(cluster: &Cluster) {
    fill(cluster.http(1), "lost").await;
    let session = open(cluster.http(1), 1_000).await;
    take_all(cluster, "lost", &session, LONG_MS).await;
    // Nobody sends a heartbeat any more.
    eventually("its messages are back", Duration::from_secs(6), || async {
        in_flight(cluster.http(2), "lost").await.filter(|count| *count == 0)
    })
    .await;
    came_back(cluster.http(3), "lost").await;
}

/// The node that leads a queue shard dies, so that nobody can be told; then the one that knows of the end.
async fn an_end_is_told_though_both_leaders_die(cluster: &mut Cluster) {
    fill(cluster.http(1), "orphans").await;
    let session = open(cluster.http(1), 30_000).await;
    take_all(cluster, "orphans", &session, LONG_MS).await;
    let home = cluster.leader().await;
    let victim = cluster.others(home)[0];
    let witness = cluster.others(home)[1];
    cluster.node(victim).kill();
    let close = json!({"session": session, "request_id": "close-once"});
    let closed = eventually("it is closed", SOON, || async {
        cluster.http(home).patient(Duration::from_secs(5)).post("/session/close", &close).await.ok()
    });
    assert_eq!(closed.await.status, 200);
    cluster.node(home).kill();
    cluster.node(victim).start();
    cluster.leader_among(&[victim, witness]).await;
    eventually("its messages are back", SOON, || async {
        in_flight(cluster.http(witness), "orphans").await.filter(|count| *count == 0)
    })
    .await;
    cluster.node(home).start();
    cluster.all_ready().await;
    came_back(cluster.http(witness), "orphans").await;
}
