//! `GET /cache/watch` on real nodes: every change is told at every node, and what may have been missed
//! is a reset.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_client::cache::Changed;
use serde_json::{Value, json};

use crate::kit::{Cluster, Events, Http, eventually, within};

const SOON: Duration = Duration::from_secs(20);

async fn ok(node: Http, target: &str, body: Value) -> Value {
    let answer = node.post(target, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text);
    answer.json
}

async fn home(cluster: &Cluster, key: &str) -> u64 {
    cluster.http(1).get(&format!("/cache/line?k={key}")).await.unwrap().json["home"].as_u64().unwrap()
}

fn number(id: &str) -> (u64, u64) {
    let (process, seq) = id.split_once('.').unwrap();
    (process.parse().unwrap(), seq.parse().unwrap())
}

#[tokio::test]
async fn every_write_is_told_at_every_node_in_the_order_of_its_key_and_a_reader_goes_on_where_it_stopped() {
    let cluster = Cluster::start(3).await;
    let one = cluster.http(1);
    let mut events = Events::open(one, "/cache/watch?prefix=k", None).await;
    let (kind, began, data) = events.next().await;
    assert_eq!((kind.as_str(), &data["reason"]), ("reset", &json!("start")));

    let mut written: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for round in 0..10 {
        for n in 0..6 {
            let (node, key) = (cluster.http(2 + n % 2), format!("k{n}"));
            let set = json!({"key": key, "value": round});
            written.entry(key).or_default().push(ok(node, "/cache/set", set).await["version"].clone());
            ok(node, "/cache/set", json!({"key": "other", "value": 1})).await;
        }
    }
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut last = began.clone();
    let mut half = None;
    for nth in 0..60 {
        let (kind, id, data) = events.next().await;
        assert_eq!((kind.as_str(), &data["reason"]), ("invalidate", &json!("set")), "{data}");
        assert!(number(&id) > number(&last), "{id} after {last}");
        told.entry(data["key"].as_str().unwrap().into()).or_default().push(data["version"].clone());
        if nth == 29 {
            half = Some(id.clone());
        }
        last = id;
    }
    assert_eq!(told, written);

    // The connection is gone, and what happens meanwhile is not lost.
    drop(events);
    let deleted = json!({"key": "k0"});
    ok(cluster.http(2), "/cache/delete", deleted).await;
    ok(cluster.http(3), "/cache/flush", json!({})).await;
    let mut again = Events::open(one, "/cache/watch?prefix=k", half.as_deref()).await;
    for _ in 30..60 {
        let (kind, id, _) = again.next().await;
        assert_eq!(kind, "invalidate");
        assert!(number(&id) <= number(&last));
    }
    // Homes are heard one beside the other.
    let mut rest = Vec::new();
    for _ in 0..4 {
        let (kind, _, data) = again.next().await;
        rest.push((kind, data["key"].clone(), data["reason"].clone()));
    }
    rest.sort_by_key(|(kind, ..)| kind.clone());
    let flush = ("flush".to_owned(), Value::Null, Value::Null);
    let deleted = ("invalidate".to_owned(), json!("k0"), json!("deleted"));
    assert_eq!(rest, [flush.clone(), flush.clone(), flush, deleted], "a flush for each home");

    let (process, _) = number(&last);
    for (node, id) in [(2, last), (1, "1.1".into()), (1, format!("{process}.999999"))] {
        let mut events = Events::open(cluster.http(node), "/cache/watch", Some(&id)).await;
        assert_eq!(
            events.next().await.2,
            json!({"event": "reset", "reason": "unknown_id"}),
            "{id} at {node}"
        );
    }
    for (query, status, code) in [
        ("after=x", 400, "bad_request"),
        ("after=1", 400, "bad_request"),
        ("after=-1.2", 400, "bad_request"),
        ("k=a&prefix=b", 400, "bad_request"),
        ("k=", 400, "bad_request"),
        ("what=1", 400, "bad_request"),
        ("namespace=nowhere", 404, "no_namespace"),
    ] {
        let answer = one.get(&format!("/cache/watch?{query}")).await.unwrap();
        assert_eq!((answer.status, answer.code()), (status, code), "{query}: {}", answer.text);
    }

    let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["cache", "watch", "k1", "--json", "--url", &format!("http://127.0.0.1:{}", one.port)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, mut printed) = tokio::sync::mpsc::unbounded_channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let mut line = async || -> Value {
        let line = within("a line", SOON, printed.recv()).await.unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(line().await["reason"], "start");
    ok(one, "/cache/set", json!({"key": "k2", "value": 1})).await;
    let set = ok(one, "/cache/set", json!({"key": "k1", "value": 1})).await;
    let told = line().await;
    assert_eq!((&told["event"], &told["version"]), (&json!("invalidate"), &set["version"]), "{told}");
    let _ = (child.kill(), child.wait());
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_reset_and_goes_on() {
    let cluster = Cluster::start(3).await;
    let one = cluster.http(1);
    let mut slow = Events::open(one, "/cache/watch", None).await;
    assert_eq!(slow.next().await.0, "reset");
    // More than its node remembers and all the buffers between.
    for part in 0..30 {
        let key = |n: u64| format!("{part}-{n}-{}", "x".repeat(480));
        let entries: Vec<Value> = (0..1000).map(|n| json!({"key": key(n), "value": 1})).collect();
        ok(cluster.http(2), "/cache/mset", json!({"entries": entries})).await;
    }
    let mut told = 0;
    loop {
        let (kind, _, data) = slow.next().await;
        if kind == "reset" {
            break assert_eq!(data["reason"], "slow");
        }
        told += 1;
        assert!(told < 30_000, "everything was kept for it");
    }
    let set = ok(cluster.http(2), "/cache/set", json!({"key": "last", "value": 1})).await;
    while slow.next().await.2["version"] != set["version"] {}
}

#[tokio::test]
async fn the_death_of_a_home_is_a_reset_for_those_who_watch_elsewhere_and_its_own_watchers_hear_of_it() {
    let mut cluster = Cluster::start(3).await;
    let victim = home(&cluster, "k").await;
    let rest = cluster.others(victim);
    let mut other = String::new();
    for n in 0.. {
        other = format!("o{n}");
        if home(&cluster, &other).await != victim {
            break;
        }
    }
    let mut events = Events::open(cluster.http(rest[0]), "/cache/watch", None).await;
    assert_eq!(events.next().await.2["reason"], "start");
    let client = Client::new([format!("http://127.0.0.1:{}", cluster.http(victim).port)]).unwrap();
    let mut watch = client.cache().watch();
    assert_eq!(watch.next().await.unwrap(), Changed::Reset { reason: "start".into() });
    ok(cluster.http(rest[1]), "/cache/set", json!({"key": "k", "value": 1})).await;
    assert_eq!(events.next().await.2["key"], "k");
    assert!(matches!(watch.next().await.unwrap(), Changed::Key(event) if event.key.as_deref() == Some("k")));

    let killed = Instant::now();
    cluster.node(victim).kill();
    assert_eq!(within("it hears nothing", SOON, watch.next()).await.unwrap(), Changed::Away);
    let (kind, _, data) = events.next().await;
    assert_eq!((kind.as_str(), &data["reason"]), ("reset", &json!("away")));
    assert!(killed.elapsed() < Duration::from_secs(6), "{:?}", killed.elapsed());
    // Keys of the others are told as before, beside the resets.
    ok(cluster.http(rest[1]), "/cache/set", json!({"key": other, "value": 1})).await;
    loop {
        let (kind, _, data) = events.next().await;
        if kind == "invalidate" {
            break assert_eq!(data["key"], other.as_str());
        }
    }
}

#[tokio::test]
async fn a_node_takes_as_many_watchers_as_it_may() {
    let settings = crate::kit::Settings::fast(1).with("--cache-watchers-max", "1");
    let cluster = Cluster::start_with(settings).await;
    let node = cluster.http(1);
    let events = Events::open(node, "/cache/watch", None).await;
    let refused = node.get("/cache/watch").await.unwrap();
    assert_eq!((refused.status, refused.code()), (429, "too_many_watchers"));
    drop(events);
    eventually("its place is free", SOON, || async {
        let stats = node.get("/cache/stats").await.unwrap();
        (stats.json["watchers"] == json!(0)).then_some(())
    })
    .await;
    Events::open(node, "/cache/watch", None).await;
}
