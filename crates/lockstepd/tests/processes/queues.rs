//! Queues of a real cluster: what one node is told to do, every node does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{Cluster, Http};

async fn ok(node: Http, route: &str, body: Value) -> Value {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

async fn refused(node: Http, route: &str, body: Value) -> (u16, String) {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    (answer.status, answer.code().to_owned())
}

async fn get(node: Http, target: &str) -> Value {
    let answer = node.get(target).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{target}: {}", answer.text);
    answer.json
}

async fn receive(node: Http, queue: &str) -> Value {
    ok(node, "/queue/receive", json!({"queue": queue})).await["messages"][0].clone()
}

#[tokio::test]
async fn the_whole_life_of_messages_over_every_node() {
    let cluster = Cluster::start(3).await;
    dead_letters_come_back(&cluster).await;
    limits_hold_over_all_shards_and_one_key_may_use_all(&cluster).await;
    acknowledge_and_push_in_one_step(&cluster).await;
    repeats_are_told_and_conflicts_refused(&cluster).await;
    receipts_are_checked(&cluster).await;
    purge_and_peek(&cluster).await;
    a_named_take_takes_once(&cluster).await;
    guards_are_checked(&cluster).await;
    waiting_consumers_wake_at_once_and_write_nothing(&cluster).await;
}

async fn dead_letters_come_back(cluster: &Cluster) {
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));
    let config = json!({"queue": "life", "max_attempts": 2, "on_poison": "park_key"});
    let configured = ok(one, "/queue/configure", config).await;
    assert_eq!(configured["dead_letter"], "life.dead", "{configured}");
    assert_eq!(
        ok(two, "/queue/configure", json!({"queue": "life", "visibility_ms": 60_000})).await["max_attempts"],
        2
    );
    let first = ok(two, "/queue/push", json!({"queue": "life", "key": "k", "payload": "poison"})).await;
    ok(three, "/queue/push", json!({"queue": "life", "key": "k", "payload": "next"})).await;
    for attempt in 1..=2 {
        let message = receive(cluster.http(attempt), "life").await;
        assert_eq!((&message["id"], &message["attempts"]), (&first["id"], &json!(attempt)), "{message}");
        assert_eq!(message["visible_in_ms"], 60_000, "{message}");
        ok(two, "/queue/nack", json!({"receipt": message["receipt"]})).await;
    }
    assert!(receive(one, "life").await.is_null(), "the key is parked");
    let stats = get(three, "/queue/stats?queue=life").await;
    assert_eq!(
        (&stats["dead"], &stats["parked_keys"], &stats["ready"]),
        (&json!(1), &json!(1), &json!(1)),
        "{stats}"
    );
    let peeked = get(two, "/queue/peek?queue=life.dead").await;
    assert_eq!(peeked["messages"][0]["payload"], "poison", "{peeked}");
    assert_eq!(ok(one, "/queue/redrive", json!({"queue": "life"})).await, json!({"redriven": 1, "dead": 0}));
    let again = receive(three, "life").await;
    assert_eq!((&again["id"], &again["failures"]), (&first["id"], &json!(0)), "{again}");
    ok(one, "/queue/ack", json!({"receipt": again["receipt"]})).await;
    assert_eq!(receive(two, "life").await["payload"], "next");
    let list = get(one, "/queue/list").await;
    assert!(list["queues"].as_array().unwrap().contains(&json!("life")), "{list}");
}

async fn limits_hold_over_all_shards_and_one_key_may_use_all(cluster: &Cluster) {
    ok(cluster.http(1), "/queue/configure", json!({"queue": "small", "max_messages": 10})).await;
    for nth in 0..10 {
        let body = json!({"queue": "small", "key": "hot", "payload": nth});
        ok(cluster.http(nth % 3 + 1), "/queue/push", body).await;
    }
    for key in ["hot", "other", "third", "fourth"] {
        let body = json!({"queue": "small", "key": key, "payload": 11});
        assert_eq!(refused(cluster.http(2), "/queue/push", body).await, (429, "queue_full".into()), "{key}");
    }
    get(cluster.http(3), "/queue/pop?queue=small").await;
    // Room is where the message was; another key borrows it.
    ok(cluster.http(1), "/queue/push", json!({"queue": "small", "key": "other", "payload": 12})).await;
    let body = json!({"queue": "small", "key": "fourth", "payload": 13});
    assert_eq!(refused(cluster.http(2), "/queue/push", body).await, (429, "queue_full".into()));
}

async fn acknowledge_and_push_in_one_step(cluster: &Cluster) {
    ok(cluster.http(1), "/queue/push", json!({"queue": "steps", "payload": "begin"})).await;
    let message = receive(cluster.http(2), "steps").await;
    let push: Vec<Value> =
        (0..6).map(|nth| json!({"queue": "next", "key": format!("k{nth}"), "payload": nth})).collect();
    let body = json!({"receipt": message["receipt"], "push": push, "request_id": "step-1"});
    let done = ok(cluster.http(3), "/queue/ack", body.clone()).await;
    assert_eq!(done["pushed"].as_array().unwrap().len(), 6, "{done}");
    let shards: std::collections::BTreeSet<u64> =
        done["pushed"].as_array().unwrap().iter().map(|one| one["shard"].as_u64().unwrap()).collect();
    assert!(shards.len() > 1, "the keys are of one shard, and prove nothing: {done}");
    assert_eq!(ok(cluster.http(1), "/queue/ack", body).await, done, "a retry gets the first answer");
    let stats = get(cluster.http(2), "/queue/stats?queue=next").await;
    assert_eq!(stats["ready"], 6, "each has arrived, once: {stats}");
    let stale = json!({"receipt": message["receipt"], "push": [{"queue": "next", "payload": 9}]});
    assert_eq!(refused(cluster.http(1), "/queue/ack", stale).await, (409, "stale_receipt".into()));
    let stats = get(cluster.http(2), "/queue/stats?queue=next").await;
    assert_eq!(stats["ready"], 6, "nothing without the acknowledgement: {stats}");
}

async fn repeats_are_told_and_conflicts_refused(cluster: &Cluster) {
    let body = json!({"queue": "once", "payload": 1, "dedup_id": "d"});
    let first = ok(cluster.http(1), "/queue/push", body.clone()).await;
    let second = ok(cluster.http(2), "/queue/push", body).await;
    assert_eq!((&second["id"], &second["duplicate"]), (&first["id"], &json!(true)), "{second}");
    let other = json!({"queue": "once", "payload": 2, "dedup_id": "d"});
    assert_eq!(refused(cluster.http(3), "/queue/push", other).await, (422, "dedup_conflict".into()));
    let batch = json!({"queue": "once", "messages": [{"payload": 3}, {"payload": 2, "dedup_id": "d"}]});
    let results = ok(cluster.http(3), "/queue/push", batch).await["results"].clone();
    assert!(results[0]["id"].is_string(), "{results}");
    assert_eq!(results[1]["error"]["code"], "dedup_conflict", "{results}");
}

async fn receipts_are_checked(cluster: &Cluster) {
    let messages = json!([{"payload": 1}, {"payload": 2}, {"payload": 3}]);
    ok(cluster.http(1), "/queue/push", json!({"queue": "receipts", "messages": messages})).await;
    let received = ok(cluster.http(2), "/queue/receive", json!({"queue": "receipts", "max": 3})).await;
    let receipts: Vec<&str> =
        received["messages"].as_array().unwrap().iter().map(|m| m["receipt"].as_str().unwrap()).collect();
    assert_eq!(receipts.len(), 3, "one request's messages are of one shard: {received}");
    let forged = receipts[0].replace('r', "r1");
    for bad in [&forged, &receipts[0][..receipts[0].len() - 1], "", "r", "rubbish"] {
        for route in ["/queue/ack", "/queue/nack"] {
            assert_eq!(
                refused(cluster.http(3), route, json!({"receipt": bad})).await,
                (400, "bad_receipt".into())
            );
        }
    }
    let results = ok(
        cluster.http(1),
        "/queue/extend",
        json!({"receipts": [receipts[0], forged], "visibility_ms": 90_000}),
    )
    .await;
    assert_eq!(results["results"][0]["visible_in_ms"], 90_000, "{results}");
    assert_eq!(results["results"][1]["error"]["code"], "bad_receipt", "{results}");
    let results =
        ok(cluster.http(1), "/queue/nack", json!({"receipts": receipts[1..], "failed": false})).await;
    assert_eq!(results["results"], json!([{"returned": true}, {"returned": true}]), "{results}");
    let results = ok(cluster.http(2), "/queue/ack", json!({"receipts": receipts})).await;
    assert_eq!(results["results"][0], json!({"acknowledged": true}), "{results}");
    for nth in [1, 2] {
        assert_eq!(results["results"][nth]["error"]["code"], "stale_receipt", "{results}");
    }
    let stats = get(cluster.http(3), "/queue/stats?queue=receipts").await;
    assert_eq!((&stats["ready"], &stats["in_flight"]), (&json!(2), &json!(0)), "{stats}");
}

async fn purge_and_peek(cluster: &Cluster) {
    let messages: Vec<Value> =
        (0..50).map(|nth| json!({"payload": nth, "key": format!("k{}", nth % 7)})).collect();
    ok(cluster.http(1), "/queue/push", json!({"queue": "full", "messages": messages})).await;
    let held = receive(cluster.http(2), "full").await;
    let peeked = get(cluster.http(3), "/queue/peek?queue=full&max=100").await;
    assert_eq!(peeked["messages"].as_array().unwrap().len(), 49, "all but what is in flight");
    assert_eq!(ok(cluster.http(1), "/queue/purge", json!({"queue": "full"})).await, json!({"purged": 49}));
    ok(cluster.http(2), "/queue/ack", json!({"receipt": held["receipt"]})).await;
    let totals = get(cluster.http(3), "/queue/stats?queue=full").await["totals"].clone();
    assert_eq!(
        (&totals["pushed"], &totals["delivered"], &totals["purged"]),
        (&json!(50), &json!(1), &json!(49))
    );
}

async fn a_named_take_takes_once(cluster: &Cluster) {
    let messages: Vec<Value> = (0..9).map(|nth| json!({"payload": nth, "key": format!("k{nth}")})).collect();
    ok(cluster.http(1), "/queue/push", json!({"queue": "named", "messages": messages})).await;
    let body = json!({"queue": "named", "request_id": "take-once"});
    let first = ok(cluster.http(1), "/queue/pop", body.clone()).await;
    for node in [2, 3, 1] {
        assert_eq!(ok(cluster.http(node), "/queue/pop", body.clone()).await, first);
    }
    let stats = get(cluster.http(2), "/queue/stats?queue=named").await;
    assert_eq!(stats["ready"], 8, "{stats}");
}

async fn guards_are_checked(cluster: &Cluster) {
    let grab = |owner: &str| json!({"name": "guarding", "owner": owner});
    let old = ok(cluster.http(1), "/lock/acquire", grab("a")).await["token"].clone();
    ok(cluster.http(1), "/lock/release", json!({"name": "guarding", "owner": "a"})).await;
    let new = ok(cluster.http(2), "/lock/acquire", grab("b")).await["token"].clone();
    let push = |token: &Value| json!({"queue": "guarded", "key": "k", "payload": 1, "guard": {"lock": "guarding", "token": token}});
    ok(cluster.http(2), "/queue/push", push(&old)).await;
    ok(cluster.http(2), "/queue/push", push(&new)).await;
    assert_eq!(refused(cluster.http(3), "/queue/push", push(&old)).await, (412, "fenced".into()));
    let message = receive(cluster.http(1), "guarded").await;
    let ack =
        |token: &Value| json!({"receipt": message["receipt"], "guard": {"lock": "guarding", "token": token}});
    assert_eq!(refused(cluster.http(1), "/queue/ack", ack(&old)).await, (412, "fenced".into()));
    ok(cluster.http(1), "/queue/ack", ack(&new)).await;
}

async fn applied(cluster: &Cluster) -> u64 {
    let shards = get(cluster.http(1), "/cluster").await["shards"].clone();
    let shards = shards.as_array().expect("shards").iter().filter(|shard| shard["id"] != 0);
    shards
        .map(|shard| shard["applied"].as_u64().or(shard["applied_index"].as_u64()).unwrap_or_default())
        .sum()
}

/// Many wait through every node, then as many messages come: each consumer gets one, at once.
async fn waiting_consumers_wake_at_once_and_write_nothing(cluster: &Cluster) {
    const WAITING: u64 = 300;
    let mut waiting = tokio::task::JoinSet::new();
    for nth in 0..WAITING {
        let node = cluster.http(nth % 3 + 1).patient(Duration::from_secs(40));
        waiting.spawn(async move {
            let body = json!({"queue": "awaited", "wait_ms": 30_000});
            let answer = node.post("/queue/receive", &body).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(!answer.json["messages"][0].is_null(), "{}", answer.text);
        });
    }
    // Nothing else happens in this cluster now: what is in flight still has its time-out, which a tick
    // a second takes note of, and nothing more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = applied(cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let written = applied(cluster).await - before;
    assert!(written <= 12, "{WAITING} consumers of an empty queue wrote {written} entries");

    let begun = Instant::now();
    ok(cluster.http(2), "/queue/push", json!({"queue": "awaited", "payload": "first"})).await;
    let pushed = begun.elapsed();
    waiting.join_next().await.expect("somebody waited").expect("it got the message");
    let woken = begun.elapsed();
    assert!(woken < pushed + Duration::from_secs(1), "pushed after {pushed:?}, delivered after {woken:?}");
    let messages: Vec<Value> =
        (1..WAITING).map(|nth| json!({"payload": nth, "key": format!("k{nth}")})).collect();
    ok(cluster.http(3), "/queue/push", json!({"queue": "awaited", "messages": messages})).await;
    let all = async {
        while let Some(done) = waiting.join_next().await {
            done.expect("it got a message")
        }
    };
    tokio::time::timeout(Duration::from_secs(15), all).await.expect("everybody is woken");
}
