//! The closed loop: so many connections, one operation in flight on each, one line of JSON.
//!
//! It knows nothing of any system; an operation is whatever it is given.

use std::future::Future;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;

use crate::{Args, Error};

/// Runs `once` over and over on each connection, for so long; the first second does not count. Each time it
/// deals with so many `messages`.
pub async fn run<T, C, F>(
    args: &Args,
    messages: usize,
    connect: C,
    once: impl AsyncFn(&mut T) -> Result<(), Error>,
) -> Result<(), Error>
where
    C: Fn(usize) -> F,
    F: Future<Output = Result<T, Error>>,
{
    let mut connections = Vec::new();
    for nth in 0..args.connections {
        connections.push(connect(nth).await?);
    }
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs(args.seconds);
    let once = &once;
    let loops = connections.into_iter().map(|mut connection| async move {
        let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok::<_, Error>(latencies);
            }
            once(&mut connection).await?;
            if begun >= begin && Instant::now() <= end {
                latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?.max(1));
            }
        }
    });
    let mut all = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    for latencies in futures::future::join_all(loops).await {
        all.add(latencies?)?;
    }
    let report = serde_json::json!({
        "workload": args.workload.to_possible_value().map(|value| value.get_name().to_owned()),
        "connections": args.connections,
        "batch": args.batch,
        "per_second": (all.len() * messages as u64) as f64 / args.seconds as f64,
        "latency_us": {"p50": all.value_at_quantile(0.5), "p99": all.value_at_quantile(0.99)},
    });
    println!("{report}");
    Ok(())
}
