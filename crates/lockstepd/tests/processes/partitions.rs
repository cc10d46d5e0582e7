//! Cut links: the minority refuses and does not lie, the majority goes on, healing heals.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Answer, Cluster, Http, HttpError, eventually};

/// The longest that a node without a majority may think before it refuses.
const REFUSES_WITHIN: Duration = Duration::from_secs(15);

const RECOVERY: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_leader_that_is_cut_off_refuses_writes_and_does_not_lie_in_reads() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let majority = cluster.others(old);
    let (cut_off, inside) = (cluster.http(old), cluster.http(majority[0]));
    let before = write_everything(inside, "before").await;
    read_into_its_cache(cut_off).await;

    cluster.isolate(old);
    let leader = cluster.leader_among(&majority).await;
    assert_ne!(leader, old, "the majority elects another");
    let after = write_everything(inside, "after").await;
    assert!(after > before, "the majority goes on with larger tokens");
    refuses_writes(cut_off).await;
    never_answers_from_before(cut_off).await;

    cluster.heal();
    let everyone = cluster.ids();
    cluster.leader_among(&everyone).await;
    eventually("the node that was cut off serves again", RECOVERY, || async {
        let lock = cut_off.get("/lock/get?name=resource").await.ok()?;
        (lock.status == 200 && lock.json["holders"][0]["token"] == after).then_some(())
    })
    .await;
    never_answers_from_before(cut_off).await;
    let pushed = cut_off.post("/queue/push", &json!({"payload": "healed"})).await.unwrap();
    assert_eq!(pushed.status, 200, "{}", pushed.text);
}

#[tokio::test]
async fn a_link_that_is_cut_one_way_costs_no_more_than_its_node() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let deaf = cluster.others(leader)[0];
    let third = cluster.others(leader)[1];
    // The follower still hears nothing from the leader, and its votes must not stop the others.
    cluster.cut_one_way(leader, deaf);
    for round in 0..20 {
        let body = json!({"payload": round, "queue": "one-way", "request_id": format!("one-way-{round}")});
        eventually("a push goes through", RECOVERY, || async {
            let answer =
                cluster.http(third).patient(Duration::from_secs(3)).post("/queue/push", &body).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    cluster.heal();
    cluster.leader_among(&cluster.ids()).await;
    let stats = eventually("the deaf node serves again", RECOVERY, || async {
        cluster.http(deaf).get("/queue/stats?queue=one-way").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(stats.json["ready"], 20, "{}", stats.text);
}

/// A lock held, a message on a queue and a cache entry, all of generation `what`, replacing the
/// former one's. Returns the lock's token.
async fn write_everything(node: Http, what: &str) -> u64 {
    let release = json!({"name": "resource", "owner": "before"});
    if what != "before" {
        done(node, "/lock/release", &release).await;
    }
    let granted =
        done(node, "/lock/acquire", &json!({"name": "resource", "owner": what, "ttl_ms": 600_000})).await;
    if what == "before" {
        done(node, "/queue/push", &json!({"payload": what, "key": "k"})).await;
    } else {
        let taken = done(node, "/queue/receive", &json!({"visibility_ms": 600_000})).await;
        let receipt = taken.json["messages"][0]["receipt"].clone();
        done(node, "/queue/ack", &json!({"receipt": receipt})).await;
    }
    done(node, "/cache/set", &json!({"key": "entry", "value": what})).await;
    granted.json["token"].as_u64().expect("a token")
}

/// Asks until it is done: leadership and cache homes move while a test cuts links.
async fn done(node: Http, target: &str, body: &Value) -> Answer {
    eventually(target, Duration::from_secs(30), || async {
        let answer = node.patient(Duration::from_secs(5)).post(target, body).await.ok()?;
        assert!(matches!(answer.status, 200 | 503 | 504), "{target}: {}", answer.text);
        (answer.status == 200).then_some(answer)
    })
    .await
}

async fn read_into_its_cache(node: Http) {
    for _ in 0..2 {
        let answer = node.get("/cache/get?k=entry").await.unwrap();
        assert_eq!(answer.json["value"], "before", "{}", answer.text);
    }
}

/// Every write ends in a refusal, or in "unknown", within its deadline.
async fn refuses_writes(node: Http) {
    let node = node.patient(REFUSES_WITHIN);
    let (lock, push, set) = (
        json!({"name": "other", "owner": "nobody"}),
        json!({"payload": "lost?"}),
        json!({"key": "entry", "value": "from the minority"}),
    );
    let (lock, push, set) = tokio::join!(
        node.post("/lock/acquire", &lock),
        node.post("/queue/push", &push),
        node.post("/cache/set", &set)
    );
    for (what, answer) in [("acquire", lock), ("push", push), ("set", set)] {
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(matches!(answer.status, 503 | 504), "{what}: {} {}", answer.status, answer.text);
    }
}

/// Reads may be refused. What they answer, if they do, is what the majority has decided since.
async fn never_answers_from_before(node: Http) {
    let node = node.patient(REFUSES_WITHIN);
    let (lock, pop, cache) = tokio::join!(
        node.get("/lock/get?name=resource"),
        node.get("/queue/pop"),
        node.get("/cache/get?k=entry")
    );
    check("lock", lock, |answer| answer.json["holders"][0]["owner"] == "after");
    check("pop", pop, |answer| answer.json["message"]["payload"] != "before");
    check("cache", cache, |answer| answer.json["value"] != "before");
}

fn check(what: &str, answer: Result<Answer, HttpError>, truthful: impl Fn(&Answer) -> bool) {
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(matches!(answer.status, 200 | 404 | 503 | 504), "{what}: {} {}", answer.status, answer.text);
    assert!(answer.status != 200 || truthful(&answer), "{what}: a stale answer: {}", answer.text);
}
