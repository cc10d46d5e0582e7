//! A whole cluster in one process, under simulated time and a simulated network, from a seed.
//!
//! The same seed gives the same run. A failure prints its seed; this replays it alone:
//!
//! ```text
//! LOCKSTEP_SIM_SEED=17 cargo test -p lockstepd --test simulation many_seeds -- --nocapture
//! ```
//!
//! `LOCKSTEP_SIM_SEEDS=2000` runs that many instead of the default.

mod check;
mod cluster;
mod history;
mod net;
mod workload;

/// Seeds in an ordinary run.
const SEEDS: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn many_seeds_break_no_promise() {
    let seeds = match variable("LOCKSTEP_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..variable("LOCKSTEP_SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let (mut events, mut faults) = (0, 0);
    for seed in seeds.clone() {
        let replay = format!(
            "LOCKSTEP_SIM_SEED={seed} cargo test -p lockstepd --test simulation many_seeds -- --nocapture"
        );
        let run = std::panic::catch_unwind(|| {
            let run = cluster::run(seed);
            check::everything(&run);
            (run.history.len(), run.faults)
        });
        match run {
            Ok((more, injected)) => {
                events += more;
                faults += injected;
            }
            Err(panic) => {
                eprintln!("seed {seed} breaks a promise; replay it with\n  {replay}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{} seeds, {events} operations checked, {faults} faults", seeds.end - seeds.start);
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (one, other) = (cluster::run(seed), cluster::run(seed));
        assert_eq!(one.history.trace(), other.history.trace(), "seed {seed}");
    }
}
