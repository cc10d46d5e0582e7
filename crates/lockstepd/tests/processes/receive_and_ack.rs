//! A receive that acknowledges what came before: each part has its own outcome, whatever the other's is.

use std::collections::BTreeSet;
use std::time::Duration;

use lockstep_client::Client;
use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually};

async fn ok(node: Http, route: &str, body: Value) -> Value {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

fn receipt(answer: &Value) -> &str {
    answer["messages"][0]["receipt"].as_str().unwrap_or_else(|| panic!("one message: {answer}"))
}

/// `None` for what was done, else the code.
fn outcomes(answer: &Value) -> Vec<Option<&str>> {
    let acked = answer["acked"].as_array().unwrap_or_else(|| panic!("results: {answer}"));
    acked.iter().map(|one| one["error"]["code"].as_str()).collect()
}

#[tokio::test]
async fn a_receive_acknowledges_what_came_before() {
    let cluster = Cluster::start(3).await;
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));
    for payload in 1..=4 {
        ok(one, "/queue/push", json!({"queue": "next", "key": "k", "payload": payload})).await;
    }
    let first = ok(two, "/queue/receive", json!({"queue": "next"})).await;
    assert!(first.get("acked").is_none(), "nothing was to be acknowledged: {first}");

    // The next message of a key is free once the last one is acknowledged: here within one request.
    let body = json!({"queue": "next", "ack": [receipt(&first)]});
    let second = ok(three, "/queue/receive", body).await;
    assert_eq!((outcomes(&second), &second["messages"][0]["payload"]), (vec![None], &json!(2)), "{second}");

    // Asked again under its id, it answers as before, and takes nothing more.
    let body = json!({"queue": "next", "ack": [receipt(&second)], "request_id": "once"});
    let third = ok(one, "/queue/receive", body.clone()).await;
    assert_eq!((outcomes(&third), &third["messages"][0]["payload"]), (vec![None], &json!(3)), "{third}");
    assert_eq!(ok(two, "/queue/receive", body).await, third);

    // A receipt that is of no use leaves the others and the receive as they are.
    let body = json!({"queue": "next", "ack": [receipt(&first), "nonsense", receipt(&third)]});
    let fourth = ok(two, "/queue/receive", body).await;
    let expected = vec![Some("stale_receipt"), Some("bad_receipt"), None];
    assert_eq!((outcomes(&fourth), &fourth["messages"][0]["payload"]), (expected, &json!(4)), "{fourth}");

    // A receive that is refused leaves the acknowledgements as they are.
    let body = json!({"queue": "next", "session": "s999999", "ack": [receipt(&fourth)]});
    let none = ok(three, "/queue/receive", body).await;
    assert_eq!((outcomes(&none), &none["error"]["code"]), (vec![None], &json!("session_expired")), "{none}");
    assert_eq!(none["messages"], json!([]), "{none}");

    let stats = one.get("/queue/stats?queue=next").await.expect("a healthy cluster answers").json;
    assert_eq!([&stats["ready"], &stats["in_flight"], &stats["totals"]["delivered"]], [0, 0, 4], "{stats}");
    for ack in [json!([]), json!(vec!["r"; 1001])] {
        let answer = one.post("/queue/receive", &json!({"queue": "next", "ack": ack})).await.unwrap();
        assert_eq!((answer.status, answer.code()), (400, "bad_request"), "{}", answer.text);
    }
    // Where nothing was done at all, the error is the whole answer.
    let body = json!({"queue": "next", "session": "s999999", "ack": [receipt(&fourth)]});
    let answer = two.post("/queue/receive", &body).await.unwrap();
    assert_eq!((answer.status, answer.code()), (410, "session_expired"), "{}", answer.text);
    a_client_goes_from_batch_to_batch(&cluster).await;
    every_node_leads_a_queue_shard(&cluster).await;
    messages_without_a_key_stay_together(&cluster).await;
    a_token_fences_messages_without_a_key_wherever_they_are_pushed(&cluster).await;
}

async fn a_client_goes_from_batch_to_batch(cluster: &Cluster) {
    let urls = cluster.ids().into_iter().map(|id| format!("http://127.0.0.1:{}", cluster.http(id).port));
    let queue = Client::new(urls).unwrap().queue("batches");
    for payload in 0..10 {
        ok(cluster.http(2), "/queue/push", json!({"queue": "batches", "payload": payload})).await;
    }
    let (mut done, mut seen) = (Vec::new(), 0);
    loop {
        let received = queue.receive().max(4).fetch_and_ack(&done).await.unwrap();
        assert!(received.acked.iter().all(Result::is_ok), "{:?}", received.acked);
        assert_eq!(received.acked.len(), done.len());
        done = received.messages.unwrap();
        seen += done.len();
        if done.is_empty() {
            break;
        }
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((seen, stats.ready, stats.in_flight), (10, 0, 0));
}

async fn every_node_leads_a_queue_shard(cluster: &Cluster) {
    eventually("every node leads a queue shard", Duration::from_secs(30), || async {
        let answer = cluster.http(1).get("/cluster").await.ok()?;
        let shards = answer.json["shards"].as_array()?;
        let leaders: BTreeSet<u64> = shards
            .iter()
            .filter(|shard| shard["id"] != 0)
            .filter_map(|shard| shard["leader"].as_u64())
            .collect();
        (leaders.len() == 3).then_some(())
    })
    .await;
}

/// Not one to each shard in turn: at most two, should a leader change meanwhile.
async fn messages_without_a_key_stay_together(cluster: &Cluster) {
    for node in cluster.ids() {
        let mut shards = BTreeSet::new();
        for payload in 0..20 {
            let pushed =
                ok(cluster.http(node), "/queue/push", json!({"queue": "loose", "payload": payload})).await;
            shards.insert(pushed["shard"].as_u64());
        }
        assert!(shards.len() <= 2, "pushed at node {node}: {shards:?}");
    }
}

/// Also where every node has a shard of its own for messages without a key.
async fn a_token_fences_messages_without_a_key_wherever_they_are_pushed(cluster: &Cluster) {
    let push = |token| json!({"queue": "fenced", "payload": 1, "guard": {"lock": "fence", "token": token}});
    let mut tokens = Vec::new();
    for owner in ["old", "new"] {
        let grab = json!({"name": "fence", "owner": owner});
        tokens.push(ok(cluster.http(1), "/lock/acquire", grab).await["token"].as_u64().unwrap());
        ok(cluster.http(1), "/lock/release", json!({"name": "fence", "owner": owner})).await;
    }
    ok(cluster.http(1), "/queue/push", push(tokens[1])).await;
    for node in cluster.ids() {
        let answer = cluster.http(node).post("/queue/push", &push(tokens[0])).await.unwrap();
        assert_eq!((answer.status, answer.code()), (412, "fenced"), "at node {node}: {}", answer.text);
    }
}
