//! Concurrent histories of cache keys from real nodes that are paused, killed and cut off, checked
//! against what a register is that may lose its value at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clocks;
use crate::kit::counter::{self, Sum};
use crate::kit::register::{Op, What, check};
use crate::kit::{Answer, Cluster, Http, Settings};

const CLIENTS: u64 = 6;
/// Keys of each namespace: one is written through, and the lines of the other have owners.
const KEYS: u64 = 3;
const SPACES: [&str; 2] = ["default", "back"];
/// Clients that count, in each namespace.
const COUNTERS: usize = 2;
/// Fewer reads that saw a value prove nothing.
const TOO_FEW: usize = 200;

type History = Vec<(String, Op)>;

/// What clients have in common.
struct World {
    nodes: Vec<Http>,
    begun: Instant,
    stop: AtomicBool,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// What one client does: the same for the same number, as far as answers allow.
async fn client(number: u64, world: Arc<World>) -> History {
    let (nodes, begun) = (&world.nodes, world.begun);
    let mut history = History::new();
    let mut seen: Option<(String, Value, String)> = None;
    for round in 0u64.. {
        if !world.goes_on() {
            break;
        }
        let node = nodes[usize::try_from(number + round / 7).unwrap() % nodes.len()];
        let node = node.patient(Duration::from_secs(4));
        let space = SPACES[usize::try_from((number + round / 5) % 2).unwrap()];
        let key = format!("r{}", (number + round / 3) % KEYS);
        let of = format!("{space} {key}");
        let name = format!("{number}-{round}");
        let start = begun.elapsed();
        let (answer, what) = match round % 10 {
            3 | 7 => {
                let body = json!({"key": key, "namespace": space, "value": name});
                (node.post("/cache/set", &body).await, Some(What::Write(name)))
            }
            5 => match seen.take() {
                Some((last, from, version)) if last == of => {
                    let body = json!({"key": key, "namespace": space, "value": name, "if_version": version});
                    let from = from.as_str().unwrap_or_default().to_owned();
                    (node.post("/cache/set", &body).await, Some(What::Swap(from, name)))
                }
                _ => continue,
            },
            9 if number == 0 => {
                let body = json!({"key": key, "namespace": space});
                (node.post("/cache/delete", &body).await, Some(What::Delete))
            }
            _ => (node.get(&format!("/cache/get?k={key}&namespace={space}")).await, None),
        };
        let end = Some(begun.elapsed());
        match (answer, what) {
            (Ok(Answer { status: 200, json, .. }), None) => {
                let value = json["value"].as_str().unwrap_or_default().to_owned();
                let version = json["version"].as_str().unwrap_or_default().to_owned();
                seen = Some((of.clone(), json["value"].clone(), version));
                history.push((of, Op { start, end, what: What::Read(value) }));
            }
            (Ok(Answer { status: 200, .. }), Some(what)) => history.push((of, Op { start, end, what })),
            // Certainly not done.
            (Ok(Answer { status: 400..=499 | 503, .. }), _) | (_, None) => {}
            (_, Some(what)) => history.push((of, Op { start, end: None, what })),
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    history
}

/// Increments of one key in a namespace: what was answered, and how many may have been done besides.
async fn counting(number: usize, space: &'static str, world: Arc<World>) -> (Vec<Sum>, u64) {
    let (mut sums, mut unknown) = (Vec::new(), 0);
    for round in number.. {
        if !world.goes_on() {
            break;
        }
        let node = world.nodes[round / 5 % world.nodes.len()].patient(Duration::from_secs(4));
        let start = world.begun.elapsed();
        match node.post("/cache/incr", &json!({"key": "count", "namespace": space})).await {
            Ok(answer) if answer.status == 200 => {
                let version = counter::version(answer.json["version"].as_str().unwrap());
                let value = answer.json["value"].as_u64().unwrap();
                sums.push(Sum { start, end: world.begun.elapsed(), version, value });
            }
            Ok(answer) if answer.status == 503 => {}
            _ => unknown += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (sums, unknown)
}

/// A paused node, a link cut one way and one cut both ways, a killed node.
async fn make_trouble(cluster: &mut Cluster) {
    let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
    wait(600).await;
    cluster.node(2).pause();
    wait(2_400).await;
    cluster.node(2).resume();
    wait(400).await;
    cluster.cut_one_way(1, 3);
    wait(1_500).await;
    cluster.heal();
    cluster.cut(2, 3);
    wait(1_200).await;
    cluster.heal();
    cluster.node(3).kill();
    wait(400).await;
    cluster.node(3).start();
    cluster.ready(3).await;
    wait(600).await;
}

async fn histories_are_those_of_registers(mut cluster: Cluster) {
    let nodes: Vec<Http> = cluster.ids().into_iter().map(|id| cluster.http(id)).collect();
    let back = json!({"namespace": "back", "write": "back"});
    let configured = nodes[0].post("/cache/namespace", &back).await.unwrap();
    assert_eq!(configured.status, 200, "{}", configured.text);
    let world = Arc::new(World { nodes, begun: Instant::now(), stop: AtomicBool::new(false) });
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(number, Arc::clone(&world)))).collect();
    let counters: Vec<_> = (0..COUNTERS * SPACES.len())
        .map(|n| tokio::spawn(counting(n, SPACES[n % SPACES.len()], Arc::clone(&world))))
        .collect();
    make_trouble(&mut cluster).await;
    world.stop.store(true, Ordering::Relaxed);

    let mut history = History::new();
    for client in clients {
        history.extend(client.await.unwrap());
    }
    let mut counted = vec![(Vec::new(), 0); SPACES.len()];
    for (n, counter) in counters.into_iter().enumerate() {
        let (sums, unknown) = counter.await.unwrap();
        counted[n % SPACES.len()].0.extend(sums);
        counted[n % SPACES.len()].1 += unknown;
    }
    let reads = history.iter().filter(|(_, op)| matches!(op.what, What::Read(_))).count();
    assert!(reads >= TOO_FEW, "{reads} reads prove nothing");
    for (space, (sums, unknown)) in SPACES.iter().zip(counted) {
        assert!(sums.len() >= 20, "{} sums prove nothing", sums.len());
        if let Err(why) = counter::check(&sums, unknown) {
            panic!("{space} does not count: {why}");
        }
        for key in (0..KEYS).map(|key| format!("{space} r{key}")) {
            let of_key = history.iter().filter(|(of, _)| *of == key).map(|(_, op)| op.clone());
            if let Err(why) = check(&of_key.collect::<Vec<Op>>()) {
                panic!("{key} is no register: {why}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_those_of_registers_that_may_lose_their_value() {
    histories_are_those_of_registers(Cluster::start(3).await).await;
}

/// As far apart as leases allow for: each a hundredth off, in opposite directions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_with_a_fast_and_a_slow_clock_are_those_of_registers() {
    let mut cluster = Cluster::prepare(Settings::fast(3)).await;
    cluster.node(1).env = clocks::drifting("1.01");
    cluster.node(3).env = clocks::drifting("0.99");
    cluster.start_all();
    cluster.all_ready().await;
    histories_are_those_of_registers(cluster).await;
}

#[tokio::test]
async fn a_write_beside_a_paused_sharer_returns_within_its_lease_and_margin() {
    const LEASE: Duration = Duration::from_millis(2_000 + 20 + 50);
    let mut cluster = Cluster::start(3).await;
    let line = cluster.http(1).get("/cache/line?k=k").await.unwrap().json;
    let home = line["home"].as_u64().unwrap();
    let [sharer, writer] = cluster.others(home)[..] else { panic!("{line}") };
    let set = |cluster: &Cluster, value: u64| {
        let node = cluster.http(writer);
        async move {
            let before = Instant::now();
            let answer = node.post("/cache/set", &json!({"key": "k", "value": value})).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text);
            before.elapsed()
        }
    };
    set(&cluster, 1).await;
    cluster.http(sharer).get("/cache/get?k=k").await.unwrap();
    let quick = set(&cluster, 2).await;
    assert!(quick < Duration::from_millis(700), "no sharer was paused, and it took {quick:?}");
    cluster.http(sharer).get("/cache/get?k=k").await.unwrap();
    cluster.node(sharer).pause();
    let slow = set(&cluster, 3).await;
    cluster.node(sharer).resume();
    assert!(slow > Duration::from_millis(500), "it did not wait for the sharer: {slow:?}");
    assert!(slow < LEASE + Duration::from_millis(700), "it waited longer than the lease: {slow:?}");
    let seen = cluster.http(sharer).get("/cache/get?k=k").await.unwrap();
    assert_eq!(seen.json["value"], 3, "{}", seen.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_node_says_so_at_once_and_finishes_what_it_accepted() {
    let mut cluster = Cluster::start_with(Settings::fast(3).with("--requests-max", "8")).await;
    let line = cluster.http(1).get("/cache/line?k=k").await.unwrap().json;
    let home = line["home"].as_u64().unwrap();
    let [sharer, writer] = cluster.others(home)[..] else { panic!("{line}") };
    let node = cluster.http(writer);
    for key in ["k", "hit"] {
        node.post("/cache/set", &json!({"key": key, "value": 0})).await.unwrap();
        for id in [sharer, writer] {
            cluster.http(id).get(&format!("/cache/get?k={key}")).await.unwrap();
        }
    }
    cluster.node(sharer).pause();
    let flood = (0..60u64).map(|value| async move {
        let before = Instant::now();
        let answer = node.post("/cache/set", &json!({"key": "k", "value": value})).await.unwrap();
        (answer, before.elapsed())
    });
    let flood = tokio::spawn(futures::future::join_all(flood));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for target in ["/health", "/ready", "/metrics", "/cache/get?k=hit"] {
        let answer = node.get(target).await.unwrap();
        assert_eq!(answer.status, 200, "{target}: {}", answer.text);
    }
    let answers = flood.await.unwrap();
    cluster.node(sharer).resume();
    let (refused, accepted): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(answer, _)| answer.status == 503);
    assert_eq!((accepted.len(), refused.len()), (8, 52));
    assert!(accepted.iter().all(|(answer, _)| answer.status == 200), "{accepted:?}");
    for (answer, took) in refused {
        assert_eq!(answer.code(), "overloaded", "{}", answer.text);
        assert!(took < Duration::from_millis(600), "refused only after {took:?}");
    }
}
