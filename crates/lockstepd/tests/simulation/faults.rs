//! What breaks in a run, drawn from the seed: processes, links, and a node that leaves as planned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::cluster::{END, NODES, host};

/// Nothing breaks from then on, and everything is mended.
const FAULTS: Duration = Duration::from_secs(14);

/// Steps through the run, breaking and mending things on the way.
pub fn inject(sim: &mut turmoil::Sim<'_>, stops: &[Arc<Notify>], seed: u64) -> usize {
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
            fault.inject(sim, stops);
            mends.insert((now + lasts).min(FAULTS) + Duration::from_nanos(faults as u64), fault);
            faults += 1;
        }
    }
    faults
}

#[derive(Clone, Copy)]
enum Fault {
    Crash(u64),
    /// It is told to stop, as with SIGTERM, and is started again: perhaps before it has stopped.
    Leave(u64),
    Partition(u64, u64),
    OneWay(u64, u64),
    Isolate(u64),
    Hold(u64, u64),
}

impl Fault {
    fn draw(rng: &mut SmallRng) -> Self {
        let one = rng.random_range(1..=NODES);
        let other = (one + rng.random_range(1..NODES) - 1) % NODES + 1;
        match rng.random_range(0..6u32) {
            0 => Self::Crash(one),
            1 => Self::Partition(one, other),
            2 => Self::OneWay(one, other),
            3 => Self::Isolate(one),
            4 => Self::Leave(one),
            _ => Self::Hold(one, other),
        }
    }

    fn inject(self, sim: &mut turmoil::Sim<'_>, stops: &[Arc<Notify>]) {
        match self {
            Self::Crash(node) => sim.crash(host(node)),
            Self::Leave(node) => {
                (1..=NODES)
                    .zip(stops)
                    .filter(|(id, _)| *id == node)
                    .for_each(|(_, stop)| stop.notify_waiters());
            }
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
            Self::Crash(node) | Self::Leave(node) => sim.bounce(host(node)),
            Self::Partition(one, other) => sim.repair(host(one), host(other)),
            Self::OneWay(from, to) => sim.repair_oneway(host(from), host(to)),
            Self::Isolate(node) => {
                (1..=NODES).filter(|id| *id != node).for_each(|id| sim.repair(host(node), host(id)));
            }
            Self::Hold(one, other) => sim.release(host(one), host(other)),
        }
    }
}
