//! Near caches in this process, over real nodes that are paused and killed: a read is never older than
//! a write that had returned before it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::{Client, Near};
use serde_json::{Value, json};

use crate::kit::{Answer, Cluster, Http, eventually};

const RECOVERY: Duration = Duration::from_secs(20);
/// A near client's lease at most, as its node counts it, and time for everything else on a busy machine.
const CLIENT_LEASE: Duration = Duration::from_millis(555);
const SLACK: Duration = Duration::from_millis(900);

fn near(cluster: &Cluster, id: u64) -> Near<u64> {
    let client = Client::builder([format!("http://127.0.0.1:{}", cluster.http(id).port)]);
    client.timeout(Duration::from_secs(3)).build().unwrap().cache().near()
}

/// Reads until the value is kept in this process.
async fn warm(near: &Near<u64>, key: &str) -> u64 {
    eventually("a near cache keeps the value", RECOVERY, || async {
        near.get(key).await.ok()?;
        near.peek(key)?.map(|kept| kept.value)
    })
    .await
}

async fn set(node: Http, key: &str, value: u64) -> Answer {
    node.post("/cache/set", &json!({"key": key, "value": value})).await.unwrap()
}

async fn home(cluster: &Cluster, key: &str) -> u64 {
    cluster.http(1).get(&format!("/cache/line?k={key}")).await.unwrap().json["home"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_near_cache_forgets_before_a_write_returns_whoever_writes() {
    let cluster = Cluster::start(3).await;
    for id in cluster.ids() {
        let near = near(&cluster, id);
        set(cluster.http(id), "k", 0).await;
        assert_eq!(warm(&near, "k").await, 0);
        for round in 1..=20 {
            let writer = cluster.http(round % 3 + 1);
            assert_eq!(set(writer, "k", round).await.status, 200);
            assert!(near.peek("k").is_none_or(|kept| kept.unwrap().value == round), "round {round}");
            assert_eq!(warm(&near, "k").await, round);
        }
        cluster.http(1).post("/cache/delete", &json!({"key": "k"})).await.unwrap();
        assert_eq!(near.get("k").await.unwrap(), None);
        set(cluster.http(2), "k", 99).await;
        assert_eq!(warm(&near, "k").await, 99, "a known absence is a copy as well");
        cluster.http(3).post("/cache/flush", &json!({})).await.unwrap();
        assert_eq!(near.get("k").await.unwrap(), None);
    }
}

/// The last value of the key whose write has returned, and a reader that never sees an older one.
async fn reads_are_fresh(near: Near<u64>, done: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut hits, mut reads) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let before = done.load(Ordering::SeqCst);
        let seen = match near.peek("k") {
            Some(found) => {
                hits += 1;
                found.map(|kept| kept.value)
            }
            None => match tokio::time::timeout(Duration::from_millis(500), near.get("k")).await {
                Ok(Ok(found)) => found.map(|kept| kept.value),
                _ => None,
            },
        };
        reads += 1;
        // A value may become a miss at any time.
        assert!(seen.is_none_or(|seen| seen >= before), "read {seen:?} after {before} was written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (hits, reads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_near_cache_reads_an_old_value_beside_paused_and_killed_nodes() {
    let mut cluster = Cluster::start(3).await;
    let victim = cluster.others(home(&cluster, "k").await)[0];
    let others = cluster.others(victim);
    let (done, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let nears: Vec<Near<u64>> = cluster.ids().into_iter().map(|id| near(&cluster, id)).collect();
    let readers: Vec<_> = nears
        .iter()
        .map(|near| tokio::spawn(reads_are_fresh(near.clone(), Arc::clone(&done), Arc::clone(&stop))))
        .collect();
    let mut round = 0;
    for fault in ["none", "pause", "resume", "kill", "restart"] {
        match fault {
            "pause" => cluster.node(victim).pause(),
            "resume" => cluster.node(victim).resume(),
            "kill" => cluster.node(victim).kill(),
            "restart" => cluster.node(victim).start(),
            _ => {}
        }
        // A pause has to outlast every lease.
        let phase = if fault == "pause" { 2_300 } else { 900 };
        let end = Instant::now() + Duration::from_millis(phase);
        while Instant::now() < end {
            round += 1;
            let writer = cluster.http(others[usize::try_from(round).unwrap() % 2]);
            let body = json!({"key": "k", "value": round});
            if writer.post("/cache/set", &body).await.is_ok_and(|answer| answer.status == 200) {
                done.fetch_max(round, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut hits = 0;
    for reader in readers {
        hits += reader.await.unwrap().0;
    }
    assert!(hits > 100 && done.load(Ordering::SeqCst) > 50, "{hits} hits of {done:?} writes prove nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_near_client_that_stops_to_acknowledge_delays_a_write_by_its_lease_and_no_longer() {
    let cluster = Cluster::start(3).await;
    let home = home(&cluster, "k").await;
    for lender in [home, cluster.others(home)[0]] {
        let node = cluster.http(lender);
        set(node, "k", 1).await;
        let silent = node.post("/cache/near/open", &json!({})).await.unwrap().json["client"].clone();
        let lent = eventually("a lease", RECOVERY, || async {
            let get = json!({"client": silent, "key": "k"});
            let answer = node.post("/cache/near/get", &get).await.ok()?;
            answer.json["lease"]["ms"].as_u64()
        })
        .await;
        assert!((20..=500).contains(&lent), "{lent}");
        let before = Instant::now();
        assert_eq!(set(cluster.http(cluster.others(lender)[0]), "k", 2).await.status, 200);
        let took = before.elapsed();
        assert!(took < CLIENT_LEASE + SLACK, "{took:?}");
        // Its node has lost nothing by it.
        let stats = node.get("/cache/stats").await.unwrap();
        assert_eq!(stats.json["near_lease_expiries"], 1, "{}", stats.text);
        assert_eq!(stats.json["lapsed_leases"], 0, "{}", stats.text);
        let told = node.post("/cache/near/sync", &json!({"client": silent})).await.unwrap();
        assert_eq!((&told.json["forget"][0]["key"], &told.json["leases"]), (&json!("k"), &json!([])));
    }
}

#[tokio::test]
async fn what_is_asked_of_near_caches_is_checked_and_bounded() {
    let settings = crate::kit::Settings::fast(1).with("--near-clients-max", "1");
    let cluster = Cluster::start_with(settings).await;
    let node = cluster.http(1);
    let ask = |path: &'static str, body: Value| async move {
        let answer = node.post(path, &body).await.unwrap();
        (answer.status, answer.code().to_owned(), answer.json)
    };
    let (_, _, opened) = ask("/cache/near/open", json!({})).await;
    let client = &opened["client"];
    let refused = ask("/cache/near/open", json!({})).await;
    assert_eq!((refused.0, refused.1.as_str()), (429, "too_many_near_caches"));
    for (path, body, status, code) in [
        ("/cache/near/get", json!({"client": "1-1", "key": "k"}), 410, "near_closed"),
        ("/cache/near/get", json!({"client": client, "key": ""}), 400, "bad_request"),
        ("/cache/near/get", json!({"client": client, "key": "k", "namespace": "no"}), 404, "no_namespace"),
        ("/cache/near/get", json!({"client": client, "key": "k", "more": 1}), 400, "bad_request"),
        ("/cache/near/sync", json!({"client": "x"}), 410, "near_closed"),
        ("/cache/near/sync", json!({"client": client, "acked": -1}), 400, "bad_request"),
        ("/cache/near/sync", json!({"client": client, "wait_ms": 60_001}), 400, "bad_request"),
    ] {
        let answer = ask(path, body.clone()).await;
        assert_eq!((answer.0, answer.1.as_str()), (status, code), "{path} {body}");
    }
    // Acknowledging what was never said does nothing.
    assert_eq!(ask("/cache/near/sync", json!({"client": client, "acked": u64::MAX})).await.0, 200);
    assert_eq!(ask("/cache/near/close", json!({"client": client})).await.0, 200);
    assert_eq!(ask("/cache/near/open", json!({})).await.0, 200, "there is room again");
}
