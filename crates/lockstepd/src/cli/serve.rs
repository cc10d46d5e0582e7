//! `lockstep serve`: one node, in the foreground, until it is told to stop.

use std::path::PathBuf;

use lockstepd::config::{self, Options, Serve};
use lockstepd::node;
use tracing_subscriber::EnvFilter;

use super::signals::Signals;
use super::{Failure, runtime};

/// The options of `lockstep serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// A TOML file whose keys are these options' names; flags and environment win over it
    #[arg(long, env = "LOCKSTEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Die when the process with this id, which must be the parent, dies
    #[arg(long, hide = true, value_name = "PID")]
    die_with_parent: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  lockstep serve --node-id 1 --http 127.0.0.1:8001 --peer 127.0.0.1:9001 \\
      --members 1=127.0.0.1:9001,2=127.0.0.1:9002,3=127.0.0.1:9003 --data /var/lib/lockstep
  lockstep serve --config /etc/lockstep.toml --node-id 2
  lockstep serve --node-id 1 --http 127.0.0.1:8001 --peer 127.0.0.1:9001 \\
      --members 1=127.0.0.1:9001,2=127.0.0.1:9002,3=127.0.0.1:9003 --store redis://localhost:6379

SIGTERM stops the node gracefully: it refuses new work, hands leadership over, finishes what is in
flight and exits with 0. A second signal ends it at once.";

/// Runs the node until a signal, or until it fails.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    if let Some(parent) = args.die_with_parent {
        die_with(parent)?;
    }
    let options = with_file(args.options, args.config)?;
    start_logging(options.log.as_deref())?;
    let config = Serve::from_options(&options).map_err(Failure::usage)?;
    config.prepare_data().map_err(Failure::usage)?;
    runtime()?.block_on(serve(config))
}

async fn serve(config: Serve) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
        eprintln!("lockstep: stopped at once by a second signal");
        std::process::exit(1);
    });
    let stopped = async move {
        let _ = stopped.await;
    };
    node::run(config, stopped).await.map_err(|error| match error.is_mistake() {
        true => Failure::usage(error),
        false => Failure::new(error),
    })
}

fn with_file(flags: Options, file: Option<PathBuf>) -> Result<Options, Failure> {
    let Some(path) = file else { return Ok(flags) };
    let below = config::read_file(&path).map_err(Failure::usage)?;
    flags.over(below).map_err(Failure::usage)
}

/// Logs go to stderr, and are quiet unless asked: the default shows what an operator must see.
fn start_logging(filter: Option<&str>) -> Result<(), Failure> {
    let mut filter = filter.unwrap_or("warn").to_owned();
    if !filter.contains("openraft") {
        // Consensus tells of every lost message; what matters of it this program says itself.
        filter.push_str(",openraft=off");
    }
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format_args!(
            "--log: {error}; write a level such as info, or warn,lockstepd::log=debug"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

/// Asks the kernel to kill this process when its parent dies. The parent may have died before the
/// question was put, which shows as another parent by now.
fn die_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::new)?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) { Ok(()) } else { Err(Failure::new("the process that started this node is gone")) }
}
