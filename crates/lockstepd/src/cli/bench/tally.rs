//! What a run has counted, and how it is told to people and to scripts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Args;

/// The longest latency that is told apart from longer ones: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Counts of one run.
pub(super) struct Tally {
    /// Microseconds.
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    /// Connections that never got their last answer.
    pub(super) stuck: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies =
            Histogram::new_with_bounds(1, LONGEST_US, 3).expect("these bounds are what a histogram can hold");
        Self { latencies, errors: BTreeMap::new(), stuck: 0 }
    }
}

impl Tally {
    /// One operation has succeeded.
    pub(super) fn done(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latencies.saturating_record(micros);
    }

    /// One operation has failed.
    pub(super) fn failed(&mut self, code: &str) {
        match self.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(self.errors.insert(code.to_owned(), 1)),
        }
    }

    /// How many have succeeded.
    pub(super) fn operations(&self) -> u64 {
        self.latencies.len()
    }

    /// How many have failed.
    pub(super) fn errors(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The result of a run. Its JSON is what scripts read: names end in their unit.
#[derive(serde::Serialize)]
pub(super) struct Report {
    workload: String,
    connections: u32,
    seconds: u64,
    payload_bytes: usize,
    batch: u32,
    urls: Vec<String>,
    /// Pairs for `locks`, cycles for `queue-cycle`, messages for `queue-push`, requests elsewhere.
    pub(super) operations: u64,
    per_second: f64,
    latency_us: Latency,
    errors: BTreeMap<String, u64>,
    stuck: u64,
}

#[derive(serde::Serialize)]
struct Latency {
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Report {
    /// Sums up.
    pub(super) fn new(args: &Args, tally: &Tally) -> Self {
        let at = |quantile| tally.latencies.value_at_quantile(quantile);
        let operations = tally.operations() * u64::from(args.batch);
        Self {
            workload: args.workload.to_string(),
            connections: args.connections,
            seconds: args.seconds,
            payload_bytes: args.payload_bytes,
            batch: args.batch,
            urls: args.url.clone(),
            operations,
            per_second: operations as f64 / args.seconds as f64,
            latency_us: Latency {
                mean: tally.latencies.mean(),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: tally.latencies.max(),
            },
            errors: tally.errors.clone(),
            stuck: tally.stuck,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, connections, seconds, operations, per_second, latency_us, .. } = self;
        writeln!(
            f,
            "{workload}: {per_second:.0}/s ({operations} in {seconds} s over {connections} connections)"
        )?;
        let Latency { p50, p90, p99, p999, max, .. } = latency_us;
        let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(|micros| *micros as f64 / 1000.0);
        writeln!(f, "latency ms: p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}")?;
        for (code, count) in &self.errors {
            writeln!(f, "errors: {count} × {code}")?;
        }
        if self.stuck > 0 {
            writeln!(f, "without an answer at the end: {} connections", self.stuck)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_latency_is_shown_as_it_was() {
        let mut tally = Tally::default();
        tally.done(Duration::from_secs(3));
        let shown = tally.latencies.max();
        assert!((2_990_000..=3_010_000).contains(&shown), "3 s show as {shown} µs");
    }
}
