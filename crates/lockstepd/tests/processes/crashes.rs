//! Nodes that are killed, stopped and started again, under load: nothing acknowledged is lost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{Cluster, Settings, eventually};
use crate::load::Load;

const CLIENTS: u32 = 6;

/// After a crash the cluster must answer again within this time.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_killed_leader_loses_nothing_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(100, Duration::from_secs(20)).await;

    cluster.node(leader).kill();
    let survivors = cluster.others(leader);
    let killed = Instant::now();
    assert_ne!(cluster.leader_among(&survivors).await, leader);
    load.goes_on(50, RECOVERY.saturating_sub(killed.elapsed())).await;

    cluster.node(leader).start();
    cluster.ready(leader).await;
    load.goes_on(50, RECOVERY).await;
    let told = load.stop().await;
    told.all_delivered(&cluster, &cluster.ids()).await;
}

#[tokio::test]
async fn a_cluster_that_is_killed_as_a_whole_comes_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    let held = json!({"name": "kept", "owner": "keeper", "ttl_ms": 600_000});
    let before = cluster.http(1).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(before.status, 200, "{}", before.text);
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(150, Duration::from_secs(20)).await;

    cluster.kill_all();
    cluster.start_all();
    cluster.all_ready().await;
    load.goes_on(50, RECOVERY).await;
    let told = load.stop().await;

    let again = cluster.http(2).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(again.json["token"], before.json["token"], "the hold has survived: {}", again.text);
    let other = json!({"name": "kept", "owner": "another"});
    let refused = cluster.http(3).post("/lock/acquire", &other).await.unwrap();
    assert_eq!((refused.status, refused.code()), (409, "held"), "{}", refused.text);
    let newer = json!({"name": "new", "owner": "another"});
    let newer = cluster.http(3).post("/lock/acquire", &newer).await.unwrap();
    assert!(newer.json["token"].as_u64() > Some(told.largest_token()), "{}", newer.text);
    told.all_delivered(&cluster, &cluster.ids()).await;
}

#[tokio::test]
async fn a_follower_that_was_away_catches_up_by_log_and_by_snapshot() {
    let mut cluster = Cluster::start_with(Settings::fast(3).with("--snapshot-bytes", "65536")).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(20, Duration::from_secs(20)).await;
    cluster.node(away).kill();
    load.goes_on(100, RECOVERY).await;
    push_a_mebibyte(&cluster, leader).await;
    cluster.node(away).start();
    cluster.ready(away).await;

    // From here on nothing commits without the follower that was away.
    let third = cluster.others(away).into_iter().find(|id| *id != leader).unwrap();
    cluster.node(third).kill();
    load.goes_on(50, RECOVERY).await;
    let told = load.stop().await;
    let bulk = drain_bulk(&cluster, away).await;
    assert_eq!(bulk, 64, "every large message is there, read through the follower that was away");
    told.all_delivered(&cluster, &[away, leader]).await;
}

/// More than what lies between two snapshots.
async fn push_a_mebibyte(cluster: &Cluster, through: u64) {
    let payload = "x".repeat(16 << 10);
    for number in 0..64 {
        let body = json!({"queue": "bulk", "payload": payload, "request_id": format!("bulk-{number}")});
        eventually("a large push", RECOVERY, || async {
            let answer = cluster.http(through).post("/queue/push", &body).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

async fn drain_bulk(cluster: &Cluster, through: u64) -> usize {
    for taken in 0.. {
        let answer = cluster.http(through).get("/queue/pop?queue=bulk").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        if answer.json["message"].is_null() {
            return taken;
        }
    }
    0
}

#[tokio::test]
async fn a_terminated_node_exits_with_success_under_load_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(50, Duration::from_secs(20)).await;

    let status = cluster.node(leader).terminate(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    load.goes_on(50, RECOVERY).await;
    cluster.node(leader).start();
    cluster.ready(leader).await;
    load.goes_on(20, RECOVERY).await;
    let told = load.stop().await;
    told.all_delivered(&cluster, &cluster.ids()).await;
}
