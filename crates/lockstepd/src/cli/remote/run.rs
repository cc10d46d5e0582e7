//! `lockstep lock run NAME -- CMD`: CMD runs while the lock is held, and no longer.
//!
//! CMD and what it starts are a process group, which is stopped before the lease can have ended by
//! this process's clock. A paused machine, or a paused `lock run`, can still let CMD go on too long:
//! what must not happen twice should check LOCKSTEP_TOKEN where it lands.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use lockstep_client::lock::Acquire;
use lockstep_client::{Client, LockGuard};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

use super::unanswered;
use crate::cli::Failure;
use crate::cli::signals::Signals;

/// The options of `lockstep lock run`.
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    name: String,
    /// The lease's length; it is renewed at every third of it
    #[arg(long, default_value_t = 30_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(500..=86_400_000))]
    ttl_ms: u64,
    /// How long to queue for the lock; 0 fails at once if it is held [default: as long as it takes]
    #[arg(long, value_name = "MS")]
    wait_ms: Option<u64>,
    /// Hold it beside other shared holders
    #[arg(long)]
    shared: bool,
    /// From SIGTERM to SIGKILL when the lock is lost [default: 5000, or a quarter of the lease]
    #[arg(long, value_name = "MS")]
    kill_after_ms: Option<u64>,
    /// Who holds it [default: this host and process]
    #[arg(long)]
    owner: Option<String>,
    /// The program and its arguments. It sees LOCKSTEP_TOKEN, LOCKSTEP_LOCK and LOCKSTEP_OWNER
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) const EXIT_CODES: &str = "\
The exit code is that of CMD: 128 and the number of the signal if it died of one (143 after SIGTERM, as
when the lock was lost), 127 if it was not found, 126 if it could not be run. 1: the lock was not acquired.
SIGTERM and SIGINT are passed on to CMD; its end releases the lock. CMD runs in a process group of its own,
so it cannot read from a terminal.";

/// The last moments of a lease are for the kernel, to end what was killed.
const KILL_EARLY: Duration = Duration::from_millis(100);

/// How often a stopped group is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs the program under the lock; its exit code is ours.
pub(super) async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    if args.kill_after() > Duration::from_millis(args.ttl_ms) / 3 {
        return Err(Failure::usage("--kill-after-ms must be at most a third of --ttl-ms"));
    }
    let mut signals = Signals::listen()?;
    let guard = tokio::select! {
        guard = args.acquire(client).acquire() => guard.map_err(unanswered)?,
        signal = signals.next() => return Err(Failure::silent(code_of(signal))),
    };
    let ended = match args.start(&guard) {
        Ok(child) => watch(child, &guard, &mut signals, args.kill_after()).await,
        Err(error) => Err(error),
    };
    // After a loss there is nothing to say that was not said.
    let lost = guard.is_lost().is_some();
    if let Err(error) = guard.release().await
        && !lost
    {
        eprintln!("lockstep: the lock could not be released and ends with its lease: {error}");
    }
    match exit_code(ended?) {
        0 => Ok(()),
        code => Err(Failure::silent(code)),
    }
}

impl Args {
    fn acquire(&self, client: &Client) -> Acquire {
        let owner = self.owner.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}:{}:{:08x}", host.trim(), std::process::id(), rand::random::<u32>())
        });
        let lock = client
            .lock(&self.name)
            .ttl(Duration::from_millis(self.ttl_ms))
            .wait(self.wait_ms.map_or(Duration::MAX, Duration::from_millis))
            .stop_margin(self.kill_after() + KILL_EARLY)
            .owner(owner);
        if self.shared { lock.shared() } else { lock.exclusive() }
    }

    fn kill_after(&self) -> Duration {
        Duration::from_millis(self.kill_after_ms.unwrap_or_else(|| (self.ttl_ms / 4).min(5_000)))
    }

    fn start(&self, guard: &LockGuard) -> Result<Child, Failure> {
        let lost = |lost| Failure::new(format_args!("{lost}, before the program was started"));
        let this = std::env::current_exe().map_err(Failure::new)?;
        let child = Command::new(this)
            .args(["exec", "--parent", &std::process::id().to_string(), "--"])
            .args(&self.command)
            .env("LOCKSTEP_TOKEN", guard.token().map_err(lost)?.to_string())
            .env("LOCKSTEP_LOCK", guard.name())
            .env("LOCKSTEP_OWNER", guard.owner())
            .process_group(0)
            .spawn();
        child.map_err(|error| Failure::new(format_args!("cannot start a process: {error}")))
    }
}

/// Waits for the program's end: it comes by itself, after a signal that is passed on, or because the
/// lock is lost.
async fn watch(
    mut child: Child,
    guard: &LockGuard,
    signals: &mut Signals,
    kill_after: Duration,
) -> Result<ExitStatus, Failure> {
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = Group(id.ok_or_else(|| Failure::new("the program has no process id"))?);
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status.map_err(Failure::new),
            signal = signals.next() => group.send(signal),
            lost = guard.lost() => {
                eprintln!("lockstep: {lost}; stopping the program");
                let left = guard.lease_left().saturating_sub(KILL_EARLY);
                return group.stop(child, Instant::now() + kill_after.min(left)).await;
            }
        }
    }
}

/// The program, and what it has started.
struct Group(Pid);

impl Group {
    /// A group that has ended already needs no signal.
    fn send(&self, signal: Signal) {
        let _ = kill_process_group(self.0, signal);
    }

    /// TERM for all of it now, KILL at `kill_at` for what is left by then.
    async fn stop(&self, mut child: Child, kill_at: Instant) -> Result<ExitStatus, Failure> {
        self.send(Signal::TERM);
        let graceful = async {
            let status = child.wait().await;
            while test_kill_process_group(self.0) != Err(Errno::SRCH) {
                sleep(POLL).await;
            }
            status
        };
        tokio::select! {
            biased;
            status = graceful => return status.map_err(Failure::new),
            () = sleep_until(kill_at) => {}
        }
        self.send(Signal::KILL);
        child.wait().await.map_err(Failure::new)
    }
}

/// As shells have it: 128 and the signal's number for a program that died of one.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(1)
}
