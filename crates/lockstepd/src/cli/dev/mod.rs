//! `lockstep dev`: a whole cluster of real processes on this machine, for development.
//!
//! The nodes are the same `lockstep serve` that production runs; nothing here stands between them
//! and their clients. It is not a process manager: a node that keeps dying stops the whole.

mod child;
mod plan;
mod ports;
mod supervise;

use std::io::IsTerminal;
use std::path::PathBuf;

use super::{Failure, runtime};
use plan::Plan;

/// The options of `lockstep dev`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// How many nodes; an odd number survives the most failures for its size
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// HTTP port of the first node; the others follow, peer ports are 1000 above
    #[arg(long, env = "LOCKSTEP_BASE_PORT", default_value_t = 8001, value_name = "PORT")]
    base_port: u16,
    /// Where the nodes keep their data; a later start with the same directory goes on from there
    #[arg(long, default_value = "./lockstep-data/dev", value_name = "DIR")]
    data: PathBuf,
    /// Where logs live: `embedded`, or `redis://[user:password@]host:port/db` [default: embedded]
    #[arg(long, env = "LOCKSTEP_STORE", value_name = "STORE", hide_env_values = true)]
    store: Option<String>,
    /// More options for every `lockstep serve`
    #[arg(last = true, value_name = "SERVE OPTIONS")]
    serve: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  lockstep dev                                  three nodes on 8001, 8002, 8003
  lockstep dev --nodes 5 --base-port 7001
  lockstep dev --store redis://localhost:6379
  lockstep dev -- --log info --heartbeat-ms 100
Ctrl-C stops all of them; the data stays.";

/// Starts the cluster and looks after it until a signal.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let plan = Plan::new(&args)?;
    ports::must_be_free(&plan)?;
    plan.prepare_data()?;
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    runtime()?.block_on(supervise::run(&plan, colours))
}
