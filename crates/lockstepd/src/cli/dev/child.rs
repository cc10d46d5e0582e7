//! One node's process: started in a group of its own, its output prefixed line by line.

use std::io::Write;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::Failure;
use super::plan::Node;

/// A running node.
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts `lockstep serve` as planned.
    pub(super) fn start(node: &Node, store: Option<&str>, prefix: &str) -> Result<Self, Failure> {
        let fail = |error| Failure::new(format_args!("cannot start node {}: {error}", node.id));
        let program = std::env::current_exe().map_err(fail)?;
        let mut command = Command::new(program);
        if let Some(store) = store {
            command.env("LOCKSTEP_STORE", store);
        }
        let mut child = command
            .args(&node.arguments)
            // What may be meant for one node must not reach all of them.
            .env_remove("LOCKSTEP_ADVERTISE")
            .env_remove("LOCKSTEP_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to the whole foreground group: the nodes would take ours for a second signal.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        if let Some(out) = child.stdout.take() {
            tokio::spawn(print_lines(out, prefix.to_owned()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(print_lines(err, prefix.to_owned()));
        }
        Ok(Self { child })
    }

    /// Waits for its end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to stop (SIGTERM).
    pub(super) fn terminate(&self) {
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            // It may have ended this very moment; that is as good.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
    }

    /// Ends it at once (SIGKILL).
    pub(super) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }
}

/// Whole lines only, so that two nodes never mix within one.
async fn print_lines(from: impl AsyncRead + Unpin, prefix: String) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(read) if read > 0) {
        say(format_args!("{prefix}{}", String::from_utf8_lossy(&line).trim_end()));
        line.clear();
    }
}

/// Prints one line. Whoever read our output may be gone: that is no reason to take a cluster down.
pub(super) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
