//! Locks over HTTP at real nodes: every route once, asked wherever it comes, and watches that survive
//! the node that served them.

use std::time::Duration;

use serde_json::{Value, json};

use super::lock_events::Stream;
use crate::kit::{Answer, Cluster, Http};

const TURN: Duration = Duration::from_secs(20);

async fn post(http: Http, target: &str, body: Value) -> Answer {
    http.patient(TURN).post(target, &body).await.unwrap_or_else(|error| panic!("{target} {body}: {error}"))
}

async fn done(http: Http, target: &str, body: Value) -> Value {
    let answer = post(http, target, body.clone()).await;
    assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text);
    answer.json
}

async fn refused(http: Http, target: &str, body: Value, status: u16, code: &str) -> Value {
    let answer = post(http, target, body.clone()).await;
    assert_eq!((answer.status, answer.code()), (status, code), "{target} {body}: {}", answer.text);
    answer.json["error"].clone()
}

#[tokio::test]
async fn every_kind_of_lock_works_at_every_node() {
    let cluster = Cluster::start(3).await;
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));

    // Permits.
    let permit = |owner: &str, limit: u32| json!({"name":"p","owner":owner,"mode":"permit","limit":limit});
    let first = done(one, "/lock/acquire", permit("a", 2)).await;
    let second = done(two, "/lock/acquire", permit("b", 2)).await;
    assert!(second["token"].as_u64() > first["token"].as_u64());
    refused(three, "/lock/acquire", permit("c", 2), 409, "held").await;
    let error = refused(three, "/lock/acquire", permit("c", 3), 409, "limit_mismatch").await;
    assert_eq!(error["limit"], 2);

    // A session keeps two locks; its end gives both to whoever waits.
    let session = done(one, "/session/open", json!({"owner":"w","ttl_ms":60_000})).await["session"].clone();
    for name in ["s1", "s2"] {
        let body = json!({"name":name,"owner":"w","session":session,"metadata":{"pid":7}});
        assert_eq!(done(two, "/lock/acquire", body).await["ttl_ms"], 60_000);
    }
    let shown = three.get("/lock/get?name=s1").await.unwrap().json;
    assert_eq!(
        (&shown["holders"][0]["session"], &shown["holders"][0]["metadata"]["pid"]),
        (&session, &json!(7))
    );
    let waiting = tokio::spawn(async move {
        done(three, "/lock/acquire", json!({"names":["s1","s2"],"owner":"next","wait_ms":20_000})).await
    });
    let renewed = done(two, "/session/renew", json!({"sessions":[session, "s999999999"]})).await;
    assert_eq!(renewed["results"][0]["session"], session);
    assert_eq!(renewed["results"][1]["error"]["code"], "session_expired");
    done(one, "/session/close", json!({"session":session})).await;
    let both = waiting.await.unwrap();
    assert_eq!(both["tokens"]["s1"], both["token"]);
    refused(one, "/session/renew", json!({"session":session}), 410, "session_expired").await;
    let dead = json!({"name":"s3","owner":"w","session":session});
    refused(one, "/lock/acquire", dead, 410, "session_expired").await;
    done(two, "/lock/release", json!({"names":["s1","s2"],"owner":"next","token":both["token"]})).await;

    // Up and down.
    let reader = done(one, "/lock/acquire", json!({"name":"u","owner":"r","mode":"shared"})).await;
    let body = json!({"name":"u","owner":"r","token":reader["token"]});
    let writer = done(two, "/lock/upgrade", body.clone()).await;
    assert!(writer["mode"] == "exclusive" && writer["token"].as_u64() > reader["token"].as_u64(), "{writer}");
    refused(three, "/lock/downgrade", body, 409, "stale_token").await;
    let body = json!({"name":"u","owner":"r","token":writer["token"]});
    let reader = done(three, "/lock/downgrade", body).await;
    assert_eq!((&reader["mode"], &reader["token"]), (&json!("shared"), &writer["token"]));
    let nothing = json!({"name":"nothing","owner":"r","token":1});
    refused(three, "/lock/upgrade", nothing, 404, "not_held").await;

    // A cycle of waits fails with the cycle.
    let take = |name: &str, owner: &str, wait: u64| json!({"name":name,"owner":owner,"wait_ms":wait});
    done(one, "/lock/acquire", take("x", "a", 0)).await;
    done(two, "/lock/acquire", take("y", "b", 0)).await;
    let blocked = tokio::spawn(post(one, "/lock/acquire", take("y", "a", 20_000)));
    crate::kit::eventually("a waits for y", TURN, || async move {
        let shown = three.get("/lock/get?name=y").await.ok()?.json;
        (shown["waiters"][0]["blocked_by"] == json!(["b"])).then_some(())
    })
    .await;
    let error = refused(three, "/lock/acquire", take("x", "b", 20_000), 409, "deadlock").await;
    let cycle = json!([{"owner":"b","waits_for":"x"},{"owner":"a","waits_for":"y"}]);
    assert_eq!(error["cycle"], cycle);

    // Broken, written down, and shown.
    let broken = json!({"name":"y","reason":"b is gone","by":"ann"});
    let broken = done(three, "/lock/break", broken).await;
    assert_eq!(broken["holders"][0]["owner"], "b");
    assert_eq!(blocked.await.unwrap().status, 200);
    let audit = one.get("/lock/audit?name=y").await.unwrap().json;
    assert_eq!(
        (&audit["entries"][0]["by"], &audit["entries"][0]["reason"]),
        (&json!("ann"), &json!("b is gone"))
    );
    let again = json!({"name":"free","reason":"none","by":"ann"});
    refused(one, "/lock/break", again, 404, "not_held").await;
}

#[tokio::test]
async fn a_watch_goes_on_at_another_node_without_a_gap() {
    let mut cluster = Cluster::start(3).await;
    let [one, two] = [1, 2].map(|id| cluster.http(id));
    let mut stream = Stream::open(one, "/lock/watch?name=w", None).await;
    let (kind, _, state) = stream.next().await;
    assert_eq!((kind.as_str(), &state["holders"]), ("state", &json!([])));

    let take = |owner: &str| json!({"name":"w","owner":owner,"ttl_ms":60_000});
    let token = done(two, "/lock/acquire", take("a")).await["token"].clone();
    done(two, "/lock/acquire", json!({"name":"other","owner":"a"})).await;
    let (kind, seen, event) = stream.next().await;
    assert_eq!((kind.as_str(), &event["owner"], &event["token"]), ("granted", &json!("a"), &token));

    // What happens while nobody watches, and while the node that was asked is dead, is not missed.
    drop(stream);
    cluster.node(1).kill();
    let rest = [2, 3].map(|id| cluster.http(id));
    crate::kit::eventually("somebody else leads", TURN, || async move {
        let body = json!({"name":"w","owner":"a"});
        rest[0].post("/lock/release", &body).await.ok().filter(|answer| answer.status != 503).map(drop)
    })
    .await;
    done(rest[0], "/lock/acquire", take("b")).await;
    done(rest[0], "/lock/break", json!({"name":"w","reason":"test","by":"ann"})).await;
    let mut stream = Stream::open(rest[1], "/lock/watch?name=w", Some(seen)).await;
    let mut kinds = Vec::new();
    let mut last = seen;
    for _ in 0..3 {
        let (kind, id, _) = stream.next().await;
        assert!(id > last, "ids grow");
        last = id;
        kinds.push(kind);
    }
    assert_eq!(kinds, ["released", "granted", "broken"]);

    // An id that this history does not know is a clear reset.
    let mut stream = Stream::open(rest[1], "/lock/watch?name=w", Some(1 << 40)).await;
    assert_eq!(stream.next().await.0, "reset");

    // A node that stops ends its streams instead of waiting for them.
    assert!(cluster.node(3).terminate(Duration::from_secs(8)).await.success());
}
