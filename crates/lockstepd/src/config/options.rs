//! The options of `lockstep serve` as people write them: each is a flag, an environment variable and
//! a key of the configuration file. A flag wins over the environment, and that over the file.
//!
//! Each option stands here once, for all three. Nothing is checked here, and no default is set.

use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer};

use super::Error;

/// What was written, and nothing else. [`super::Serve::from_options`] says what it means.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Options {
    /// This node's number, 1 or more; never give an old number to a new machine.
    #[arg(long, env = "LOCKSTEP_NODE_ID", value_name = "N")]
    pub node_id: Option<u64>,
    /// Where to listen for clients.
    #[arg(long, env = "LOCKSTEP_HTTP", value_name = "ADDRESS:PORT")]
    pub http: Option<String>,
    /// Where to listen for the other nodes.
    #[arg(long, env = "LOCKSTEP_PEER", value_name = "ADDRESS:PORT")]
    pub peer: Option<String>,
    /// Every node of the cluster and its peer address; the same list on each of them.
    #[arg(long, env = "LOCKSTEP_MEMBERS", value_name = "1=HOST:PORT,2=…")]
    #[serde(deserialize_with = "members")]
    pub members: Option<String>,
    /// The URL by which clients reach this node [default: http:// and the address of --http].
    #[arg(long, env = "LOCKSTEP_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// This node's own directory; created if absent. Not needed with Redis as the store.
    #[arg(long, env = "LOCKSTEP_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where logs live: `embedded`, or `redis://[user:password@]host:port/db` [default: embedded].
    #[arg(long, env = "LOCKSTEP_STORE", value_name = "STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// What to log, from `error` to `trace`, also per module as in `warn,lockstepd::log=debug` [default: warn].
    #[arg(long, env = "LOCKSTEP_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Queue shards of the cluster; fixed when it is formed [default: 3].
    #[arg(long, env = "LOCKSTEP_QUEUE_SHARDS", value_name = "N", help_heading = "Tuning")]
    pub queue_shards: Option<u32>,
    /// Milliseconds between two heartbeats of a leader [default: 500].
    #[arg(long, env = "LOCKSTEP_HEARTBEAT_MS", value_name = "MS", help_heading = "Tuning")]
    pub heartbeat_ms: Option<u64>,
    /// The shortest silence of a leader before another is elected [default: 2000].
    #[arg(long, env = "LOCKSTEP_ELECTION_MS_MIN", value_name = "MS", help_heading = "Tuning")]
    pub election_ms_min: Option<u64>,
    /// The longest [default: 4000].
    #[arg(long, env = "LOCKSTEP_ELECTION_MS_MAX", value_name = "MS", help_heading = "Tuning")]
    pub election_ms_max: Option<u64>,
    /// How long a silent node still counts as a member, which bounds how long its cached keys are
    /// unavailable after it died [default: 10000].
    #[arg(long, env = "LOCKSTEP_MEMBER_LEASE_MS", value_name = "MS", help_heading = "Tuning")]
    pub member_lease_ms: Option<u64>,
    /// Log bytes of a shard between two snapshots [default: 64 MiB].
    #[arg(long, env = "LOCKSTEP_SNAPSHOT_BYTES", value_name = "BYTES", help_heading = "Tuning")]
    pub snapshot_bytes: Option<u64>,
    /// How long a stopping node waits for requests in flight [default: 5000].
    #[arg(long, env = "LOCKSTEP_DRAIN_MS_MAX", value_name = "MS", help_heading = "Tuning")]
    pub drain_ms_max: Option<u64>,

    /// The largest payload or value; a request with several may have eight times as much [default: 1 MiB].
    #[arg(long, env = "LOCKSTEP_BODY_BYTES_MAX", value_name = "BYTES", help_heading = "Limits")]
    pub body_bytes_max: Option<usize>,
    /// Client connections at once [default: 10000].
    #[arg(long, env = "LOCKSTEP_CONNECTIONS_MAX", value_name = "N", help_heading = "Limits")]
    pub connections_max: Option<usize>,
    /// Header lines of one request [default: 64].
    #[arg(long, env = "LOCKSTEP_HEADERS_MAX", value_name = "N", help_heading = "Limits")]
    pub headers_max: Option<usize>,
    /// How long a client may take to send its headers [default: 5000].
    #[arg(long, env = "LOCKSTEP_HEADER_MS_MAX", value_name = "MS", help_heading = "Limits")]
    pub header_ms_max: Option<u64>,
    /// Messages in one queue [default: 5000000].
    #[arg(long, env = "LOCKSTEP_QUEUE_MESSAGES_MAX", value_name = "N", help_heading = "Limits")]
    pub queue_messages_max: Option<u64>,
    /// Payload bytes in one queue [default: 4 GiB].
    #[arg(long, env = "LOCKSTEP_QUEUE_BYTES_MAX", value_name = "BYTES", help_heading = "Limits")]
    pub queue_bytes_max: Option<u64>,
    /// How full the disk, or the memory of Redis, may be, of a hundred, before pushes are refused [default: 80].
    #[arg(long, env = "LOCKSTEP_STORAGE_PERCENT_MAX", value_name = "N", help_heading = "Limits")]
    pub storage_percent_max: Option<u64>,
    /// Memory for message bodies that were pushed last, for each shard [default: 16 MiB].
    #[arg(long, env = "LOCKSTEP_BODY_CACHE_BYTES_MAX", value_name = "BYTES", help_heading = "Limits")]
    pub body_cache_bytes_max: Option<usize>,
    /// Waiters of one lock [default: 10000].
    #[arg(long, env = "LOCKSTEP_WAITERS_MAX", value_name = "N", help_heading = "Limits")]
    pub waiters_max: Option<u32>,
    /// Requests that a shard remembers so that retries are harmless [default: 200000].
    #[arg(long, env = "LOCKSTEP_MEMO_MAX", value_name = "N", help_heading = "Limits")]
    pub memo_max: Option<u32>,
    /// Memory for cache lines whose home is this node [default: 256 MiB].
    #[arg(long, env = "LOCKSTEP_CACHE_HOME_BYTES_MAX", value_name = "BYTES", help_heading = "Limits")]
    pub cache_home_bytes_max: Option<usize>,
    /// Memory for copies of other nodes' cache lines [default: 128 MiB].
    #[arg(long, env = "LOCKSTEP_CACHE_COPY_BYTES_MAX", value_name = "BYTES", help_heading = "Limits")]
    pub cache_copy_bytes_max: Option<usize>,
    /// Near caches in clients' processes at once [default: 256].
    #[arg(long, env = "LOCKSTEP_NEAR_CLIENTS_MAX", value_name = "N", help_heading = "Limits")]
    pub near_clients_max: Option<usize>,
    /// Keys that one near cache may hold [default: 50000].
    #[arg(long, env = "LOCKSTEP_NEAR_KEYS_MAX", value_name = "N", help_heading = "Limits")]
    pub near_keys_max: Option<usize>,
    /// Requests of all nodes that may wait at this node for the cache's keys at once [default: 16384].
    #[arg(long, env = "LOCKSTEP_CACHE_WAITING_MAX", value_name = "N", help_heading = "Limits")]
    pub cache_waiting_max: Option<usize>,
    /// Watchers of the cache at this node at once [default: 1024].
    #[arg(long, env = "LOCKSTEP_CACHE_WATCHERS_MAX", value_name = "N", help_heading = "Limits")]
    pub cache_watchers_max: Option<usize>,
    /// Requests to the cache in hand at once, hits of a node's memory not counted; and as many again that
    /// wait for others [default: 4096].
    #[arg(long, env = "LOCKSTEP_REQUESTS_MAX", value_name = "N", help_heading = "Limits")]
    pub requests_max: Option<usize>,
}

impl Options {
    /// Reads the text of a configuration file. Keys are the flags' names, with `-` or `_`. The
    /// message of an error names the key or the line.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        let mut keys = toml::Table::new();
        for (key, value) in table {
            let name = key.replace('_', "-");
            if keys.insert(name, value).is_some() {
                return Err(format!("the key `{key}` stands there twice, once with - and once with _"));
            }
        }
        keys.try_into().map_err(|error: toml::de::Error| error.to_string())
    }

    /// These options, and `below` where these say nothing.
    pub fn over(self, below: Self) -> Result<Self, Error> {
        let broken =
            |error: &dyn std::fmt::Display| Error::Invalid(format!("the options cannot be read: {error}"));
        let mut merged = toml::Table::try_from(below).map_err(|error| broken(&error))?;
        merged.extend(toml::Table::try_from(self).map_err(|error| broken(&error))?);
        merged.try_into().map_err(|error| broken(&error))
    }

    /// Whatever has no default must be given.
    pub(super) fn require_all(&self) -> Result<(), Error> {
        let given = [
            ("--node-id", self.node_id.is_some()),
            ("--http", self.http.is_some()),
            ("--peer", self.peer.is_some()),
            ("--members", self.members.is_some()),
            (
                "--data",
                self.data.is_some() || self.store.as_deref().is_some_and(|store| store.starts_with("redis")),
            ),
        ];
        let missing: Vec<&str> =
            given.into_iter().filter(|(_, there)| !there).map(|(flag, _)| flag).collect();
        if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing)) }
    }
}

/// In a file, members may also be a table (`1 = "host:port"`) or a list of `"1=host:port"`.
fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Written {
        Line(String),
        List(Vec<String>),
        Table(std::collections::BTreeMap<String, String>),
    }
    Ok(Some(match Written::deserialize(deserializer)? {
        Written::Line(line) => line,
        Written::List(parts) => parts.join(","),
        Written::Table(table) => {
            let parts: Vec<String> = table.iter().map(|(id, address)| format!("{id}={address}")).collect();
            parts.join(",")
        }
    }))
}
