//! `lockstep cache …`

use serde_json::{Value, json};

use super::{Ask, Request, plain, value};
use crate::cli::Failure;

/// Operations on the cache.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Print a key's value; fails if there is none
    Get {
        key: String,
        /// Ask the key's home even if the node holds a copy
        #[arg(long)]
        home: bool,
    },
    /// Write a key, and print the version written
    Set {
        key: String,
        /// JSON, or plain text; `-` reads the standard input
        value: String,
        /// How long it lives [default: until it is evicted]
        #[arg(long)]
        ttl_ms: Option<u64>,
        /// Only if this is the current version
        #[arg(long, conflicts_with = "if_absent")]
        if_version: Option<String>,
        /// Only if there is no value
        #[arg(long)]
        if_absent: bool,
        /// Makes asking again harmless
        #[arg(long)]
        request_id: Option<String>,
    },
    /// Remove a key
    Delete { key: String },
}

const EXAMPLES: &str = "\
Examples:
  lockstep cache set k1 v1 --ttl-ms 60000
  lockstep cache get k1
  lockstep cache set k1 v2 --if-version 7.1834";

impl Ask for Command {
    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Get { key, home } => {
                let mode = home.then(|| "home".to_owned());
                Request::get("/cache/get", &[("k", Some(key.clone())), ("mode", mode)])
            }
            Self::Set { key, value: written, ttl_ms, if_version, if_absent, request_id } => {
                let if_absent = if_absent.then_some(true);
                let fields = json!({"key": key, "ttl_ms": ttl_ms, "if_version": if_version,
                                    "if_absent": if_absent, "request_id": request_id});
                Request::post("/cache/set", fields).with("value", value(written)?)
            }
            Self::Delete { key } => Request::post("/cache/delete", json!({"key": key})),
        })
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        Ok(match self {
            Self::Get { .. } => plain(&answer["value"]),
            Self::Set { .. } => plain(&answer["version"]),
            Self::Delete { .. } => "deleted".to_owned(),
        })
    }
}
