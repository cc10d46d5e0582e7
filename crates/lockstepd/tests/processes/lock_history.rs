//! Concurrent histories of locks from real nodes that are killed, paused and cut off, checked
//! against what a lock is.
//!
//! A hold certainly lasts from the reply to the earlier of its release and `TTL` after the request;
//! no two certain holds of one lock may overlap. Token order must agree with real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{Cluster, Http, eventually};

const CLIENTS: u64 = 6;
const TTL: Duration = Duration::from_millis(1_500);
/// Fewer grants than this prove nothing.
const TOO_FEW: usize = 40;

#[derive(Clone, Debug)]
struct Hold {
    lock: String,
    token: u64,
    asked: Instant,
    granted: Instant,
    /// When its release was sent.
    until: Instant,
}

impl Hold {
    fn certain_end(&self) -> Instant {
        self.until.min(self.asked + TTL)
    }
}

async fn client(number: u64, nodes: Vec<Http>, stop: Arc<AtomicBool>) -> Vec<Hold> {
    let mut holds = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let node = nodes[usize::try_from(number + round).unwrap() % nodes.len()];
        let (lock, owner) = (format!("lock{}", round % 2), format!("c{number}-{round}"));
        let body = json!({"name":lock,"owner":owner,"ttl_ms":1_500,"wait_ms":1_000,"request_id":owner});
        let asked = Instant::now();
        let answer = node.patient(Duration::from_secs(4)).post("/lock/acquire", &body).await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let granted = Instant::now();
        tokio::time::sleep(Duration::from_millis(5 + number * 3)).await;
        let token = answer.json["token"].as_u64().unwrap();
        let until = Instant::now();
        holds.push(Hold { lock: lock.clone(), token, asked, granted, until });
        let body = json!({"name":lock,"owner":owner,"token":token});
        let _ = node.patient(Duration::from_secs(4)).post("/lock/release", &body).await;
    }
    holds
}

fn check(holds: &[Hold]) {
    for (nth, one) in holds.iter().enumerate() {
        for other in &holds[nth + 1..] {
            assert!(one.token != other.token, "two grants share a token: {one:?}, {other:?}");
            if one.lock != other.lock {
                continue;
            }
            let (first, second) = if one.token < other.token { (one, other) } else { (other, one) };
            assert!(first.asked < second.granted, "token order against real time: {first:?}, {second:?}");
            let apart = first.certain_end() <= second.granted || second.certain_end() <= first.granted;
            assert!(apart, "two certainly held it at once: {first:?}, {second:?}");
        }
    }
}

#[tokio::test]
async fn histories_under_faults_are_those_of_a_lock() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(number, nodes.clone(), Arc::clone(&stop)))).collect();
    let pause = || tokio::time::sleep(Duration::from_millis(1_200));

    pause().await;
    let leader = cluster.leader().await;
    cluster.node(leader).kill();
    pause().await;
    cluster.start_all();
    cluster.all_ready().await;

    let leader = cluster.leader().await;
    cluster.node(leader).pause();
    pause().await;
    pause().await;
    cluster.node(leader).resume();
    cluster.all_ready().await;

    let leader = cluster.leader().await;
    cluster.isolate(leader);
    pause().await;
    pause().await;
    cluster.heal();
    cluster.all_ready().await;
    pause().await;

    stop.store(true, Ordering::Relaxed);
    let mut holds = Vec::new();
    for client in clients {
        holds.extend(client.await.unwrap());
    }
    assert!(holds.len() >= TOO_FEW, "{} grants prove nothing", holds.len());
    check(&holds);

    // Nobody is left holding or waiting for ever.
    let any = nodes[0];
    eventually("every lock is free again", Duration::from_secs(20), || async move {
        let locks = any.get("/lock/list").await.ok()?.json;
        locks["locks"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}
