//! `lockstep exec`, for `lock run` only: becomes another program that is killed when the process
//! which started it ends, however that ends.
//!
//! Only the program itself is killed then, not what it has started: that is the kernel's rule.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::Failure;

/// The options of `lockstep exec`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The process that must be there
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only if that fails, with the exit codes that shells use.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::new)?;
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(args.parent) {
        return Err(Failure::new("the process that started this one has ended"));
    }
    let [program, arguments @ ..] = &args.command[..] else { return Err(Failure::usage("no program")) };
    let error = std::process::Command::new(program).args(arguments).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure { code, message: format!("{}: {error}", program.display()) })
}
