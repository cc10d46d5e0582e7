//! Very many leases that end within one second: nobody else waits for it, and the leader stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually};

const LEASES: usize = 50_000;
/// Locks that are taken together, under one lease or in one session.
const TOGETHER: usize = 50;
/// How many ask at once while they are set up.
const SETTERS: usize = 16;
/// When all of them end.
const SET_UP_WITHIN: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(1);

async fn done(http: Http, route: &str, body: Value) -> Value {
    let answer = http.post(route, &body).await.unwrap_or_else(|error| panic!("{route}: {error}"));
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

/// Takes many locks together: half of all in sessions that end in one instant, the others under leases
/// that end one after another within the second after it.
async fn take(http: Http, nth: usize, end: Instant) {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        assert!(left > Duration::from_millis(1_500), "setting up took too long");
        u64::try_from(left.as_millis()).unwrap()
    };
    let names: Vec<_> = (0..TOGETHER).map(|lock| format!("l{nth}-{lock}")).collect();
    let later = if nth.is_multiple_of(2) { 0 } else { nth % 900 };
    let mut body = json!({"names": names, "owner": format!("o{nth}")});
    if nth.is_multiple_of(2) {
        let session = done(http, "/session/open", json!({"owner": "o", "ttl_ms": left()})).await;
        body["session"] = session["session"].clone();
    } else {
        body["ttl_ms"] = (left() + later as u64).into();
    }
    done(http, "/lock/acquire", body).await;
}

/// Takes and gives back until it is told to stop: how often, and the longest that one answer took.
async fn go_on(http: Http, name: String, stop: Arc<AtomicBool>) -> (usize, Duration) {
    let (mut answers, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        for route in ["/lock/acquire", "/lock/release"] {
            let asked = Instant::now();
            done(http, route, json!({"name": name, "owner": "o"})).await;
            longest = longest.max(asked.elapsed());
            answers += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (answers, longest)
}

#[tokio::test]
async fn very_many_leases_that_end_in_one_second_hold_up_nobody() {
    let cluster = Cluster::start(3).await;
    let epoch = |json: Value| json["epoch"].as_u64();
    let before = epoch(cluster.http(1).get("/leader").await.unwrap().json);
    let nodes = cluster.ids().into_iter().map(|id| cluster.http(id)).collect::<Vec<_>>();
    let leader = cluster.http(cluster.leader().await);

    let begun = Instant::now();
    let end = begun + SET_UP_WITHIN;
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let setters = (0..SETTERS).map(|_| {
        let next = Arc::clone(&next);
        async move {
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth * TOGETHER >= LEASES {
                    break;
                }
                take(leader, nth, end).await;
            }
        }
    });
    futures::future::join_all(setters).await;
    println!("{LEASES} locks are held after {:?}", begun.elapsed());

    tokio::time::sleep_until((end - Duration::from_millis(1_200)).into()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (nodes.iter().copied().enumerate())
        .map(|(nth, node)| tokio::spawn(go_on(node, format!("other{nth}"), Arc::clone(&stop))))
        .collect();
    tokio::time::sleep_until((end - Duration::from_millis(300)).into()).await;
    let held = leader.get("/lock/list?prefix=l&limit=1").await.unwrap().json;
    assert_eq!(held["locks"].as_array().map(Vec::len), Some(1), "they end before their time");
    eventually("all of them have ended", Duration::from_secs(20), || async move {
        let left = leader.get("/lock/list?prefix=l&limit=1").await.ok()?.json;
        left["locks"].as_array()?.is_empty().then_some(())
    })
    .await;
    println!("all ended {:?} after their time", end.elapsed());
    stop.store(true, Ordering::Relaxed);
    for other in others {
        let (answers, longest) = other.await.unwrap();
        println!("{answers} answers, the longest after {longest:?}");
        assert!(answers > 20, "{answers} answers prove nothing");
        assert!(longest < LONGEST, "an answer took {longest:?}");
    }
    let after = epoch(cluster.http(1).get("/leader").await.unwrap().json);
    assert_eq!(after, before, "the leader has changed");
}
