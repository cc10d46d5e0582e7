//! Concurrent histories of locks from real nodes that are killed, paused and cut off, checked
//! against what a lock is.
//!
//! Two kinds of clients share the faults. Those of [`super::lock_clients`] hold until they release;
//! what they were told must fit a lock's model, lock by lock, and the log's own history must keep its
//! order. The leases of the others end by themselves: a hold certainly lasts from the reply to the earlier of its release and `TTL` after the request;
//! no two certain holds of one lock may overlap. Token order must agree with real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::lock_clients::{self, ALONE, LIMIT, PERMITS, SHARED, Seen, World};
use super::lock_events;
use crate::kit::lock_model::is_that_of_a_lock;
use crate::kit::{Cluster, Http, eventually};

/// Clients whose leases end by themselves, and clients that hold until they release.
const CLIENTS: u64 = 3;
const KEEPERS: usize = 6;
const TTL: Duration = Duration::from_millis(1_500);
/// Fewer grants than this prove nothing.
const TOO_FEW: usize = 25;

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

/// What the keepers saw fits a lock, and what the log says keeps its order.
async fn judge(node: Http, seen: Vec<Seen>) {
    for (nth, name) in [ALONE, SHARED, PERMITS].into_iter().enumerate() {
        let calls: Vec<_> = seen.iter().flat_map(|seen| seen.calls[nth].iter().cloned()).collect();
        println!("{name}: {} calls", calls.len());
        assert!(calls.len() >= TOO_FEW, "{} calls of {name} prove nothing", calls.len());
        assert!(is_that_of_a_lock(LIMIT, &calls), "{name} was no lock: {calls:#?}");
    }
    futures::future::join_all([ALONE, SHARED, PERMITS].map(|name| lock_events::history(node, name))).await;
    println!("{} grants were lost and given back", seen.iter().map(|seen| seen.lost).sum::<usize>());
}

/// Tokens at the queue that only holders push to, in the order in which they arrived.
async fn tokens_at_the_queue(node: Http) -> Vec<u64> {
    let mut tokens = Vec::new();
    let target = format!("/queue/pop?queue={ALONE}");
    while let Some(token) = node.get(&target).await.unwrap().json["message"]["payload"].as_u64() {
        tokens.push(token);
    }
    tokens
}

#[tokio::test]
async fn histories_under_faults_are_those_of_a_lock() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(number, nodes.clone(), Arc::clone(&stop)))).collect();
    let world = World::new(nodes.clone());
    let keeper = |nth| lock_clients::Client::new(&world, nth).run(nth);
    let keepers: Vec<_> = (0..KEEPERS).map(|nth| tokio::spawn(keeper(nth))).collect();
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
    world.stop.store(true, Ordering::Relaxed);
    let mut seen = Vec::new();
    for keeper in keepers {
        seen.push(keeper.await.unwrap());
    }
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
    judge(any, seen).await;
    let tokens = tokens_at_the_queue(any).await;
    assert!(tokens.len() >= 10, "{tokens:?} prove nothing");
    assert!(tokens.is_sorted_by(|one, next| one < next), "a token after a later one: {tokens:?}");
}
