//! One run: three hosts and their clients. What happens to them is in [`super::faults`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_core::names::NodeId;
use lockstepd::clock::Clock;
use lockstepd::config::{Options, Serve};
use lockstepd::log::raft::seed_this_thread;
use lockstepd::node::{Ground, Node};
use lockstepd::peer;
use lockstepd::store::snapshots::Snapshots;
use lockstepd::store::wal::MemoryDisk;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::faults::inject;
use super::history::{History, What};
use super::net::SimNet;
use super::workload::{Clients, now};

pub(super) const NODES: u64 = 3;
/// Longer than faults last.
const CLIENTS: Duration = Duration::from_secs(20);
pub(super) const END: Duration = Duration::from_secs(36);
/// What a node that leaves gives to requests in flight.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// What came of a run.
pub struct Run {
    pub seed: u64,
    pub history: History,
    pub faults: usize,
}

pub(super) fn host(node: u64) -> String {
    format!("node{node}")
}

fn config(node: u64, data: &Path) -> Serve {
    let members: Vec<_> = (1..=NODES).map(|id| format!("{id}={}:9000", host(id))).collect();
    let text = format!(
        "node-id = {node}\nhttp = \"127.0.0.1:8000\"\npeer = \"127.0.0.1:9000\"\nmembers = \"{}\"\ndata = \"{}\"\n\
         heartbeat-ms = 200\nelection-ms-min = 800\nelection-ms-max = 1600\nmember-lease-ms = 4000\n\
         queue-shards = 2\nsnapshot-bytes = 65536\n",
        members.join(","),
        data.display(),
    );
    Serve::from_options(&Options::from_toml(&text).unwrap()).unwrap()
}

/// What outlives a process.
struct Machine {
    data: PathBuf,
    memory: MemoryDisk,
    snapshots: Snapshots,
    boots: AtomicU64,
    /// Tells the process that runs, if one does, to stop.
    stop: Arc<Notify>,
}

/// Tokio numbers tasks over the whole process and keeps those of a runtime in so many lists by number;
/// a crash drops them list by list.
const TASK_LISTS: u64 = 64;

/// Makes the next task's number the same for each run, counted in lists.
fn align_task_numbers() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let next = || runtime.spawn(async {}).id().to_string().parse::<u64>().unwrap();
    while !next().is_multiple_of(TASK_LISTS) {}
}

/// Runs one seed. One run at a time: they would share the numbers of their tasks.
pub fn run(seed: u64) -> Run {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    align_task_numbers();
    seed_this_thread(seed);
    let directory = tempfile::tempdir().unwrap();
    let history = History::default();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(5))
        .simulation_duration(END + Duration::from_secs(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(12))
        .tcp_capacity(4096)
        .build();
    let stops: Vec<Arc<Notify>> = (1..=NODES).map(|_| Arc::default()).collect();
    for (node, stop) in (1..=NODES).zip(&stops) {
        let machine = Arc::new(Machine {
            data: directory.path().join(host(node)),
            memory: MemoryDisk::default(),
            snapshots: Snapshots::memory(),
            boots: AtomicU64::new(0),
            stop: Arc::clone(stop),
        });
        let history = history.clone();
        sim.host(host(node), move || serve(node, seed, Arc::clone(&machine), history.clone()));
    }
    let faults = inject(&mut sim, &stops, seed);
    Run { seed, history, faults }
}

async fn serve(node: u64, seed: u64, machine: Arc<Machine>, history: History) -> turmoil::Result {
    let boot = machine.boots.fetch_add(1, Ordering::Relaxed);
    let ground = Ground {
        net: Arc::new(SimNet),
        clock: Clock::tokio(),
        disk: Some((machine.memory.clone(), machine.snapshots.clone())),
        peer: peer::Settings { jitter: false, ..peer::Settings::default() },
    };
    let running = Arc::new(Node::start(&config(node, &machine.data), ground).await?);
    assert_eq!(running.router.node(), NodeId(node));
    let closed = Arc::new(AtomicBool::new(false));
    let clients = Clients {
        node: Arc::clone(&running),
        id: node,
        boot,
        history: history.clone(),
        until: CLIENTS,
        closed: Arc::clone(&closed),
    };
    let work = tokio::spawn(work(clients, seed));
    machine.stop.notified().await;
    let begun = now();
    leave(running, &closed, work).await;
    history.add(node, begun, What::Left);
    std::future::pending().await
}

async fn work(clients: Clients, seed: u64) {
    let clients = Arc::new(clients);
    Arc::clone(&clients).run(seed).await;
    if clients.id == 1 && !clients.closed.load(Ordering::Relaxed) {
        clients.drain().await;
    }
}

/// What a process does that is told to stop: what it holds goes to the others, then its clients.
async fn leave(mut node: Arc<Node>, closed: &AtomicBool, mut work: JoinHandle<()>) {
    node.drain().await;
    closed.store(true, Ordering::Relaxed);
    if tokio::time::timeout(IN_FLIGHT, &mut work).await.is_err() {
        work.abort();
        let _ = work.await;
    }
    let node = loop {
        match Arc::try_unwrap(node) {
            Ok(node) => break node,
            Err(held) => node = held,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    node.stop().await;
}
