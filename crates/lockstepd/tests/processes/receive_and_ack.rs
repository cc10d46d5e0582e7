//! A receive that acknowledges what came before: each part has its own outcome, whatever the other's is.

use serde_json::{Value, json};

use crate::kit::{Cluster, Http};

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
}
