//! Consumers that wait for a message: however many they are, they cost next to nothing until it comes, and
//! then they have it at once. `LOCKSTEP_WAITERS=1000` lets more of them wait than fit into everyday tests.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kit::{Cluster, Http, eventually};

/// Linux tells processor time in hundredths of a second, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;
/// What is looked at for so long.
const LOOK: Duration = Duration::from_secs(2);

async fn ok(node: Http, route: &str, body: Value) -> Value {
    let answer = node.post(route, &body).await.expect("a healthy cluster answers");
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

/// The log index of each queue shard at each node.
async fn indexes(cluster: &Cluster) -> Vec<(u64, u64, u64)> {
    let mut indexes = Vec::new();
    for id in cluster.ids() {
        let answer = cluster.http(id).get("/cluster").await.expect("a healthy cluster answers");
        for shard in answer.json["shards"].as_array().expect("shards") {
            let number = |name: &str| shard[name].as_u64().unwrap_or_else(|| panic!("{name} of {shard}"));
            indexes.push((id, number("id"), number("applied")));
        }
    }
    // Members renew their leases in shard 0, whoever waits.
    indexes.retain(|(_, shard, _)| *shard != 0);
    assert!(!indexes.is_empty(), "no queue shards: the test proves nothing");
    indexes
}

/// Seconds of processor time that all nodes have used.
fn cpu(cluster: &mut Cluster) -> f64 {
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields = stat.rsplit(')').next().expect("fields behind the name").split_whitespace();
        let times: Vec<f64> = fields.skip(11).take(2).map(|ticks| ticks.parse().expect("ticks")).collect();
        times.iter().sum::<f64>() / TICKS_PER_SECOND
    };
    cluster.ids().into_iter().map(|id| ticks(cluster.node(id).pid())).sum()
}

/// Processor time of all nodes in a while in which nothing is asked of them.
async fn cost(cluster: &mut Cluster) -> f64 {
    let before = cpu(cluster);
    tokio::time::sleep(LOOK).await;
    cpu(cluster) - before
}

fn wait_for_one(waiting: &mut JoinSet<Instant>, node: Http) {
    let node = node.patient(Duration::from_secs(70));
    waiting.spawn(async move {
        let body = json!({"queue": "awaited", "wait_ms": 60_000});
        let answer = node.post("/queue/receive", &body).await.expect("an answer");
        let told = Instant::now();
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(!answer.json["messages"][0].is_null(), "{}", answer.text);
        told
    });
}

#[tokio::test]
async fn consumers_that_wait_write_nothing_cost_next_to_nothing_and_wake_at_once() {
    let count: u64 = std::env::var("LOCKSTEP_WAITERS").map_or(300, |count| count.parse().expect("a number"));
    let mut cluster = Cluster::start(3).await;
    ok(cluster.http(1), "/queue/push", json!({"queue": "awaited", "payload": "warm"})).await;
    ok(cluster.http(2), "/queue/pop", json!({"queue": "awaited"})).await;
    let idle = cost(&mut cluster).await;

    let mut waiting = JoinSet::new();
    (0..count).for_each(|nth| wait_for_one(&mut waiting, cluster.http(nth % 3 + 1)));
    // Each has looked at every shard by now, or the nodes would be busy.
    let mut costs = Vec::new();
    for _ in 0..5 {
        let before = indexes(&cluster).await;
        costs.push(cost(&mut cluster).await);
        assert_eq!(indexes(&cluster).await, before, "{count} consumers of an empty queue wrote to its log");
        if costs[costs.len() - 1] < idle + 0.1 * LOOK.as_secs_f64() {
            break;
        }
    }
    let least = costs[costs.len() - 1];
    println!(
        "{count} consumers wait for {least:.2} s of processor time in {LOOK:?}; without them {idle:.2} s"
    );
    assert!(least < idle + 0.1 * LOOK.as_secs_f64(), "{costs:?} s for {count} consumers, {idle} s without");
    assert_eq!(waiting.len() as u64, count, "somebody gave up");

    for node in cluster.ids() {
        ok(cluster.http(node), "/queue/push", json!({"queue": "awaited", "payload": "one"})).await;
        let pushed = Instant::now();
        let told = waiting.join_next().await.expect("somebody waited").expect("it got the message");
        println!("pushed at node {node}, received {:?} later", told.saturating_duration_since(pushed));
        assert!(told < pushed + Duration::from_secs(1), "{:?} after the push", told - pushed);
    }
    let messages: Vec<Value> =
        (3..count).map(|nth| json!({"payload": nth, "key": format!("k{nth}")})).collect();
    for messages in messages.chunks(500) {
        ok(cluster.http(3), "/queue/push", json!({"queue": "awaited", "messages": messages})).await;
    }
    let begun = Instant::now();
    while let Some(done) =
        tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await.expect("everybody is woken")
    {
        done.expect("it got a message");
    }
    println!("the other {} received {:?} later", count - 3, begun.elapsed());
    let left = eventually("all are in flight", Duration::from_secs(5), || async {
        let stats = cluster.http(1).get("/queue/stats?queue=awaited").await.ok()?.json;
        (stats["in_flight"] == count).then_some(stats)
    })
    .await;
    assert_eq!(left["ready"], 0, "{left}");
}
