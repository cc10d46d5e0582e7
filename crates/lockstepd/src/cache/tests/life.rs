//! A random life of three nodes: links fail and heal, members are dropped and taken back.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// One writer counts up; each reader, anywhere, must never see less than what had been written when
/// it began. Links fail, heal, and members come and go meanwhile.
#[tokio::test(start_paused = true)]
async fn no_reader_anywhere_sees_an_older_value_than_the_last_one_written() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LOCKSTEP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKSTEP_SEEDS").unwrap_or(60),
    };
    for seed in seeds {
        let outcome = tokio::spawn(random_life(seed)).await;
        assert!(outcome.is_ok(), "failed; LOCKSTEP_SEED={seed} replays it");
    }
}

async fn random_life(seed: u64) {
    let cluster = Arc::new(Cluster::with_membership(MEMBERSHIP).await);
    let key = cluster.key_at(1 + seed % 3);
    let written = Arc::new(Mutex::new(0_u64));
    let readers: Vec<_> = (1..=3)
        .map(|node| tokio::spawn(read_on(cluster.clone(), node, key.clone(), written.clone(), seed)))
        .collect();
    let faults = tokio::spawn(make_trouble(cluster.clone(), seed));
    let authority = tokio::spawn(keep_members(cluster.clone(), seed));
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = 0;
    for value in 1..=60_u64 {
        let node = random.random_range(1..=3);
        let outcome = cluster.nodes[&node].write(set(&key, &value.to_string()), 4 * SECOND).await;
        match outcome {
            Ok(_) => {
                *written.lock().unwrap() = value;
                done += 1;
            }
            Err(_) => tokio::time::sleep(SECOND).await,
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
    }
    for task in readers.into_iter().chain([faults, authority]) {
        task.abort();
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    assert!(done > 10, "{done} writes came through");
}

async fn read_on(cluster: Arc<Cluster>, node: u64, key: String, written: Arc<Mutex<u64>>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed * 7 + node);
    loop {
        let floor = *written.lock().unwrap();
        let read = cluster.nodes[&node].get(&key.as_str().into(), random.random_bool(0.1), SECOND).await;
        if let Ok(Some(entry)) = read {
            let value: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            assert!(value >= floor, "node {node} read {value} after {floor} had been written");
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
    }
}

async fn make_trouble(cluster: Arc<Cluster>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed * 31);
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..2_000))).await;
        match random.random_range(0..4) {
            0 | 1 => cluster.net.heal(),
            2 => cluster.net.isolate(random.random_range(1..=3)),
            _ => cluster.net.cut(random.random_range(0..=3), random.random_range(1..=3)),
        }
    }
}

/// Stands in for the coordination shard: node 0, which grants membership leases and keeps the ring.
struct Authority {
    ring_epoch: u64,
    /// Since which epoch, and until when.
    members: BTreeMap<u64, (u64, Duration)>,
}

const MEMBERSHIP: Duration = Duration::from_secs(3);

/// Takes heartbeats, drops who is silent, and shows the ring to each node after a while of its own.
async fn keep_members(cluster: Arc<Cluster>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed * 17);
    let joined = cluster.clock.now() + MEMBERSHIP;
    let mut authority =
        Authority { ring_epoch: 1, members: (1..=3).map(|node| (node, (1, joined))).collect() };
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        authority.drop_silent(cluster.clock.now());
        for node in 1..=3 {
            if cluster.net.passes(NodeId(node), NodeId(0)) {
                let sent = cluster.clock.now();
                authority.heartbeat(node, sent + MEMBERSHIP);
                if cluster.net.passes(NodeId(0), NodeId(node)) {
                    let until = sent + MEMBERSHIP * 99 / 100;
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
                    cluster.nodes[&node].membership_renewed(until, authority.ring_epoch);
                }
            }
            // The applied log reaches a node later than the answer to its heartbeat.
            if cluster.net.passes(NodeId(0), NodeId(node)) && random.random_bool(0.7) {
                cluster.nodes[&node].set_view(&authority.view(node));
            }
        }
    }
}

impl Authority {
    fn drop_silent(&mut self, now: Duration) {
        let before = self.members.len();
        self.members.retain(|_, (_, until)| now < *until);
        self.ring_epoch += (before - self.members.len()) as u64;
    }

    fn heartbeat(&mut self, node: u64, until: Duration) {
        if !self.members.contains_key(&node) {
            self.ring_epoch += 1;
        }
        self.members.entry(node).or_insert((self.ring_epoch, until)).1 = until;
    }

    fn view(&self, node: u64) -> View {
        let member = |(n, (since_epoch, _)): (&u64, &(u64, Duration))| Member {
            node: NodeId(*n),
            incarnation: Incarnation(1),
            url: "".into(),
            since_epoch: *since_epoch,
        };
        View {
            ring_epoch: self.ring_epoch,
            me: self.members.get(&node).map(|(since, _)| (Incarnation(1), *since)),
            members: self.members.iter().map(member).collect(),
            spaces: Spaces::default(),
            until: Duration::ZERO,
        }
    }
}
