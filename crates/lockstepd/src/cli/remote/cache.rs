//! `lockstep cache …`

use lockstep_client::Client;
use serde_json::{Value, json};

use super::{Ask, Request, changes, list, one_request, plain, table, value};
use crate::cli::Failure;

/// Operations on the cache.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Print a key's value; fails if there is none
    Get {
        key: String,
        #[arg(long, short)]
        namespace: Option<String>,
        /// Ask the key's home even if the node holds a copy
        #[arg(long)]
        home: bool,
    },
    /// Write a key, and print the version written
    Set {
        key: String,
        /// JSON, or plain text; `-` reads the standard input
        value: String,
        #[arg(long, short)]
        namespace: Option<String>,
        /// How long it lives [default: the namespace's, else until it is evicted]
        #[arg(long)]
        ttl_ms: Option<u64>,
        /// Only if this is the current version
        #[arg(long, conflicts_with = "if_absent")]
        if_version: Option<String>,
        /// Only if there is no value
        #[arg(long)]
        if_absent: bool,
        /// Only if this right to fill it in, from `load`, still stands
        #[arg(long)]
        fill_token: Option<String>,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Remove a key
    Delete {
        key: String,
        #[arg(long, short)]
        namespace: Option<String>,
        /// Only if this is the current version
        #[arg(long)]
        if_version: Option<String>,
    },
    /// Add to a whole number, and print the sum
    Incr {
        key: String,
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        #[arg(long, short)]
        namespace: Option<String>,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Print several keys' values
    Mget {
        #[arg(required = true)]
        keys: Vec<String>,
        #[arg(long, short)]
        namespace: Option<String>,
    },
    /// Write several keys
    Mset {
        /// KEY=VALUE, each VALUE JSON or plain text
        #[arg(required = true)]
        entries: Vec<String>,
        #[arg(long, short)]
        namespace: Option<String>,
        #[arg(long)]
        ttl_ms: Option<u64>,
    },
    /// Print a key's value, or a token that lets this caller alone fill it in
    Load {
        key: String,
        #[arg(long, short)]
        namespace: Option<String>,
        /// How long the right to fill is needed
        #[arg(long, default_value_t = 5_000)]
        lease_ms: u64,
        /// How long to wait for somebody else who fills it in [default: --lease-ms]
        #[arg(long)]
        wait_ms: Option<u64>,
    },
    /// Forget every key of a namespace
    Flush {
        #[arg(default_value = "default")]
        namespace: String,
    },
    /// Make a namespace, or change its settings
    Namespace {
        namespace: String,
        /// through or back: whether a sole reader may write without asking the key's home
        #[arg(long)]
        write: Option<String>,
        /// Over all nodes
        #[arg(long)]
        max_bytes: Option<u64>,
        /// Of writes that say none
        #[arg(long)]
        default_ttl_ms: Option<u64>,
    },
    /// Print what changes, as it does, for as long as it runs
    Watch {
        /// Only this key
        #[arg(conflicts_with = "prefix")]
        key: Option<String>,
        /// Only keys that begin so
        #[arg(long)]
        prefix: Option<String>,
        #[arg(long, short)]
        namespace: Option<String>,
        /// Go on behind this event, which another watch at the same node has printed
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// Show what the node's cache has done and holds
    Stats,
    /// Show who holds a key, and in which coherence state
    Line {
        key: String,
        #[arg(long, short)]
        namespace: Option<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  lockstep cache set k1 v1 --ttl-ms 60000
  lockstep cache get k1
  lockstep cache set k1 v2 --if-version 7.1834
  lockstep cache incr visits
  lockstep cache namespace sessions --write back --default-ttl-ms 600000
  lockstep cache line k1
  lockstep cache watch --prefix user: --json | jq .key";

impl Ask for Command {
    async fn run(&self, client: &Client, json: bool) -> Result<(), Failure> {
        match self {
            Self::Watch { key, prefix, namespace, after } => {
                let cache = match namespace {
                    Some(namespace) => client.cache().namespace(namespace),
                    None => client.cache(),
                };
                let mut watch = cache.watch();
                if let Some(key) = key {
                    watch = watch.key(key);
                }
                if let Some(prefix) = prefix {
                    watch = watch.prefix(prefix);
                }
                if let Some(after) = after {
                    watch = watch.after(after);
                }
                changes::run(watch, json).await
            }
            command => one_request(command, client, json).await,
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Get { key, namespace, home } => {
                let mode = home.then(|| "home".to_owned());
                let query = [("k", Some(key.clone())), ("namespace", namespace.clone()), ("mode", mode)];
                Request::get("/cache/get", &query)
            }
            Self::Set {
                key,
                value: written,
                namespace,
                ttl_ms,
                if_version,
                if_absent,
                fill_token,
                request_id,
            } => {
                let if_absent = if_absent.then_some(true);
                let fields = json!({"key": key, "namespace": namespace, "ttl_ms": ttl_ms,
                                    "if_version": if_version, "if_absent": if_absent,
                                    "fill_token": fill_token, "request_id": request_id});
                Request::post("/cache/set", fields).with("value", value(written)?)
            }
            Self::Delete { key, namespace, if_version } => {
                let fields = json!({"key": key, "namespace": namespace, "if_version": if_version});
                Request::post("/cache/delete", fields)
            }
            Self::Incr { key, by, namespace, request_id } => {
                let fields = json!({"key": key, "by": by, "namespace": namespace, "request_id": request_id});
                Request::post("/cache/incr", fields)
            }
            Self::Mget { keys, namespace } => {
                Request::post("/cache/mget", json!({"keys": keys, "namespace": namespace}))
            }
            Self::Mset { entries, namespace, ttl_ms } => {
                let entries: Result<Vec<Value>, Failure> =
                    entries.iter().map(|entry| one_set(entry, *ttl_ms)).collect();
                Request::post("/cache/mset", json!({"entries": entries?, "namespace": namespace}))
            }
            Self::Load { key, namespace, lease_ms, wait_ms } => {
                let wait_ms = wait_ms.unwrap_or(*lease_ms);
                let fields = json!({"key": key, "namespace": namespace, "lease_ms": lease_ms,
                                    "wait_ms": wait_ms});
                Request::post("/cache/load", fields)
            }
            Self::Flush { namespace } => Request::post("/cache/flush", json!({"namespace": namespace})),
            Self::Namespace { namespace, write, max_bytes, default_ttl_ms } => {
                let fields = json!({"namespace": namespace, "write": write, "max_bytes": max_bytes,
                                    "default_ttl_ms": default_ttl_ms});
                Request::post("/cache/namespace", fields)
            }
            Self::Watch { .. } => return Err(Failure::new("more than one request")),
            Self::Stats => Request::get("/cache/stats", &[]),
            Self::Line { key, namespace } => {
                let query = [("k", Some(key.clone())), ("namespace", namespace.clone())];
                Request::get("/cache/line", &query)
            }
        })
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        Ok(match self {
            Self::Get { .. } | Self::Incr { .. } => plain(&answer["value"]),
            Self::Set { .. } => plain(&answer["version"]),
            Self::Delete { .. } => "deleted".to_owned(),
            Self::Mget { .. } => results(answer, "value"),
            Self::Mset { .. } => results(answer, "version"),
            Self::Load { .. } => match answer.get("fill_token") {
                Some(token) => format!("fill_token {}", plain(token)),
                None => plain(&answer["value"]),
            },
            Self::Flush { .. } => "flushed".to_owned(),
            Self::Namespace { .. } => answer.to_string(),
            Self::Watch { .. } => String::new(),
            Self::Stats => stats(answer),
            Self::Line { .. } => shown_line(answer),
        })
    }
}

fn one_set(entry: &str, ttl_ms: Option<u64>) -> Result<Value, Failure> {
    let Some((key, written)) = entry.split_once('=') else {
        return Err(Failure::usage(format_args!("{entry:?} is not KEY=VALUE")));
    };
    let mut set = json!({"key": key, "value": value(written)?});
    if let Some(ttl_ms) = ttl_ms {
        set["ttl_ms"] = ttl_ms.into();
    }
    Ok(set)
}

/// One line for each item of a batch: what it answered, or why not.
fn results(answer: &Value, field: &str) -> String {
    let line = |item: &Value| match item["error"]["code"].as_str() {
        Some(code) => format!("({code})"),
        None => plain(&item[field]),
    };
    list(answer, "results").map(line).collect::<Vec<_>>().join("\n")
}

fn stats(answer: &Value) -> String {
    let row =
        |(name, value): (&String, &Value)| value.is_number().then(|| vec![name.clone(), value.to_string()]);
    let rows: Vec<Vec<String>> = answer.as_object().into_iter().flatten().filter_map(row).collect();
    table(&["figure", "value"], &rows)
}

fn shown_line(answer: &Value) -> String {
    let cell = |value: &Value| if value.is_null() { "-".to_owned() } else { plain(value) };
    let row = |node: &Value| {
        let role = if node["node"] == answer["home"] { "home" } else { "" };
        let lease = cell(&node["lease_ms"]);
        vec![cell(&node["node"]), role.to_owned(), cell(&node["state"]), cell(&node["version"]), lease]
    };
    let rows: Vec<Vec<String>> = list(answer, "nodes").map(row).collect();
    table(&["node", "role", "state", "version", "lease_ms"], &rows)
}
