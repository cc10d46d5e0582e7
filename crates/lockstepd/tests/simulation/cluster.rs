//! One run: three hosts, their clients, and faults drawn from the seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
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
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::history::History;
use super::net::SimNet;
use super::workload::Clients;

const NODES: u64 = 3;
/// Faults are injected until then, and clients work a little longer.
const FAULTS: Duration = Duration::from_secs(14);
const CLIENTS: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(36);

/// What came of a run.
pub struct Run {
    pub seed: u64,
    pub history: History,
    pub faults: usize,
}

fn host(node: u64) -> String {
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

struct Disk {
    data: PathBuf,
    memory: MemoryDisk,
    snapshots: Snapshots,
    boots: AtomicU64,
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
    for node in 1..=NODES {
        let disk = Arc::new(Disk {
            data: directory.path().join(host(node)),
            memory: MemoryDisk::default(),
            snapshots: Snapshots::memory(),
            boots: AtomicU64::new(0),
        });
        let history = history.clone();
        sim.host(host(node), move || serve(node, seed, Arc::clone(&disk), history.clone()));
    }
    let faults = inject(&mut sim, seed);
    Run { seed, history, faults }
}

async fn serve(node: u64, seed: u64, disk: Arc<Disk>, history: History) -> turmoil::Result {
    let boot = disk.boots.fetch_add(1, Ordering::Relaxed);
    let ground = Ground {
        net: Arc::new(SimNet),
        clock: Clock::tokio(),
        disk: Some((disk.memory.clone(), disk.snapshots.clone())),
        peer: peer::Settings { jitter: false, ..peer::Settings::default() },
    };
    let running = Arc::new(Node::start(&config(node, &disk.data), ground).await?);
    assert_eq!(running.router.node(), NodeId(node));
    let clients =
        Clients { node: Arc::clone(&running), id: node, boot, history: history.clone(), until: CLIENTS };
    clients.run(seed).await;
    if node == 1 {
        let clients = Clients { node: running, id: node, boot, history, until: END };
        clients.drain().await;
    }
    std::future::pending().await
}

/// Steps through the run, breaking and mending things on the way.
fn inject(sim: &mut turmoil::Sim<'_>, seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9));
    let mut faults = 0;
    let mut next = Duration::from_secs(3);
    let mut mends: BTreeMap<Duration, Fault> = BTreeMap::new();
    while sim.elapsed() < END {
        sim.step().unwrap();
        let now = sim.elapsed();
        while let Some(due) = mends.first_entry().filter(|mend| *mend.key() <= now) {
            due.remove().mend(sim);
        }
        if now >= next && now < FAULTS {
            let fault = Fault::draw(&mut rng);
            next = now + Duration::from_millis(rng.random_range(300..4_000));
            let lasts = Duration::from_millis(rng.random_range(100..5_000));
            fault.inject(sim);
            mends.insert((now + lasts).min(FAULTS) + Duration::from_nanos(faults as u64), fault);
            faults += 1;
        }
    }
    faults
}

#[derive(Clone, Copy)]
enum Fault {
    Crash(u64),
    Partition(u64, u64),
    OneWay(u64, u64),
    Isolate(u64),
    Hold(u64, u64),
}

impl Fault {
    fn draw(rng: &mut SmallRng) -> Self {
        let one = rng.random_range(1..=NODES);
        let other = (one + rng.random_range(1..NODES) - 1) % NODES + 1;
        match rng.random_range(0..5u32) {
            0 => Self::Crash(one),
            1 => Self::Partition(one, other),
            2 => Self::OneWay(one, other),
            3 => Self::Isolate(one),
            _ => Self::Hold(one, other),
        }
    }

    fn inject(self, sim: &mut turmoil::Sim<'_>) {
        match self {
            Self::Crash(node) => sim.crash(host(node)),
            Self::Partition(one, other) => sim.partition(host(one), host(other)),
            Self::OneWay(from, to) => sim.partition_oneway(host(from), host(to)),
            Self::Isolate(node) => {
                (1..=NODES).filter(|id| *id != node).for_each(|id| sim.partition(host(node), host(id)));
            }
            Self::Hold(one, other) => sim.hold(host(one), host(other)),
        }
    }

    fn mend(self, sim: &mut turmoil::Sim<'_>) {
        match self {
            Self::Crash(node) => sim.bounce(host(node)),
            Self::Partition(one, other) => sim.repair(host(one), host(other)),
            Self::OneWay(from, to) => sim.repair_oneway(host(from), host(to)),
            Self::Isolate(node) => {
                (1..=NODES).filter(|id| *id != node).for_each(|id| sim.repair(host(node), host(id)));
            }
            Self::Hold(one, other) => sim.release(host(one), host(other)),
        }
    }
}
