//! A node whose clocks jump by an hour, while locks are held, leases renewed and sessions kept alive.
//!
//! `libfaketime` moves them: the wall clock there and back, and the clock that counts from boot
//! forwards, as it moves while a machine is suspended. Nobody else notices either.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::kit::{Answer, Cluster, Http, Settings, eventually};

const HOUR_S: i64 = 3_600;
/// The lease that is left to end.
const LEASE: Duration = Duration::from_secs(4);
/// Of what is kept alive: longer than a busy machine keeps a renewal waiting.
const KEPT_MS: u64 = 8_000;
/// What a lease may last longer, on a machine that is busy with other tests.
const LATE_AT_MOST: Duration = Duration::from_secs(12);
/// One entry advances log time by no more than this, whatever the leader's clock says.
const STEP_MS: u64 = 1_000;

/// The offset of a node's clocks, as `libfaketime` reads it.
struct Offset(PathBuf);

impl Offset {
    fn set(&self, seconds: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("write the offset");
        std::fs::rename(&new, &self.0).expect("publish the offset");
    }
}

fn library() -> PathBuf {
    let name = "faketime/libfaketimeMT.so.1";
    let mut places = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
    places.extend(std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path()));
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no {name}. Tests of clocks need it: install libfaketime"))
}

/// The environment of a node whose clocks all go so many times as fast as the kernel's.
pub(super) fn drifting(rate: &str) -> Vec<(String, String)> {
    let env = |name: &str, value: String| (name.to_owned(), value);
    vec![
        env("LD_PRELOAD", library().display().to_string()),
        env("FAKETIME", format!("+0 x{rate}")),
        env("NO_FAKE_STAT", "1".to_owned()),
    ]
}

/// Three nodes, each with clocks of its own.
async fn start(options: &[(&str, &str)]) -> (Cluster, Vec<Offset>) {
    let mut cluster = Cluster::prepare(Settings::fast(3)).await;
    let mut offsets = Vec::new();
    for id in cluster.ids() {
        let file = cluster.directory().join(format!("offset{id}"));
        let env = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        let node = cluster.node(id);
        node.env = vec![
            env("LD_PRELOAD", &library()),
            env("FAKETIME_TIMESTAMP_FILE", &file),
            env("FAKETIME_CACHE_DURATION", Path::new("1")),
            env("NO_FAKE_STAT", Path::new("1")),
        ];
        node.env.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let offset = Offset(file);
        offset.set(0);
        offsets.push(offset);
    }
    cluster.start_all();
    cluster.all_ready().await;
    (cluster, offsets)
}

/// Asks node after node under one request id until there is a definite answer.
async fn sure(nodes: &[Http], route: &str, mut body: Value) -> Answer {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    body["request_id"] = format!("sure-{nth}").into();
    let wait = Duration::from_millis(body["wait_ms"].as_u64().unwrap_or(0));
    let end = Instant::now() + Duration::from_secs(40) + wait;
    for turn in usize::try_from(nth).unwrap().. {
        let node = nodes[turn % nodes.len()].patient(Duration::from_millis(2_500) + wait);
        if let Ok(answer) = node.post(route, &body).await
            && !matches!(answer.status, 503 | 504)
        {
            return answer;
        }
        assert!(Instant::now() < end, "no answer: {route} {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it goes on until there is an answer")
}

async fn done(nodes: &[Http], route: &str, body: Value) -> Value {
    let answer = sure(nodes, route, body.clone()).await;
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
    answer.json
}

struct World {
    nodes: Vec<Http>,
    stop: AtomicBool,
    /// How much earlier a lease may end for a boot clock that jumped.
    early: Duration,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// A lease that is renewed is never lost.
async fn renews(world: Arc<World>) -> usize {
    let held = json!({"name": "renewed", "owner": "r", "ttl_ms": KEPT_MS});
    let token = done(&world.nodes, "/lock/acquire", held).await["token"].clone();
    let mut renewals = 0;
    while world.goes_on() {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let renew = json!({"name": "renewed", "owner": "r", "token": token});
        assert_eq!(done(&world.nodes, "/lock/renew", renew).await["token"], token);
        renewals += 1;
    }
    renewals
}

/// A session that is renewed keeps its lock.
async fn keeps_a_session(world: Arc<World>) -> usize {
    let open = json!({"owner": "s", "ttl_ms": KEPT_MS});
    let session = done(&world.nodes, "/session/open", open).await["session"].clone();
    let take = json!({"name": "kept", "owner": "s", "session": session});
    let token = done(&world.nodes, "/lock/acquire", take).await["token"].clone();
    let mut beats = 0;
    while world.goes_on() {
        tokio::time::sleep(Duration::from_millis(400)).await;
        done(&world.nodes, "/session/renew", json!({"session": session})).await;
        beats += 1;
    }
    let release = json!({"name": "kept", "owner": "s", "session": session, "token": token});
    done(&world.nodes, "/lock/release", release).await;
    beats
}

/// A lease or session that is left alone ends, and not before its time.
async fn lets_end(world: Arc<World>, name: String, by_session: bool) -> usize {
    let mut ends = 0;
    while world.goes_on() {
        let ttl_ms = LEASE.as_millis() as u64;
        let asked = Instant::now();
        let mut take = json!({"name": name, "owner": "first"});
        if by_session {
            let open = json!({"owner": "first", "ttl_ms": ttl_ms});
            take["session"] = done(&world.nodes, "/session/open", open).await["session"].clone();
        } else {
            take["ttl_ms"] = ttl_ms.into();
        }
        let first = done(&world.nodes, "/lock/acquire", take).await;
        let granted = Instant::now();
        let next = json!({"name": name, "owner": "next", "wait_ms": 30_000, "ttl_ms": 600_000});
        let next = done(&world.nodes, "/lock/acquire", next).await;
        let (least, most) = (asked.elapsed(), granted.elapsed());
        assert!(least + world.early >= LEASE, "{name} ended after {least:?}");
        assert!(most <= LEASE + LATE_AT_MOST, "{name} lived on for {most:?}");
        assert!(next["token"].as_u64() > first["token"].as_u64(), "{name}: {next} after {first}");
        let release = json!({"name": name, "owner": "next", "token": next["token"]});
        done(&world.nodes, "/lock/release", release).await;
        ends += 1;
    }
    ends
}

async fn tokens_grow(world: Arc<World>) -> usize {
    let (mut last, mut grants) = (0, 0);
    while world.goes_on() {
        let owner = format!("t{grants}");
        let take = json!({"name": "tokens", "owner": owner, "ttl_ms": 600_000});
        let token = done(&world.nodes, "/lock/acquire", take).await["token"].as_u64().unwrap();
        assert!(token > last, "{token} after {last}");
        let release = json!({"name": "tokens", "owner": owner, "token": token});
        done(&world.nodes, "/lock/release", release).await;
        (last, grants) = (token, grants + 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    grants
}

/// Waits until the wall clock of a node is where it was put: the audit log shows it.
async fn jumped(cluster: &Cluster, id: u64, seconds: i64) {
    static PROBES: LazyLock<AtomicU64> = LazyLock::new(AtomicU64::default);
    let (node, nodes) = (cluster.http(id), cluster.ids().into_iter().map(|id| cluster.http(id)));
    let nodes: Vec<Http> = nodes.collect();
    eventually("the clock of the node has jumped", Duration::from_secs(20), || async {
        let name = format!("probe{}", PROBES.fetch_add(1, Ordering::Relaxed));
        done(&nodes, "/lock/acquire", json!({"name": name, "owner": "p"})).await;
        let broken = json!({"name": name, "reason": "what time is it?", "by": "test"});
        node.post("/lock/break", &broken).await.ok().filter(|answer| answer.status == 200)?;
        let audit = node.get(&format!("/lock/audit?name={name}")).await.ok()?.json;
        let shown = audit["entries"][0]["at_ms"].as_i64()? / 1_000;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let offset = shown - i64::try_from(now.as_secs()).unwrap();
        ((offset - seconds).abs() < 120).then_some(())
    })
    .await;
}

async fn a_jump_is_noticed_by_nobody(options: &[(&str, &str)], offsets: &[i64], early: Duration) {
    let (mut cluster, clocks) = start(options).await;
    let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id)).collect();
    let world = Arc::new(World { nodes: nodes.clone(), stop: AtomicBool::new(false), early });
    let mut tasks = vec![
        tokio::spawn(renews(Arc::clone(&world))),
        tokio::spawn(keeps_a_session(Arc::clone(&world))),
        tokio::spawn(tokens_grow(Arc::clone(&world))),
    ];
    for nth in 0..4 {
        tasks.push(tokio::spawn(lets_end(Arc::clone(&world), format!("ends{nth}"), nth % 2 == 1)));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let leader = cluster.leader().await;
    let clock = &clocks[usize::try_from(leader - 1).unwrap()];
    for seconds in offsets {
        clock.set(*seconds);
        jumped(&cluster, leader, *seconds).await;
        assert!(cluster.ids().into_iter().all(|id| cluster.node(id).runs()), "a node has ended");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    world.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        assert!(task.await.unwrap() > 0, "one of them has done nothing");
    }
    cluster.leader().await;
    for id in cluster.ids() {
        assert!(cluster.node(id).terminate(Duration::from_secs(20)).await.success(), "node {id}");
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_by_an_hour_decides_nothing() {
    // The clock that counts from boot is the kernel's.
    let wall = [("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    a_jump_is_noticed_by_nobody(&wall, &[HOUR_S, 0, -HOUR_S, 0], Duration::ZERO).await;
}

#[tokio::test]
async fn an_hour_that_only_one_node_has_slept_ends_no_lease() {
    let offsets = [HOUR_S, 2 * HOUR_S];
    let early = Duration::from_millis(STEP_MS * offsets.len() as u64);
    a_jump_is_noticed_by_nobody(&[], &offsets, early).await;
}
