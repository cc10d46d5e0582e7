//! Closed-loop load for rivals: what `lockstep bench` does to Lockstep, done to others as their own
//! clients do it.
//!
//! It starts no servers; `bench/run` does.

mod beanstalkd;
mod load;
mod nats;
mod redis_streams;

use clap::{Parser, ValueEnum};

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
    #[arg(long, visible_alias = "bytes", default_value_t = 128)]
    payload_bytes: usize,
    /// Messages of one push
    #[arg(long, default_value_t = 1)]
    batch: usize,
}

impl Args {
    /// The address for the nth connection.
    fn at(&self, nth: usize) -> String {
        self.at[nth % self.at.len()].clone()
    }

    fn payload(&self) -> String {
        "x".repeat(self.payload_bytes)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Workload {
    /// lock and unlock through etcd's lock service, each connection its own lock
    EtcdLocks,
    /// lock and unlock through etcd's lock service, all connections the same lock
    EtcdHandOver,
    /// Publish to a JetStream work queue of three replicas, awaiting the acknowledgements
    NatsPush,
    /// Publish, take from a shared durable consumer, send the acknowledgement
    NatsCycle,
    /// The same, and await that the acknowledgement was taken
    NatsCycleConfirmed,
    /// put
    BeanstalkdPush,
    /// put, reserve, delete
    BeanstalkdCycle,
    /// SET NX, then DEL
    RedisLocks,
    /// XADD
    RedisPush,
    /// XADD, XREADGROUP, XACK and XDEL
    RedisCycle,
    /// GET of one key
    RedisGet,
    /// Not a load: serves a bare axum handler at the address
    Serve,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    match args.workload {
        Workload::Serve => serve(&args.at(0)).await,
        Workload::EtcdLocks => etcd_locks(&args, |nth| format!("lock-{nth}")).await,
        Workload::EtcdHandOver => etcd_locks(&args, |_| "lock".into()).await,
        Workload::NatsPush => nats::push(&args).await,
        Workload::NatsCycle => nats::cycle(&args, false).await,
        Workload::NatsCycleConfirmed => nats::cycle(&args, true).await,
        Workload::BeanstalkdPush => beanstalkd::push(&args).await,
        Workload::BeanstalkdCycle => beanstalkd::cycle(&args).await,
        Workload::RedisLocks => redis_streams::locks(&args).await,
        Workload::RedisPush => redis_streams::push(&args).await,
        Workload::RedisCycle => redis_streams::cycle(&args).await,
        Workload::RedisGet => redis_streams::get(&args).await,
    }
}

async fn etcd_locks(args: &Args, name_of: fn(usize) -> String) -> Result<(), Error> {
    let connect = |nth: usize| async move {
        let mut client = etcd_client::Client::connect([args.at(nth)], None).await?;
        let lease = client.lease_grant(120, None).await?.id();
        Ok((client, lease, name_of(nth)))
    };
    load::run(args, args.batch, connect, async |(client, lease, name)| {
        let options = etcd_client::LockOptions::new().with_lease(*lease);
        let lock = client.lock(name.as_str(), Some(options)).await?;
        client.unlock(lock.key()).await?;
        Ok(())
    })
    .await
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
