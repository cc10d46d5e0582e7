//! `lockstep bench cache-near`: how fast this process's near cache answers, from any number of threads.
//!
//! Nothing is written meanwhile: it measures hits, beside the round trip that each of them saves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::{Client, Error, Near};

use super::Args;
use crate::cli::Failure;

/// Reads between two looks at the clock.
const BATCH: usize = 256;

/// The result. Its JSON is what scripts read: names end in their unit.
#[derive(serde::Serialize)]
struct Report {
    workload: &'static str,
    threads: u32,
    keys: u32,
    seconds: u64,
    payload_bytes: usize,
    hits: u64,
    misses: u64,
    per_second: f64,
    /// Of one thread.
    ns_per_hit: f64,
    /// A read that asks a node, on one connection.
    round_trip_us: f64,
}

/// Measures, and prints what came of it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(Failure::new)?;
    let client = Client::new(args.url.clone()).map_err(Failure::usage)?;
    let near: Near<String> = runtime.block_on(async { client.cache().near_within(1 << 30) });
    let keys: Arc<Vec<String>> = Arc::new((0..args.keys).map(|key| format!("bench-{key}")).collect());
    runtime.block_on(warm(&client, &near, &keys, args.payload_bytes)).map_err(Failure::new)?;
    let round_trip = runtime.block_on(round_trip(&client, &keys)).map_err(Failure::new)?;
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..args.threads)
        .map(|number| {
            let (near, keys, stop) = (near.clone(), Arc::clone(&keys), Arc::clone(&stop));
            let handle = runtime.handle().clone();
            std::thread::spawn(move || read(&near, &keys, number as usize * 7919, &stop, &handle))
        })
        .collect();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    stop.store(true, Ordering::Relaxed);
    let counts = threads.into_iter().map(|thread| thread.join().unwrap_or_default());
    let (hits, misses) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let took = begun.elapsed().as_secs_f64();
    let report = Report {
        workload: "cache-near",
        threads: args.threads,
        keys: args.keys,
        seconds: args.seconds,
        payload_bytes: args.payload_bytes,
        hits,
        misses,
        per_second: hits as f64 / took,
        ns_per_hit: took * 1e9 * f64::from(args.threads) / hits.max(1) as f64,
        round_trip_us: round_trip.as_secs_f64() * 1e6,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report).map_err(Failure::new)?);
    } else {
        let Report { per_second, ns_per_hit, round_trip_us, threads, .. } = report;
        println!("cache-near: {per_second:.0} hits/s over {threads} threads, {misses} misses");
        println!("a hit takes {ns_per_hit:.0} ns; a read that asks a node {round_trip_us:.0} µs");
    }
    if hits == 0 { Err(Failure::new("not one read was a hit")) } else { Ok(()) }
}

/// Writes what is missing, and reads until everything is kept here.
async fn warm(client: &Client, near: &Near<String>, keys: &[String], bytes: usize) -> Result<(), Error> {
    let value = "x".repeat(bytes);
    for key in keys {
        client.cache().set(key, &value).send().await?;
    }
    let end = Instant::now() + Duration::from_secs(60);
    for key in keys {
        while near.peek(key).is_none() && Instant::now() < end {
            near.get(key).await?;
        }
    }
    Ok(())
}

async fn round_trip(client: &Client, keys: &[String]) -> Result<Duration, Error> {
    let cache = client.cache();
    let begun = Instant::now();
    let asked = keys.iter().cycle().take(500);
    for key in asked {
        cache.get::<String>(key).await?;
    }
    Ok(begun.elapsed() / 500)
}

/// One thread; returns its hits and misses.
fn read(
    near: &Near<String>,
    keys: &[String],
    mut at: usize,
    stop: &AtomicBool,
    handle: &tokio::runtime::Handle,
) -> (u64, u64) {
    let (mut hits, mut misses) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            at = (at + 1) % keys.len();
            if let Some(kept) = near.peek(&keys[at]) {
                std::hint::black_box(&kept);
                hits += 1;
            } else {
                misses += 1;
                // A lease that lapsed on a busy machine: the next reads are hits again.
                let _ = handle.block_on(near.get(&keys[at]));
            }
        }
    }
    (hits, misses)
}
