//! One node's process.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::Http;
use super::ports::free_port;
use super::wait::eventually;

/// A node: its place on this machine, and its process while it has one.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its HTTP port on 127.0.0.1.
    pub http: u16,
    /// Its peer port on 127.0.0.1.
    pub peer: u16,
    /// Its data directory.
    pub data: PathBuf,
    /// Whether it is given that directory; a node on Redis has none.
    pub keeps_data: bool,
    /// Everything it printed, over all its processes.
    pub log: PathBuf,
    /// Its `--members`, as it sees the others.
    pub members: String,
    /// More options of `lockstep serve`.
    pub options: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// A node that does not run yet.
    pub fn new(id: u64, directory: &Path, options: &[String]) -> Self {
        Self {
            id,
            http: free_port(),
            peer: free_port(),
            data: directory.join(format!("node{id}")),
            keeps_data: true,
            log: directory.join(format!("node{id}.log")),
            members: String::new(),
            options: options.to_vec(),
            env: Vec::new(),
            child: None,
        }
    }

    /// Starts its process. Panics if it runs already.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("open the log");
        let mut command = serve_command(self);
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        self.child = Some(command.spawn().expect("start lockstep"));
    }

    /// Whether it has a process that has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`, and waits until the kernel has taken its sockets down.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(deadline).await
    }

    /// Waits for its process to end by itself.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it has been started");
        let what = format!("node {} ends", self.id);
        let status = eventually(&what, deadline, || {
            let status = child.try_wait().expect("wait for lockstep");
            async move { status }
        });
        status.await
    }

    /// SIGSTOP: it keeps its sockets, and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The id of its process. Panics if it has none.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("node {} does not run", self.id)).id()
    }

    /// Asks it over HTTP.
    pub fn http(&self) -> Http {
        Http { port: self.http, patience: Duration::from_secs(20) }
    }

    /// Everything it has printed.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("node {} does not run", self.id));
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("send a signal to our own child");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command that starts `node`. It dies with the thread that starts it, whatever ends that.
pub fn serve_command(node: &Node) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .envs(node.env.iter().cloned())
        .arg("serve")
        .args(["--node-id", &node.id.to_string()])
        .args(["--http", &format!("127.0.0.1:{}", node.http)])
        .args(["--peer", &format!("127.0.0.1:{}", node.peer)])
        .args(["--members", &node.members])
        .args(["--die-with-parent", &std::process::id().to_string()])
        .args(&node.options)
        .stdin(Stdio::null());
    if node.keeps_data {
        command.arg("--data").arg(&node.data);
    }
    command
}

/// Runs a command that should end by itself, and says what it printed. Kills it at the deadline.
pub async fn run_to_end(what: &str, mut command: Command, deadline: Duration) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let file = |path: &Path| File::create(path).expect("create a file");
    let mut child = command.stdout(file(&out)).stderr(file(&err)).spawn().expect("start lockstep");
    let end = tokio::time::Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for lockstep") {
            break status;
        }
        if tokio::time::Instant::now() > end {
            let _ = (child.kill(), child.wait());
            let said = std::fs::read_to_string(&err).unwrap_or_default();
            panic!("{what}: still runs after {deadline:?}; it said {said:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    Output { status, stdout: read(&out), stderr: read(&err) }
}
