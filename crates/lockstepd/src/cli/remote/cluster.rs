//! `lockstep cluster …`

use serde_json::Value;

use super::{Ask, Request, list, plain, table};
use crate::cli::{Failure, moving};

/// Questions about the cluster.
#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Members and shards
    Status,
    /// Who leads
    Leader,
    /// Whether the node can serve; exit code 1 and the reasons if it cannot. For health checks
    Ready,
    /// Write a stopped cluster to a file
    Export(moving::Args),
    /// Write an exported cluster to where none is: another store, or the same kind
    Import(moving::ImportArgs),
}

impl Ask for Command {
    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Status => Request::get("/cluster", &[]),
            Self::Leader => Request::get("/leader", &[]),
            Self::Ready => Request::get("/ready", &[]),
            Self::Export(_) | Self::Import(_) => return Err(Failure::usage("this command asks nobody")),
        })
    }

    fn offline(&self) -> Option<Result<(), Failure>> {
        match self {
            Self::Export(args) => Some(moving::export(args)),
            Self::Import(args) => Some(moving::import(args)),
            Self::Status | Self::Leader | Self::Ready => None,
        }
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        Ok(match self {
            Self::Leader => {
                let leader = &answer["leader"];
                format!("node {} at {}, epoch {}", leader["id"], plain(&leader["url"]), answer["epoch"])
            }
            Self::Ready => "ready".to_owned(),
            Self::Export(_) | Self::Import(_) => String::new(),
            Self::Status => format!("{}\n\n{}", members(answer), shards(answer)),
        })
    }
}

fn members(answer: &Value) -> String {
    let row = |member: &Value| ["id", "url", "peer", "alive"].map(|name| plain(&member[name])).to_vec();
    table(&["NODE", "URL", "PEER", "ALIVE"], &list(answer, "members").map(row).collect::<Vec<_>>())
}

fn shards(answer: &Value) -> String {
    let row = |shard: &Value| ["id", "leader", "epoch", "applied"].map(|name| plain(&shard[name])).to_vec();
    table(&["SHARD", "LEADER", "EPOCH", "APPLIED"], &list(answer, "shards").map(row).collect::<Vec<_>>())
}
