//! Nodes that are killed, stopped and started again, under load: nothing acknowledged is lost.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;

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

#[tokio::test]
async fn a_terminated_node_ends_long_polls_and_stays_away() {
    let mut cluster = Cluster::start_with(Settings::fast(3).with("--drain-ms-max", "4000")).await;
    let leaves = cluster.others(cluster.leader().await)[0];
    let stays = cluster.http(cluster.others(leaves)[0]);
    let node = cluster.http(leaves);
    let poll = b"GET /queue/pop?queue=empty&wait_ms=20000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut poll = node.send(poll).await.unwrap();
    // This one is in flight until the end: the node stops for longer than its lease is left alone.
    let head = b"POST /queue/push HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    let _slow = node.send(head).await.unwrap();
    // Connections are accepted in order.
    assert_eq!(node.get("/health").await.unwrap().status, 200);

    let status = cluster.node(leaves).terminate(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let mut answer = String::new();
    poll.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || answer.contains("draining"), "cut off: {answer:?}");
    let members = stays.get("/cluster").await.unwrap();
    let member = members.json["members"].as_array().and_then(|all| all.iter().find(|m| m["id"] == leaves));
    assert_eq!(member.unwrap()["alive"], false, "it came back while it stopped: {}", members.text);
}
