//! What one node is told before it starts, checked so that everything after can rely on it.
//!
//! [`Options`] is what people write (flags, environment, file); [`Serve`] is what it means. It opens
//! nothing but the data directory, and does not talk to other nodes.

mod members;
mod options;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_core::names::NodeId;

pub use options::Options;

/// Queue shards of a new cluster unless its nodes are told otherwise: packs stay large on a small
/// machine, and three nodes still share the work.
pub const QUEUE_SHARDS: u32 = 3;

/// Everything that `lockstep serve` needs to know.
#[derive(Clone, Debug)]
pub struct Serve {
    /// This node.
    pub node: NodeId,
    /// Where clients are listened for.
    pub http: SocketAddr,
    /// Where other nodes are listened for.
    pub peer: SocketAddr,
    /// Every member, this node included, and where its peer port is reached (`host:port`).
    pub members: BTreeMap<NodeId, String>,
    /// The URL that others tell clients to reach this node by, without a slash at its end.
    pub advertise: String,
    /// The directory that is this node's alone.
    pub data: PathBuf,
    /// Where logs live.
    pub store: Store,
    /// Queue shards of the cluster, if that was said. Fixed when the cluster is formed: a directory
    /// that was formed with another number is refused, a new cluster gets [`QUEUE_SHARDS`].
    pub queue_shards: Option<u32>,
    /// How fast a dead leader is noticed.
    pub timing: Timing,
    /// What one client or one queue may use up.
    pub limits: Limits,
}

/// Where logs live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the data directory, replicated by raft.
    Embedded,
    /// In a Redis; the node keeps nothing.
    Redis(crate::log::redis::Address),
}

/// How fast a dead leader is noticed, against how easily a live one is taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// The longest; each follower draws its own between the two.
    pub election_max: Duration,
    /// How long a member counts as alive after its last heartbeat to the coordination shard.
    pub member_lease: Duration,
}

/// What one client, one queue or one cache may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest payload of a message, or value of the cache, in bytes.
    pub body_bytes: usize,
    /// Client connections at once.
    pub connections: usize,
    /// Header lines of one request.
    pub headers: usize,
    /// How long a client may take to send a request's headers.
    pub header_time: Duration,
    /// Messages in one queue, over all shards.
    pub queue_messages: u64,
    /// Payload bytes in one queue, over all shards.
    pub queue_bytes: u64,
    /// How full the disk may be, of a hundred, before pushes are refused.
    pub storage_percent: u64,
    /// Memory for the message bodies that were pushed last, for each shard, in bytes.
    pub body_cache_bytes: usize,
    /// Waiters of one lock.
    pub waiters: u32,
    /// Requests that one shard remembers so that their retries are harmless.
    pub memo: u32,
    /// Memory for cache lines whose home is this node, in bytes.
    pub cache_home_bytes: usize,
    /// Memory for copies of other nodes' cache lines, in bytes.
    pub cache_copy_bytes: usize,
    /// Near caches in clients' processes at once.
    pub near_clients: usize,
    /// Keys that one near cache may hold.
    pub near_keys: usize,
    /// Requests of all nodes that may wait at this one for the cache's keys.
    pub cache_waiting: usize,
    /// Watchers of the cache at once.
    pub cache_watchers: usize,
    /// Requests to the cache in hand at once, and as many again that wait for others.
    pub requests: usize,
    /// How much log a shard writes between two snapshots, in bytes.
    pub snapshot_bytes: u64,
    /// How long a stopping node waits for requests in flight.
    pub drain: Duration,
}

/// Why a node cannot start with what it was told. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Needed, and nowhere given.
    #[error("{} missing: give each as a flag, as an environment variable ({} …) or in the --config file", list(.0), env_of(.0))]
    Missing(Vec<&'static str>),
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file says something that is not understood.
    #[error("configuration file {path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// Names the key or the line.
        message: String,
    },
    /// A value that cannot be, and what would be.
    #[error("{0}")]
    Invalid(String),
    /// The data directory cannot be written.
    #[error(
        "cannot write to the data directory {path}: {source}; choose another with --data, or change its owner"
    )]
    Data {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Serve {
    /// Checks what people wrote and fills in the defaults. Opens nothing.
    pub fn from_options(options: &Options) -> Result<Self, Error> {
        let node = options.node_id;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        // One that is unknown may be what makes another flag seem to be missing.
        let store = store(options.store.as_deref())?;
        options.require_all()?;
        let members = members::parse(&text(&options.members))?;
        let node = NodeId(node.unwrap_or_default());
        members::must_include(&members, node)?;
        let http = listen_address("--http", &text(&options.http))?;
        Ok(Self {
            node,
            http,
            peer: listen_address("--peer", &text(&options.peer))?,
            members,
            advertise: advertised(options.advertise.as_deref(), http)?,
            data: options.data.clone().unwrap_or_default(),
            store,
            queue_shards: options
                .queue_shards
                .map(|count| within("--queue-shards", count, 1, 256))
                .transpose()?,
            timing: timing(options)?,
            limits: limits(options)?,
        })
    }

    /// Creates the data directory if need be, and makes sure that it can be written.
    /// With Redis as the store there is none.
    pub fn prepare_data(&self) -> Result<(), Error> {
        if self.store != Store::Embedded {
            return Ok(());
        }
        let fail = |source| Error::Data { path: self.data.clone(), source };
        std::fs::create_dir_all(&self.data).map_err(fail)?;
        let probe = self.data.join(format!(".writable-{}", std::process::id()));
        std::fs::write(&probe, b"").map_err(fail)?;
        std::fs::remove_file(&probe).map_err(fail)
    }
}

fn timing(options: &Options) -> Result<Timing, Error> {
    let heartbeat = within("--heartbeat-ms", options.heartbeat_ms.unwrap_or(500), 10, 60_000)?;
    let min = within("--election-ms-min", options.election_ms_min.unwrap_or(2_000), 50, 300_000)?;
    let max = within("--election-ms-max", options.election_ms_max.unwrap_or(4_000), 50, 300_000)?;
    let lease = within("--member-lease-ms", options.member_lease_ms.unwrap_or(10_000), 500, 600_000)?;
    if heartbeat * 2 > min {
        return Err(Error::Invalid(format!(
            "--election-ms-min {min} is too short for --heartbeat-ms {heartbeat}: one lost heartbeat would depose \
             a healthy leader; make it at least {}",
            heartbeat * 2
        )));
    }
    if min >= max {
        return Err(Error::Invalid(format!(
            "--election-ms-max {max} must be larger than --election-ms-min {min}, so that two candidates rarely \
             stand at once; twice as large is a good choice"
        )));
    }
    let ms = Duration::from_millis;
    Ok(Timing {
        heartbeat: ms(heartbeat),
        election_min: ms(min),
        election_max: ms(max),
        member_lease: ms(lease),
    })
}

fn limits(options: &Options) -> Result<Limits, Error> {
    let mib = |count: usize| count << 20;
    let drain = within("--drain-ms-max", options.drain_ms_max.unwrap_or(5_000), 0, 600_000)?;
    let header = within("--header-ms-max", options.header_ms_max.unwrap_or(5_000), 10, 600_000)?;
    Ok(Limits {
        // A batch may be eight times as large, and must fit into one frame between nodes with the pack
        // that carries it.
        body_bytes: within("--body-bytes-max", options.body_bytes_max.unwrap_or(mib(1)), 1024, mib(4))?,
        connections: within("--connections-max", options.connections_max.unwrap_or(10_000), 1, 1_000_000)?,
        headers: within("--headers-max", options.headers_max.unwrap_or(64), 8, 1_000)?,
        header_time: Duration::from_millis(header),
        queue_messages: options.queue_messages_max.unwrap_or(5_000_000),
        queue_bytes: options.queue_bytes_max.unwrap_or(4 << 30),
        storage_percent: within("--storage-percent-max", options.storage_percent_max.unwrap_or(80), 1, 99)?,
        body_cache_bytes: options.body_cache_bytes_max.unwrap_or(mib(16)),
        waiters: options.waiters_max.unwrap_or(10_000),
        memo: options.memo_max.unwrap_or(200_000),
        cache_home_bytes: options.cache_home_bytes_max.unwrap_or(mib(256)),
        cache_copy_bytes: options.cache_copy_bytes_max.unwrap_or(mib(128)),
        near_clients: within("--near-clients-max", options.near_clients_max.unwrap_or(256), 0, 100_000)?,
        near_keys: within("--near-keys-max", options.near_keys_max.unwrap_or(50_000), 1, 10_000_000)?,
        cache_waiting: within(
            "--cache-waiting-max",
            options.cache_waiting_max.unwrap_or(crate::cache::WAITING_MAX),
            1,
            10_000_000,
        )?,
        cache_watchers: within(
            "--cache-watchers-max",
            options.cache_watchers_max.unwrap_or(crate::cache::WATCHERS_MAX),
            0,
            100_000,
        )?,
        requests: within("--requests-max", options.requests_max.unwrap_or(4_096), 1, 1_000_000)?,
        snapshot_bytes: within(
            "--snapshot-bytes",
            options.snapshot_bytes.unwrap_or(64 << 20),
            1 << 16,
            1 << 40,
        )?,
        drain: Duration::from_millis(drain),
    })
}

fn within<N: PartialOrd + std::fmt::Display>(flag: &str, value: N, min: N, max: N) -> Result<N, Error> {
    if value < min || value > max {
        return Err(Error::Invalid(format!("{flag} {value} must lie between {min} and {max}")));
    }
    Ok(value)
}

fn listen_address(flag: &str, text: &str) -> Result<SocketAddr, Error> {
    let explain = |why: &str| {
        Error::Invalid(format!(
            "{flag} {text:?} {why}: write ADDRESS:PORT, for example {flag} 127.0.0.1:8001"
        ))
    };
    let mut found =
        text.to_socket_addrs().map_err(|error| explain(&format!("is not an address ({error})")))?;
    found.next().ok_or_else(|| explain("resolves to nothing"))
}

/// What clients are told. An address that means "every interface" tells them nothing.
fn advertised(given: Option<&str>, http: SocketAddr) -> Result<String, Error> {
    match given {
        Some(url) if url.starts_with("http://") => Ok(url.trim_end_matches('/').to_owned()),
        Some(url) => Err(Error::Invalid(format!(
            "--advertise {url:?} must be the URL by which clients reach this node, for example http://{http}"
        ))),
        None if http.ip().is_unspecified() => Err(Error::Invalid(format!(
            "--http {http} listens on every interface, so clients cannot be told where this node is: add --advertise \
             with the URL by which they reach it, for example --advertise http://host-name:{}",
            http.port()
        ))),
        None => Ok(format!("http://{http}")),
    }
}

fn store(given: Option<&str>) -> Result<Store, Error> {
    match given {
        None | Some("embedded") => Ok(Store::Embedded),
        Some(url) if url.starts_with("redis://") || url.starts_with("rediss://") => {
            let address = crate::log::redis::Address::parse(url);
            // The URL itself is not repeated: it may hold a password.
            address.map(Store::Redis).map_err(|why| Error::Invalid(format!("--store {why}")))
        }
        Some(_) => Err(Error::Invalid(
            "--store is unknown: write `embedded`, which keeps the data in --data, or redis://host:6379/0"
                .into(),
        )),
    }
}

fn list(flags: &[&str]) -> String {
    let verb = if flags.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", flags.join(", "))
}

fn env_of(flags: &[&str]) -> String {
    let first = flags.first().copied().unwrap_or_default();
    format!("LOCKSTEP_{}", first.trim_start_matches("--").replace('-', "_").to_uppercase())
}

/// Reads a configuration file: TOML whose keys are the flags' names.
pub fn read_file(path: &Path) -> Result<Options, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Options::from_toml(&text).map_err(|message| Error::File { path: path.to_owned(), message })
}
