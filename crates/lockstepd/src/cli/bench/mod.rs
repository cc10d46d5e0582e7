//! `lockstep bench`: a closed-loop load generator. Each connection has one request in flight and
//! sends the next when the answer is there, so latency and throughput belong together.
//!
//! It shows what a running cluster does here and now. It starts no servers, and proves nothing about
//! correctness: errors are counted, not judged.

mod near;
mod sharers;
mod tally;
mod workload;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use self::tally::{Report, Tally};
use self::workload::{Prepared, StepError, Worker, Workload};
use super::http1::{Address, Connection};
use super::{Failure, runtime};

/// The options of `lockstep bench`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What to do over and over
    #[arg(value_enum)]
    workload: Workload,
    /// Connections, each with one request in flight
    #[arg(long, short, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long to measure
    #[arg(long, short, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to run before measuring
    #[arg(long, default_value_t = 1, value_name = "S")]
    warm_up_seconds: u64,
    /// Nodes to spread the connections over, separated by commas
    #[arg(
        long,
        env = "LOCKSTEP_URL",
        default_value = "http://127.0.0.1:8001",
        value_delimiter = ',',
        value_name = "URL"
    )]
    url: Vec<String>,
    /// Size of each payload or value
    #[arg(long, visible_alias = "bytes", default_value_t = 128, value_name = "BYTES")]
    payload_bytes: usize,
    /// Messages of one push; `queue-push` only
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Distinct cache keys, or sessions
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Nodes that hold a copy of each key when `cache-set` writes it
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=100))]
    sharers: u64,
    /// Threads of `cache-near`
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    threads: u32,
    /// The queue to use
    #[arg(long, default_value = "bench", value_name = "NAME")]
    queue: String,
    /// What `http-get` asks for
    #[arg(long, default_value = "/health", value_name = "PATH")]
    path: String,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  lockstep bench locks                                  acquire + release pairs, each connection its own lock
  lockstep bench hand-over -c 64                        one lock that 64 connections wait for
  lockstep bench sessions --keys 10000 -s 60            10,000 sessions with a heartbeat every 10 s
  lockstep bench queue-push --batch 100 --bytes 1024    pushes of 100 messages each; counted in messages
  lockstep bench queue-cycle -c 16 -s 30                push + receive + ack
  lockstep bench cache-get --url http://127.0.0.1:8001,http://127.0.0.1:8002 --json
  lockstep bench cache-set --sharers 2 --url URL,URL,URL    writes that two nodes have to hear of first
  lockstep bench cache-near --threads 2                 hits of a near cache in this process
The generator shares this machine with what it measures: compare figures of one machine only.";

/// How long a request may still take once the measurement is over.
const GRACE: Duration = Duration::from_secs(5);

/// Between two tries to connect to a node that is not there.
const RECONNECT: Duration = Duration::from_millis(100);

/// Runs the load and prints what came of it.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    if args.workload == Workload::CacheNear {
        return near::run(&args);
    }
    let addresses: Result<Vec<Address>, String> = args.url.iter().map(|url| Address::parse(url)).collect();
    let addresses = addresses.map_err(|error| Failure::usage(format_args!("--url: {error}")))?;
    if args.batch > 1 && !args.workload.takes_batches() {
        return Err(Failure::usage(format_args!("--batch is for queue-push, not for {}", args.workload)));
    }
    let runtime = runtime()?;
    let tally = tokio::task::LocalSet::new().block_on(&runtime, measure(&args, &addresses))?;
    let report = Report::new(&args, &tally);
    if args.json {
        println!("{}", serde_json::to_string(&report).map_err(Failure::new)?);
    } else {
        print!("{report}");
    }
    if report.operations == 0 { Err(Failure::new("not one operation succeeded")) } else { Ok(()) }
}

async fn measure(args: &Args, addresses: &[Address]) -> Result<Tally, Failure> {
    let unreachable = |error| Failure::new(format_args!("{}: {error}; is the cluster running?", args.url[0]));
    let mut first = Connection::open(&addresses[0]).await.map_err(unreachable)?;
    let mut prepared = Prepared::new(args, addresses);
    let sharers = usize::try_from(args.sharers).unwrap_or(usize::MAX);
    let plan = sharers::Plan::new(addresses, args.keys, sharers).await;
    prepared.sharers = Rc::new(plan.map_err(|error| Failure::new(format_args!("cannot prepare: {error}")))?);
    prepared.fill(&mut first).await.map_err(|error| Failure::new(format_args!("cannot prepare: {error}")))?;
    let window = Window::after(args.warm_up_seconds, args.seconds);
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..args.connections {
        let address = addresses[number as usize % addresses.len()].clone();
        let worker = Worker::new(args, &prepared, &address, number);
        connections.spawn_local(drive(worker, address, window, Rc::clone(&tally)));
    }
    let bar = ProgressBar::new(args.seconds);
    let progress = tokio::task::spawn_local(show_progress(bar.clone(), window, Rc::clone(&tally)));
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout_at((window.end + GRACE).into(), all).await.is_err() {
        tally.borrow_mut().stuck = connections.len() as u64;
        connections.shutdown().await;
    }
    progress.abort();
    let _ = progress.await;
    bar.finish_and_clear();
    Ok(tally.take())
}

/// When operations count: those that start and end inside.
#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn after(warm_up: u64, seconds: u64) -> Self {
        let start = Instant::now() + Duration::from_secs(warm_up);
        Self { start, end: start + Duration::from_secs(seconds) }
    }

    fn counts(&self, at: Instant) -> bool {
        (self.start..=self.end).contains(&at)
    }
}

/// One connection's loop. It reconnects when the node goes away, and counts that as an error.
async fn drive(mut worker: Worker, address: Address, window: Window, tally: Rc<RefCell<Tally>>) {
    while Instant::now() < window.end {
        let Err(error) = drive_connected(&mut worker, &address, window, &tally).await else { return };
        if window.counts(Instant::now()) {
            tally.borrow_mut().failed(error.code());
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Until the end, or until the connection is lost.
async fn drive_connected(
    worker: &mut Worker,
    address: &Address,
    window: Window,
    tally: &RefCell<Tally>,
) -> Result<(), StepError> {
    let mut connection = Connection::open(address).await?;
    worker.share().await?;
    let mut started = Instant::now();
    while started < window.end {
        let outcome = worker.step(&mut connection).await;
        let now = Instant::now();
        let counts = window.counts(started) && window.counts(now);
        match outcome {
            Ok(()) if counts => tally.borrow_mut().done(now - started),
            Err(error) if error.connection_is_lost() => return Err(error),
            Err(error) if counts => tally.borrow_mut().failed(error.code()),
            _ => {}
        }
        worker.share().await?;
        started = Instant::now();
        if let Some(pause) = worker.pause() {
            tokio::time::sleep(pause.min(window.end.saturating_duration_since(now))).await;
            started = Instant::now();
        }
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
async fn show_progress(bar: ProgressBar, window: Window, tally: Rc<RefCell<Tally>>) {
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
        bar.set_style(style);
    }
    let mut before = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let now = tally.borrow().operations();
        bar.set_position(Instant::now().saturating_duration_since(window.start).as_secs());
        bar.set_message(format!("{} operations/s, {} errors", now - before, tally.borrow().errors()));
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Answers every request of every connection with the same bytes.
    async fn same_answer(listener: TcpListener, answer: &'static str) {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    }

    fn run_against(workload: &str, answer: &'static str) -> Report {
        let runtime = runtime().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::task::spawn_local(same_answer(listener, answer));
            let line = ["bench", workload, "-c", "2", "-s", "1", "--warm-up-seconds", "0", "--url", &url];
            let args = Line::parse_from(line).args;
            let addresses = [Address::parse(&url).unwrap()];
            let tally = measure(&args, &addresses).await.unwrap();
            Report::new(&args, &tally)
        })
    }

    #[test]
    fn a_run_counts_what_succeeded() {
        for workload in ["locks", "hand-over", "sessions", "queue-push", "queue-cycle", "http-get"] {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 39\r\n\r\n{\"token\":1,\"receipt\":\"r\",\"session\":\"s\"}";
            let report = run_against(workload, answer);
            assert!(report.operations > 0, "{report}");
            assert!(report.to_string().contains("p99.9"), "{report}");
            assert!(!report.to_string().contains("error"), "{report}");
        }
    }

    #[test]
    fn a_run_counts_refusals_under_their_code_and_not_as_operations() {
        let answer = "HTTP/1.1 409 Conflict\r\ncontent-length: 25\r\n\r\n{\"error\":{\"code\":\"held\"}}";
        let report = run_against("locks", answer);
        assert_eq!(report.operations, 0);
        assert!(report.to_string().contains("× 409 held"), "{report}");
    }
}
