//! The seven lines of the README, as written there.

use serde_json::json;

use crate::kit::Cluster;

#[tokio::test]
async fn the_seven_lines_do_what_they_say() {
    work_on(&Cluster::start(3).await).await;
}

/// Checks them on a cluster of three.
pub async fn work_on(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));

    for node in [one, two, three] {
        let answer = node.get("/leader").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json["leader"]["id"], leader);
        let url = format!("http://127.0.0.1:{}", cluster.http(leader).port);
        assert_eq!(answer.json["leader"]["url"], url);
    }

    let body = json!({"name": "resA", "mode": "exclusive", "owner": "client1"});
    let acquired = one.post("/lock/acquire", &body).await.unwrap();
    assert_eq!((acquired.status, &acquired.json["acquired"]), (200, &json!(true)), "{}", acquired.text);
    assert!(acquired.json["token"].as_u64().is_some_and(|token| token > 0), "{}", acquired.text);

    let body = json!({"name": "resA", "owner": "client1"});
    let released = one.post("/lock/release", &body).await.unwrap();
    assert_eq!((released.status, &released.json["released"]), (200, &json!(true)), "{}", released.text);

    let pushed = one.post("/queue/push", &json!({"key": "user:123", "payload": "hello"})).await.unwrap();
    assert_eq!(pushed.status, 200, "{}", pushed.text);

    let popped = two.get("/queue/pop").await.unwrap();
    assert_eq!(popped.status, 200, "{}", popped.text);
    let message = &popped.json["message"];
    assert_eq!(
        (&message["key"], &message["payload"]),
        (&json!("user:123"), &json!("hello")),
        "{}",
        popped.text
    );
    assert_eq!(message["id"], pushed.json["id"]);

    let set = three.post("/cache/set", &json!({"key": "k1", "value": "v1"})).await.unwrap();
    assert_eq!(set.status, 200, "{}", set.text);
    let got = two.get("/cache/get?k=k1").await.unwrap();
    assert_eq!((got.status, &got.json["value"]), (200, &json!("v1")), "{}", got.text);
    assert_eq!(got.json["version"], set.json["version"]);

    let empty = two.get("/queue/pop").await.unwrap();
    assert_eq!((empty.status, &empty.json["message"]), (200, &json!(null)), "{}", empty.text);
}
