//! The cache's routes on three real nodes: what one node has answered, every other one knows.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Answer, Cluster, Http, eventually};

async fn ok(node: Http, target: &str, body: Value) -> Value {
    let answer = node.post(target, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text);
    answer.json
}

async fn refused(node: Http, target: &str, body: Value, status: u16, code: &str) -> Answer {
    let answer = node.post(target, &body).await.unwrap();
    assert_eq!((answer.status, answer.code()), (status, code), "{target} {body}: {}", answer.text);
    answer
}

async fn get(node: Http, query: &str) -> Answer {
    node.get(&format!("/cache/get?{query}")).await.unwrap()
}

#[tokio::test]
async fn counters_batches_loads_namespaces_and_flushes_work_from_any_node() {
    let cluster = Cluster::start(3).await;
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));

    for (node, sum) in [(one, 1), (two, 2), (three, 3)] {
        assert_eq!(ok(node, "/cache/incr", json!({"key": "n"})).await["value"], sum);
    }
    let once = json!({"key": "n", "by": 10, "request_id": "r1"});
    for node in [one, two] {
        assert_eq!(ok(node, "/cache/incr", once.clone()).await["value"], 13, "asked again: {once}");
    }
    ok(one, "/cache/set", json!({"key": "word", "value": "a"})).await;
    refused(two, "/cache/incr", json!({"key": "word"}), 422, "not_a_number").await;
    refused(two, "/cache/incr", json!({"key": "n", "by": i64::MAX}), 422, "out_of_range").await;
    assert_eq!(get(three, "k=n").await.json["value"], 13, "nothing changed");

    let entries: Vec<Value> = (0..30).map(|n| json!({"key": format!("m{n}"), "value": n})).collect();
    let bad = json!({"key": "", "value": 1});
    let entries = [entries, vec![bad]].concat();
    let set = ok(two, "/cache/mset", json!({"entries": entries})).await;
    assert_eq!(set["results"].as_array().unwrap().len(), 31);
    assert_eq!(set["results"][30]["error"]["code"], "bad_request");
    let keys: Vec<String> = (0..31).map(|n| format!("m{n}")).collect();
    for node in [one, two, three] {
        let got = ok(node, "/cache/mget", json!({"keys": keys})).await;
        for n in 0..30 {
            assert_eq!(got["results"][n]["value"], n, "{got}");
            assert_eq!(got["results"][n]["version"], set["results"][n]["version"]);
        }
        assert_eq!(got["results"][30]["error"]["code"], "miss");
    }

    let right = ok(one, "/cache/load", json!({"key": "slow", "lease_ms": 20_000})).await;
    let asks = json!({"key": "slow", "wait_ms": 0});
    refused(two, "/cache/load", asks, 409, "loading").await;
    let waiting = tokio::spawn(async move { ok(three, "/cache/load", json!({"key": "slow"})).await });
    let fill = json!({"key": "slow", "value": "filled", "fill_token": right["fill_token"]});
    ok(two, "/cache/set", fill.clone()).await;
    assert_eq!(waiting.await.unwrap()["value"], "filled");
    refused(one, "/cache/set", fill, 409, "fill_void").await;

    refused(one, "/cache/set", json!({"key": "k", "value": 1, "namespace": "s"}), 404, "no_namespace").await;
    assert_eq!(get(two, "k=k&namespace=s").await.code(), "no_namespace");
    let settings = json!({"namespace": "s", "default_ttl_ms": 60_000, "max_bytes": 1 << 20});
    assert_eq!(ok(one, "/cache/namespace", settings).await["write"], "through");
    ok(three, "/cache/set", json!({"key": "n", "value": "mine", "namespace": "s"})).await;
    let mine = get(two, "k=n&namespace=s").await;
    assert_eq!(mine.json["value"], "mine");
    assert!(mine.json["expires_in_ms"].as_u64().is_some_and(|left| left <= 60_000), "{}", mine.text);
    get(two, "k=n&namespace=s").await;
    ok(one, "/cache/flush", json!({"namespace": "s"})).await;
    for node in [one, two, three] {
        assert_eq!(get(node, "k=n&namespace=s").await.code(), "miss");
        assert_eq!(get(node, "k=n").await.json["value"], 13, "another namespace");
        let figures = [
            "lockstep_state{name=\"cache\",of=\"flushes\"} 1\n",
            "lockstep_state{name=\"cache\",of=\"disagreements\"} 0\n",
            "lockstep_cache_write_stall_seconds_bucket{le=\"0.025\"} ",
            "lockstep_cache_write_stall_seconds_bucket{le=\"+Inf\"} ",
        ];
        eventually("the figures are shown", Duration::from_secs(20), || async move {
            let text = node.get("/metrics").await.ok()?.text;
            figures.iter().all(|figure| text.contains(figure)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_conditional_read_is_answered_without_the_value() {
    let cluster = Cluster::start(3).await;
    let version = ok(cluster.http(1), "/cache/set", json!({"key": "k", "value": 1})).await["version"].clone();
    let version = version.as_str().unwrap();
    for (tag, status) in [(version, 304), ("1.999999", 200)] {
        let head = format!(
            "GET /cache/get?k=k HTTP/1.1\r\nhost: x\r\nconnection: close\r\nif-none-match: \"{tag}\"\r\n\r\n"
        );
        let answer = cluster.http(2).raw(head.as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{tag}: {}", answer.text);
    }
    let stale = json!({"key": "k", "value": 2, "if_version": "0.1"});
    refused(cluster.http(3), "/cache/set", stale, 412, "version_mismatch").await;
}

#[tokio::test]
async fn a_sole_reader_owns_its_line_writes_it_silently_and_gives_it_up_when_another_comes() {
    let cluster = Cluster::start(3).await;
    ok(cluster.http(1), "/cache/namespace", json!({"namespace": "b", "write": "back"})).await;
    ok(cluster.http(1), "/cache/set", json!({"key": "k", "value": 0, "namespace": "b"})).await;
    let line = cluster.http(1).get("/cache/line?k=k&namespace=b").await.unwrap().json;
    let home = line["home"].as_u64().unwrap();
    let [owner, other] = cluster.others(home)[..] else { panic!("{line}") };

    get(cluster.http(owner), "k=k&namespace=b").await;
    let owned = get(cluster.http(owner), "k=k&namespace=b").await.json;
    assert_eq!((&owned["state"], &owned["source"]), (&json!("E"), &json!("local")), "{owned}");
    let mut version = owned["version"].clone();
    for n in 1..=5 {
        let set = json!({"key": "k", "value": n, "namespace": "b"});
        let written = ok(cluster.http(owner), "/cache/set", set).await["version"].clone();
        assert_ne!(written, version);
        version = written;
    }
    let owned = get(cluster.http(owner), "k=k&namespace=b").await.json;
    assert_eq!((&owned["state"], &owned["value"], &owned["version"]), (&json!("M"), &json!(5), &version));
    let state_at = |line: &Value, node: u64| {
        let nodes = line["nodes"].as_array().unwrap().clone();
        nodes.into_iter().find(|n| n["node"] == node).unwrap()["state"].clone()
    };
    let line = cluster.http(other).get("/cache/line?k=k&namespace=b").await.unwrap().json;
    assert_eq!((state_at(&line, owner), state_at(&line, home)), (json!("M"), json!("I")), "{line}");

    let seen = get(cluster.http(other), "k=k&namespace=b").await.json;
    assert_eq!((&seen["value"], &seen["version"]), (&json!(5), &version), "{seen}");
    let line = cluster.http(other).get("/cache/line?k=k&namespace=b").await.unwrap().json;
    // It owns the line no more, and goes on reading it.
    assert_eq!(state_at(&line, owner), json!("S"), "{line}");
    assert_eq!(get(cluster.http(home), "k=k&namespace=b").await.json["value"], 5);
}

#[tokio::test]
async fn a_guard_with_an_older_token_is_fenced_at_the_home() {
    let cluster = Cluster::start(3).await;
    let [one, two, three] = [1, 2, 3].map(|id| cluster.http(id));
    let mut tokens = Vec::new();
    for owner in ["a", "b"] {
        let held = ok(one, "/lock/acquire", json!({"name": "l", "owner": owner})).await;
        tokens.push(held["token"].as_u64().unwrap());
        if owner == "a" {
            ok(one, "/lock/release", json!({"name": "l", "owner": owner})).await;
        }
    }
    let set = |token: u64| json!({"key": "k", "value": token, "guard": {"lock": "l", "token": token}});
    ok(two, "/cache/set", set(tokens[0])).await;
    ok(three, "/cache/set", set(tokens[1])).await;
    refused(one, "/cache/set", set(tokens[0]), 412, "fenced").await;
    let incr = json!({"key": "k", "guard": {"lock": "l", "token": tokens[0]}});
    refused(two, "/cache/incr", incr, 412, "fenced").await;
    assert_eq!(get(two, "k=k").await.json["value"], tokens[1]);
    let read = |token: u64| format!("k=k&guard_lock=l&guard_token={token}");
    assert_eq!(get(three, &read(tokens[1])).await.status, 200);
    assert_eq!(get(three, &read(tokens[0])).await.code(), "fenced");
    let flush = |token: u64| json!({"guard": {"lock": "l", "token": token}});
    refused(one, "/cache/flush", flush(tokens[0]), 412, "fenced").await;
    assert_eq!(get(two, "k=k").await.json["value"], tokens[1], "nothing was emptied");
    ok(one, "/cache/flush", flush(tokens[1])).await;
    assert_eq!(get(two, "k=k").await.code(), "miss");
    ok(three, "/cache/set", set(tokens[1])).await;
    let forged = json!({"key": "k", "value": 1, "guard": {"lock": "l", "token": 1_000_000_000_000_000_u64}});
    refused(one, "/cache/set", forged, 412, "unknown_token").await;
    let lost = json!({"key": "k2", "value": 1, "guard": {"lock": "l", "token": tokens[0], "strict": true}});
    refused(one, "/cache/set", lost, 412, "fenced").await;
}

#[tokio::test]
async fn every_command_about_the_cache_does_what_it_says() {
    let cluster = Cluster::start(1).await;
    let url = format!("http://127.0.0.1:{}", cluster.http(1).port);
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
        let done = command.arg("cache").args(args).args(["--url", &url]).output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{args:?}: {out}{err}");
        out.into_owned()
    };
    for (args, says) in [
        (&["set", "k1", "v1"][..], "."),
        (&["get", "k1"], "v1"),
        (&["incr", "n"], "1"),
        (&["mset", "a=1", "b=2"], "."),
        (&["mget", "k1", "a", "n"], "v1"),
        (&["load", "new"], ""),
        (&["namespace", "ns", "--write", "back"], "back"),
        (&["line", "k1"], "S"),
        (&["stats"], "local_hits"),
        (&["delete", "k1"], ""),
        (&["flush"], ""),
    ] {
        let printed = run(args).await;
        assert!(printed.contains(says), "{args:?} printed {printed:?}");
    }
}
