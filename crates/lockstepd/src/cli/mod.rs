//! The command line: parses it, runs one command, turns its failure into a sentence and a code.
//!
//! It holds no behaviour of the cluster: `serve` hands over to the node, everything else asks over HTTP.

mod bench;
mod dev;
mod exec;
mod http1;
mod moving;
mod remote;
mod serve;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Distributed locks, durable queues and a coherent cache over one cluster.
#[derive(Parser)]
#[command(name = "lockstep", version, about, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lockstep dev                                     a cluster of three nodes on this machine
  lockstep lock acquire resA --owner worker-1      take a lock, print its fencing token
  lockstep lock run nightly -- ./backup.sh         run a program while holding a lock
  lockstep queue push hello --key user:123         push a message, ordered after others of its key
  lockstep queue pop                               take one
  lockstep cache set k1 v1 && lockstep cache get k1
  lockstep bench locks --connections 64            how fast is it here?";

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster of real processes on this machine, for development
    Dev(dev::Args),
    /// Run one node
    Serve(Box<serve::Args>),
    /// Measure a running cluster: a closed-loop load generator with latency percentiles
    Bench(bench::Args),
    /// Acquire, release and look at locks
    Lock(remote::Remote<remote::lock::Command>),
    /// Push, take and look at messages
    Queue(remote::Remote<remote::queue::Command>),
    /// Read and write the cache
    Cache(remote::Remote<remote::cache::Command>),
    /// Who leads, and who is there
    Cluster(remote::Remote<remote::cluster::Command>),
    /// Become another program that dies with the process that started it
    #[command(hide = true)]
    Exec(exec::Args),
}

/// Why a command failed: what people read on stderr, and what scripts read from the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The command was understood and did not work out: exit code 1.
    fn new(message: impl std::fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// A program that was run has said itself what went wrong: its exit code is ours.
    fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }

    /// The command makes no sense as written: exit code 2, like every mistake that clap finds.
    fn usage(message: impl std::fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(*args),
        Command::Bench(args) => bench::run(args),
        Command::Lock(args) => args.run(),
        Command::Queue(args) => args.run(),
        Command::Cache(args) => args.run(),
        Command::Cluster(args) => args.run(),
        Command::Exec(args) => exec::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                eprintln!("lockstep: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// One thread is faster than several here: a node shares its machine with its clients, and what it
/// does besides moving bytes happens on the log's own thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format_args!("cannot start the runtime: {error}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
