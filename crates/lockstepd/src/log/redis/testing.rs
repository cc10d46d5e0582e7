//! A real Redis for a test: started on a free port with safe settings in a directory of its own.
//!
//! Shared with the process tests by path. It knows nothing of Lockstep.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A running `redis-server`, killed when dropped.
pub struct RedisServer {
    /// Its port on 127.0.0.1.
    pub port: u16,
    directory: PathBuf,
    options: Vec<String>,
    child: Mutex<Option<Child>>,
    _kept: Option<tempfile::TempDir>,
}

#[allow(dead_code, reason = "each test binary uses its own part")]
impl RedisServer {
    /// With what Lockstep asks for: `appendonly yes`, `appendfsync always`.
    pub fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// With other settings.
    pub fn start_with(options: &[&str]) -> Self {
        let kept = tempfile::Builder::new().prefix("lockstep-redis-").tempdir().expect("a directory");
        let server = Self {
            port: free_port(),
            directory: kept.path().to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            child: Mutex::default(),
            _kept: Some(kept),
        };
        server.run();
        server
    }

    /// Starts it, again or for the first time, and waits until it answers.
    pub fn run(&self) {
        self.spawn(&[]);
        let end = Instant::now() + Duration::from_secs(20);
        while !self.try_cli(&["PING"]).contains("PONG") && !self.try_cli(&["PING"]).contains("NOAUTH") {
            assert!(Instant::now() < end, "redis-server does not answer: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again with more options, and waits only until somebody answers.
    pub fn run_with(&self, more: &[&str]) {
        self.spawn(more);
        let end = Instant::now() + Duration::from_secs(20);
        while self.try_cli(&["PING"]).contains("Could not connect") {
            assert!(Instant::now() < end, "redis-server does not answer: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&self, more: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log"));
        let log = log.expect("open a log");
        let mut command = Command::new(program("redis-server"));
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(&self.directory).args(&self.options).args(more);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot start redis-server: {error}. Tests of the Redis store need it: install redis-server"
            )
        });
        *self.child.lock().unwrap() = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = (child.kill(), child.wait());
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    /// `--store` for it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let said = self.try_cli(arguments);
        assert!(!said.contains("Could not connect"), "redis-cli: {said}");
        said.trim().to_owned()
    }

    /// Where it keeps its data.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything it has printed.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn try_cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new(program("redis-cli")).args(["-p", &port]).args(arguments).output();
        let output = output.expect("redis-cli comes with redis-server");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `redis-server` or `redis-cli`, or what `LOCKSTEP_TEST_REDIS_SERVER` or `LOCKSTEP_TEST_REDIS_CLI` names
/// instead: a Valkey, or another version.
fn program(name: &str) -> std::ffi::OsString {
    let variable = format!("LOCKSTEP_TEST_{}", name.replace('-', "_").to_uppercase());
    std::env::var_os(variable).unwrap_or_else(|| name.into())
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    // The kernel hands out a port that nobody uses; nobody else asks for that very one.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}
