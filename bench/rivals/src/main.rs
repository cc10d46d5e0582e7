//! Closed-loop load for rivals: so many connections, one request in flight on each, one line of JSON.
//!
//! It starts no servers; `bench/run` does.

use std::future::Future;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// What to measure
    workload: Workload,
    /// Where: one address, or several separated by commas
    #[arg(long, value_delimiter = ',')]
    at: Vec<String>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 128)]
    payload_bytes: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Workload {
    /// lock and unlock through etcd's lock service, each connection its own lock
    EtcdLocks,
    /// publish to a JetStream stream of three replicas, awaiting each acknowledgement
    NatsPush,
    /// SET NX, then DEL
    RedisLocks,
    /// XADD
    RedisPush,
    /// GET of one key
    RedisGet,
    /// Not a load: serves a bare axum handler at the address
    Serve,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let payload = "x".repeat(args.payload_bytes);
    let at = |nth: usize| args.at[nth % args.at.len()].clone();
    match args.workload {
        Workload::Serve => return serve(&at(0)).await,
        Workload::EtcdLocks => {
            let connect = |nth: usize| {
                let endpoint = at(nth);
                async move {
                    let mut client = etcd_client::Client::connect([endpoint], None).await?;
                    let lease = client.lease_grant(120, None).await?.id();
                    Ok((client, lease, format!("lock-{nth}")))
                }
            };
            run(&args, connect, async |(client, lease, name)| {
                let options = etcd_client::LockOptions::new().with_lease(*lease);
                let lock = client.lock(name.as_str(), Some(options)).await?;
                client.unlock(lock.key()).await?;
                Ok(())
            })
            .await
        }
        Workload::NatsPush => {
            let client = async_nats::connect(at(0)).await?;
            let config = async_nats::jetstream::stream::Config {
                name: "bench".into(),
                subjects: vec!["bench.>".into()],
                num_replicas: 3,
                storage: async_nats::jetstream::stream::StorageType::File,
                ..Default::default()
            };
            async_nats::jetstream::new(client).get_or_create_stream(config).await?;
            let payload = bytes::Bytes::from(payload);
            let connect = |nth: usize| {
                let (url, payload) = (at(nth), payload.clone());
                async move {
                    let client = async_nats::connect(url).await?;
                    Ok((async_nats::jetstream::new(client), format!("bench.{nth}"), payload))
                }
            };
            run(&args, connect, async |(stream, subject, payload)| {
                stream.publish(subject.clone(), payload.clone()).await?.await?;
                Ok(())
            })
            .await
        }
        Workload::RedisLocks | Workload::RedisPush | Workload::RedisGet => {
            let workload = args.workload;
            let connect = |nth: usize| {
                let (url, payload) = (at(nth), payload.clone());
                async move {
                    let connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
                    Ok((connection, nth, payload))
                }
            };
            run(&args, connect, async |(connection, nth, payload)| {
                match workload {
                    Workload::RedisLocks => {
                        let name = format!("lock-{nth}");
                        let set = redis::cmd("SET").arg(&name).arg(1).arg("NX").arg("PX").arg(30_000).to_owned();
                        set.query_async::<()>(connection).await?;
                        redis::cmd("DEL").arg(&name).query_async::<()>(connection).await?;
                    }
                    Workload::RedisPush => {
                        let add = redis::cmd("XADD").arg("q").arg("*").arg("p").arg(&*payload).to_owned();
                        add.query_async::<()>(connection).await?;
                    }
                    _ => redis::cmd("GET").arg("k").query_async::<()>(connection).await?,
                }
                Ok(())
            })
            .await
        }
    }
}

/// One request in flight on each connection, for so long; the first second does not count.
async fn run<T, C, F>(args: &Args, connect: C, once: impl AsyncFn(&mut T) -> Result<(), Error>) -> Result<(), Error>
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
            if begun >= begin {
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
        "per_second": all.len() as f64 / args.seconds as f64,
        "latency_us": {"p50": all.value_at_quantile(0.5), "p99": all.value_at_quantile(0.99)},
    });
    println!("{report}");
    Ok(())
}

/// The ceiling: what HTTP itself costs on this machine.
async fn serve(address: &str) -> Result<(), Error> {
    use axum::routing::get;
    let app = axum::Router::new()
        .route("/health", get(async || "{\"status\":\"ok\"}"))
        .route("/cache/get", get(async || "{\"key\":\"k\",\"value\":1}"));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
