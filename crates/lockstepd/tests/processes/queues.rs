//! Queues of a real cluster: what one node is told to do, every node does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually};

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
    a_named_take_takes_once_though_many_ask_at_once(&cluster).await;
    stats_tell_rates(&cluster).await;
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
    let shards: BTreeSet<u64> =
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

/// Every attempt of one request gets the same message, wherever it is asked and whoever is in the way.
async fn a_named_take_takes_once_though_many_ask_at_once(cluster: &Cluster) {
    const REQUESTS: u64 = 20;
    let mut attempts = tokio::task::JoinSet::new();
    for request in 0..REQUESTS {
        for attempt in 0..4 {
            let node = cluster.http((request + attempt) % 3 + 1);
            let body = json!({"queue": "rush", "request_id": format!("rush-{request}"), "wait_ms": 500});
            // One that waits beside the one that takes learns of it when it is asked again.
            attempts.spawn(async move {
                let message = eventually("an attempt gets the message", Duration::from_secs(20), || async {
                    let popped = ok(node, "/queue/pop", body.clone()).await;
                    Some(popped["message"].clone()).filter(|message| !message.is_null())
                });
                (request, message.await)
            });
        }
    }
    // One by one, so that shards are empty and full by turns while everybody looks.
    for nth in 0..REQUESTS {
        let body = json!({"queue": "rush", "key": format!("k{nth}"), "payload": nth});
        ok(cluster.http(nth % 3 + 1), "/queue/push", body).await;
    }
    let mut taken = std::collections::BTreeMap::<u64, BTreeSet<String>>::new();
    while let Some(attempt) = attempts.join_next().await {
        let (request, message) = attempt.expect("an attempt is answered");
        taken.entry(request).or_default().insert(message["id"].as_str().expect("a message").to_owned());
    }
    assert!(taken.values().all(|ids| ids.len() == 1), "one request took several: {taken:?}");
    let all: BTreeSet<&String> = taken.values().flatten().collect();
    assert_eq!(all.len() as u64, REQUESTS, "two requests took one message");
    let stats = get(cluster.http(1), "/queue/stats?queue=rush").await;
    assert_eq!((&stats["ready"], &stats["totals"]["delivered"]), (&json!(0), &json!(REQUESTS)), "{stats}");
}

async fn stats_tell_rates(cluster: &Cluster) {
    let messages = vec![json!({"payload": 1}); 50];
    ok(cluster.http(1), "/queue/push", json!({"queue": "rates", "messages": messages})).await;
    for _ in 0..10 {
        let message = receive(cluster.http(2), "rates").await;
        ok(cluster.http(3), "/queue/ack", json!({"receipt": message["receipt"]})).await;
    }
    let stats = get(cluster.http(3), "/queue/stats?queue=rates").await;
    let rate = |name: &str| stats["rates"][name].as_f64().unwrap_or_else(|| panic!("{name} of {stats}"));
    // All of it happened within the last ten seconds, and at least one has passed for each.
    assert!((5.0..=50.0).contains(&rate("pushed_per_second")), "{stats}");
    assert!((1.0..=10.0).contains(&rate("delivered_per_second")), "{stats}");
    assert_eq!(rate("delivered_per_second"), rate("acked_per_second"), "{stats}");
    assert_eq!((&stats["totals"]["deliveries"], &stats["totals"]["delivered"]), (&json!(10), &json!(10)));
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

    ok(cluster.http(1), "/queue/pop", json!({"queue": "guarded"})).await;

    // Where there is nothing to take, the lost lock is told, too, whichever way it was asked.
    let take = |token: &Value, named: Option<&str>| {
        let guard = json!({"lock": "guarding", "token": token});
        let mut body = json!({"queue": "guarded", "guard": guard});
        named.into_iter().for_each(|id| body["request_id"] = id.into());
        body
    };
    for route in ["/queue/receive", "/queue/pop"] {
        for named in [None, Some(route)] {
            let fenced = refused(cluster.http(3), route, take(&old, named)).await;
            assert_eq!(fenced, (412, "fenced".into()), "{route} {named:?}");
        }
    }
    let nothing = ok(cluster.http(3), "/queue/receive", take(&new, None)).await;
    assert_eq!(nothing["messages"], json!([]));
    let forged = json!(1_000_000_000_000_000_u64);
    let unknown = refused(cluster.http(1), "/queue/receive", take(&forged, None)).await;
    assert_eq!(unknown, (412, "unknown_token".into()));
}
