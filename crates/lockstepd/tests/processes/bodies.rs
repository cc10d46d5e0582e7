//! Message bodies outside memory: crashes, damage, and disks that fill up.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Cluster, Settings, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// Hardly any memory for bodies, and snapshots soon.
fn settings() -> Settings {
    Settings::fast(3).with("--body-cache-bytes-max", "65536").with("--snapshot-bytes", "1048576")
}

/// A payload that tells its place, of `kib` KiB.
fn payload(number: u64, kib: usize) -> Value {
    json!(format!("{number} {}", "x".repeat(kib << 10)))
}

fn number_of(payload: &Value) -> u64 {
    let text = payload.as_str().expect("a string");
    let (number, rest) = text.split_once(' ').expect("our payload");
    assert!(rest.bytes().all(|byte| byte == b'x'), "a payload is not what was pushed");
    number.parse().expect("our payload")
}

/// Pushes a batch under four keys; says which of them were taken.
async fn push(cluster: &Cluster, through: u64, numbers: std::ops::Range<u64>, kib: usize) -> Vec<u64> {
    let one = |number| json!({"key": format!("key {}", number % 4), "payload": payload(number, kib)});
    let messages: Vec<Value> = numbers.clone().map(one).collect();
    let body = json!({"messages": messages, "request_id": format!("push {}", numbers.start)});
    let answer = eventually("a push is answered", PATIENCE, || async {
        let answer = cluster.http(through).post("/queue/push", &body).await.ok()?;
        (answer.status == 200).then_some(answer)
    })
    .await;
    let results = answer.json["results"].as_array().cloned().unwrap_or_default();
    let code = |result: &Value| result["error"]["code"].as_str().map(str::to_owned);
    for result in &results {
        assert!(matches!(code(result).as_deref(), None | Some("storage_full")), "{result}");
    }
    numbers.zip(results).filter(|(_, result)| result["error"].is_null()).map(|(number, _)| number).collect()
}

/// Takes and acknowledges at most `max` messages.
async fn take(cluster: &Cluster, through: u64, max: u64) -> Vec<u64> {
    let body = json!({"max": max, "visibility_ms": 60_000});
    let answer = eventually("a receive is answered", PATIENCE, || async {
        let answer = cluster.http(through).post("/queue/receive", &body).await.ok()?;
        (answer.status == 200).then_some(answer)
    })
    .await;
    let messages = answer.json["messages"].as_array().cloned().unwrap_or_default();
    let receipts: Vec<&Value> = messages.iter().map(|message| &message["receipt"]).collect();
    if !receipts.is_empty() {
        let acked = cluster.http(through).post("/queue/ack", &json!({"receipts": receipts})).await.unwrap();
        assert_eq!(acked.status, 200, "{}", acked.text);
        let failed =
            acked.json["results"].as_array().into_iter().flatten().find(|one| !one["error"].is_null());
        assert!(failed.is_none(), "{}", acked.text);
    }
    messages.iter().map(|message| number_of(&message["payload"])).collect()
}

/// Takes everything: exactly `expected`, each key's in order.
async fn drain(cluster: &Cluster, through: &[u64], mut expected: Vec<u64>) {
    let mut taken = Vec::new();
    for turn in 0.. {
        let some = take(cluster, through[turn % through.len()], 50).await;
        if some.is_empty() {
            break;
        }
        taken.extend(some);
    }
    for key in 0..4 {
        let of_key: Vec<u64> = taken.iter().copied().filter(|number| number % 4 == key).collect();
        assert!(of_key.is_sorted_by(|a, b| a < b), "key {key}: {of_key:?}");
    }
    taken.sort_unstable();
    expected.sort_unstable();
    assert_eq!(taken, expected);
}

fn body_files(data: &Path) -> Vec<std::path::PathBuf> {
    let shards = std::fs::read_dir(data.join("bodies")).into_iter().flatten().flatten();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).collect()
}

#[tokio::test]
async fn bodies_beyond_memory_survive_a_kill_of_all_nodes_in_order() {
    let mut cluster = Cluster::start_with(settings()).await;
    let mut waiting = Vec::new();
    for batch in 0..15 {
        waiting.extend(push(&cluster, 1 + batch % 3, batch * 20..(batch + 1) * 20, 20).await);
    }
    for _ in 0..4 {
        let done = take(&cluster, 2, 10).await;
        waiting.retain(|number| !done.contains(number));
    }
    cluster.kill_all();
    cluster.start_all();
    cluster.all_ready().await;
    waiting.extend(push(&cluster, 1, 300..310, 20).await);
    assert!(waiting.len() > 250);
    let ids = cluster.ids();
    drain(&cluster, &ids, waiting).await;
}

#[tokio::test]
async fn a_flipped_bit_in_bodies_is_never_served_and_another_members_copy_is() {
    let mut cluster = Cluster::start_with(settings()).await;
    let mut waiting = Vec::new();
    for batch in 0..6 {
        waiting.extend(push(&cluster, 1, batch * 10..(batch + 1) * 10, 40).await);
    }
    // Two of three copies are damaged, under running nodes.
    let mut flipped = 0;
    for id in [1, 2] {
        for file in body_files(&cluster.node(id).data.clone()) {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes.iter_mut().skip(1_000).step_by(20_000).for_each(|byte| *byte ^= 1);
            flipped += bytes.len() / 20_000;
            std::fs::write(&file, bytes).unwrap();
        }
    }
    assert!(flipped > 30, "only {flipped} bits were flipped");
    drain(&cluster, &[1, 2, 3], waiting).await;
    let logs = [1, 2].map(|id| cluster.node(id).log_text()).concat();
    assert!(logs.contains("damaged") && logs.contains(".bodies"), "nobody says which file is damaged");
}

/// A file system of its own, in memory, for as long as this lives.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    /// `None` where this user may not mount anything.
    fn tmpfs(path: &'a Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("create the place");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "lockstep-test"]).arg(path);
        let mounted = command.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Lazily: a node may still be at its end.
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_pushes_loses_nothing_and_recovers() {
    let mut cluster = Cluster::prepare(settings()).await;
    let data = cluster.node(2).data.clone();
    let Some(_mount) = Mount::tmpfs(&data, "size=96m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    cluster.start_all();
    cluster.all_ready().await;
    let (mut waiting, mut next, mut refused) = (Vec::new(), 0, false);
    while !refused {
        assert!(next < 1_500, "a disk of 96 MiB takes everything");
        let taken = push(&cluster, 1 + next % 3, next..next + 8, 100).await;
        refused = taken.is_empty();
        waiting.extend(taken);
        next += 8;
    }
    assert!(waiting.len() > 100, "refused after {} messages", waiting.len());
    let single = json!({"payload": "one more", "key": "key 0"});
    let answer = cluster.http(3).post("/queue/push", &single).await.unwrap();
    assert_eq!((answer.status, answer.code()), (429, "storage_full"), "{}", answer.text);
    // Acknowledging and pushing in one step is refused as a whole: the receipt is still good for the one alone.
    let received = cluster.http(2).post("/queue/receive", &json!({"visibility_ms": 60_000})).await.unwrap();
    let held = received.json["messages"][0].clone();
    let both = json!({"receipt": held["receipt"], "push": [{"payload": "one more"}]});
    let answer = cluster.http(3).post("/queue/ack", &both).await.unwrap();
    assert_eq!((answer.status, answer.code()), (429, "storage_full"), "{}", answer.text);
    let answer = cluster.http(1).post("/queue/ack", &json!({"receipt": held["receipt"]})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    waiting.retain(|number| *number != number_of(&held["payload"]));
    // Everything else goes on: locks, receives, acknowledgements.
    let lock = cluster.http(1).post("/lock/acquire", &json!({"name": "l", "owner": "o"})).await.unwrap();
    assert_eq!(lock.status, 200, "{}", lock.text);
    let half = waiting.len() / 2;
    let mut done = Vec::new();
    while done.len() < half {
        done.extend(take(&cluster, 2, 20).await);
    }
    waiting.retain(|number| !done.contains(number));
    // Space comes back, without a restart.
    let taken = eventually("pushes are taken again", PATIENCE, || async {
        push(&cluster, 2, next..next + 1, 1).await.pop()
    });
    waiting.push(taken.await);
    assert!(cluster.node(2).runs(), "the node with the small disk still runs");
    cluster.kill_all();
    cluster.start_all();
    cluster.all_ready().await;
    drain(&cluster, &[1, 2, 3], waiting).await;
    cluster.kill_all();
}
