//! `lockstep dev` as a person uses it: start, stop, start again, mistakes.

#[path = "kit/mod.rs"]
mod kit;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use kit::{Http, eventually, free_base_port};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const READY_WITHIN: Duration = Duration::from_secs(40);

/// A running `lockstep dev`, killed when dropped.
struct Dev {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    base_port: u16,
}

fn command(base_port: u16, data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.env_clear().args(["dev", "--base-port", &base_port.to_string(), "--data"]).arg(data);
    command.args(["--", "--heartbeat-ms", "100", "--election-ms-min", "500", "--election-ms-max", "1000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

impl Dev {
    /// Starts it and waits until it says that the cluster is ready.
    async fn start(base_port: u16, data: &Path) -> Self {
        let mut child = command(base_port, data).spawn().unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let dev = Self { child, lines, base_port };
        dev.says("ready: ").await;
        dev
    }

    async fn says(&self, what: &str) {
        eventually(&format!("dev says {what:?}"), READY_WITHIN, || {
            let found =
                self.lines.try_iter().inspect(|line| println!("{line}")).any(|line| line.contains(what));
            async move { found.then_some(()) }
        })
        .await;
    }

    fn http(&self, node: u16) -> Http {
        Http { port: self.base_port + node - 1, patience: Duration::from_secs(10) }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually("dev ends", Duration::from_secs(20), || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    /// Nobody listens on any of its ports any more.
    async fn leaves_no_process(&self) {
        for offset in [0, 1, 2, 1000, 1001, 1002] {
            let port = self.base_port + offset;
            eventually(&format!("nobody listens on {port}"), Duration::from_secs(10), || async move {
                TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
            })
            .await;
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

#[tokio::test]
async fn a_second_start_keeps_the_data_and_a_signal_stops_every_node() {
    let (directory, base_port) = (tempfile::tempdir().unwrap(), free_base_port());
    let mut dev = Dev::start(base_port, directory.path()).await;
    let pushed = dev.http(1).post("/queue/push", &json!({"payload": "kept"})).await.unwrap();
    assert_eq!(pushed.status, 200, "{}", pushed.text);
    dev.signal(Signal::INT);
    assert!(dev.ended().await.success());
    dev.leaves_no_process().await;

    let dev = Dev::start(base_port, directory.path()).await;
    let popped = dev.http(3).get("/queue/pop").await.unwrap();
    assert_eq!(popped.json["message"]["payload"], "kept", "{}", popped.text);
}

#[tokio::test]
async fn no_node_outlives_a_killed_dev() {
    let (directory, base_port) = (tempfile::tempdir().unwrap(), free_base_port());
    let mut dev = Dev::start(base_port, directory.path()).await;
    dev.signal(Signal::KILL);
    dev.ended().await;
    dev.leaves_no_process().await;
}

#[tokio::test]
async fn a_node_that_dies_is_reported_and_started_again() {
    let (directory, base_port) = (tempfile::tempdir().unwrap(), free_base_port());
    let dev = Dev::start(base_port, directory.path()).await;
    let node = child_of(dev.child.id());
    kill_process(node, Signal::KILL).unwrap();
    dev.says("starting it again").await;
    for number in 1..=3 {
        eventually(&format!("node {number} is ready again"), READY_WITHIN, || async {
            dev.http(number).get("/ready").await.ok().filter(|answer| answer.status == 200).map(drop)
        })
        .await;
    }
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let (directory, base_port) = (tempfile::tempdir().unwrap(), free_base_port());
    let _taken = TcpListener::bind(("127.0.0.1", base_port + 1)).unwrap();
    let mut child = command(base_port, directory.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.wait().unwrap().success());
    let port = base_port + 1;
    assert!(said.contains(&format!("port {port}")) && said.contains("--base-port"), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
}

/// Some process that `parent` has started.
fn child_of(parent: u32) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let first = children.split_whitespace().next().expect("dev has started nodes");
    Pid::from_raw(first.parse().unwrap()).unwrap()
}
