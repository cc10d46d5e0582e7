//! A whole cluster in one process, under simulated time and a simulated network, from a seed.
//!
//! The same seed gives the same run. A failure prints its seed; this replays it alone:
//!
//! ```text
//! LOCKSTEP_SIM_SEED=17 cargo test -p lockstepd --test simulation many_seeds -- --nocapture
//! ```
//!
//! `LOCKSTEP_SIM_SEEDS=2000` runs that many instead of the default.

mod caching;
mod check;
mod cluster;
mod faults;
mod history;
mod net;
mod sessions;
mod workload;

use std::time::Duration;

/// Seeds in an ordinary run, a minute and a half.
const SEEDS: u64 = 24;
/// Of real time for one seed, which takes four seconds on an idle machine, and less than one in a release build.
const LONGEST: Duration = Duration::from_secs(120);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn many_seeds_break_no_promise() {
    let seeds = match variable("LOCKSTEP_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..variable("LOCKSTEP_SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let (mut events, mut faults, mut left) = (0, 0, 0);
    for seed in seeds.clone() {
        let replay = format!(
            "LOCKSTEP_SIM_SEED={seed} cargo test -p lockstepd --test simulation many_seeds -- --nocapture"
        );
        let run = std::panic::catch_unwind(|| {
            let run = on_a_thread(seed);
            check::everything(&run);
            (run.history.len(), run.faults, run.history.left())
        });
        match run {
            Ok((more, injected, leaves)) => {
                events += more;
                faults += injected;
                left += leaves;
            }
            Err(panic) => {
                eprintln!("seed {seed} breaks a promise; replay it with\n  {replay}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {events} operations checked, {faults} faults, {left} nodes have left");
    assert!(count < SEEDS || left > 0, "no node has left as planned");
}

/// Runs on a thread of its own: nothing that a run leaves in its thread reaches the next. A run in
/// which simulated time stands still, because something asks again and again without a pause, fails.
fn on_a_thread(seed: u64) -> cluster::Run {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let run = cluster::run(seed);
        let _ = done.send(());
        run
    });
    let late = Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(ended.recv_timeout(LONGEST) != late, "seed {seed} did not end in {LONGEST:?}");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in variable("LOCKSTEP_SIM_SEED").map_or(vec![1, 2, 3], |seed| vec![seed; 3]) {
        let (one, other) = (on_a_thread(seed), on_a_thread(seed));
        let (one_events, other_events) = (one.history.events(), other.history.events());
        for (nth, pair) in one_events.iter().zip(&other_events).enumerate() {
            let (one, other) = (format!("{:?}", pair.0), format!("{:?}", pair.1));
            assert_eq!(one, other, "seed {seed}: the traces part at event {nth}");
        }
        assert_eq!(one.history.trace(), other.history.trace(), "seed {seed}");
    }
}
