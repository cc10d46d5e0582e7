//! `lockstep lock run`: a program runs while its lock is held, and not a moment longer.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use crate::kit::{Cluster, Http, eventually, run_to_end};

const SOON: Duration = Duration::from_secs(20);

/// A program under a lock of its own cluster, killed when dropped.
struct Run(Child);

impl Run {
    fn start(cluster: &Cluster, options: &[&str], script: &str) -> Self {
        Self(command(cluster, options, script).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap(), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually("lock run ends", SOON, || {
            let status = self.0.try_wait().unwrap();
            async move { status }
        })
        .await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn command(cluster: &Cluster, options: &[&str], script: &str) -> Command {
    let urls = cluster.ids().into_iter().map(|id| format!("http://127.0.0.1:{}", cluster.http(id).port));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(["lock", "run", "job"]).args(options).args(["--", "sh", "-c", script]);
    command.env("LOCKSTEP_URL", urls.collect::<Vec<_>>().join(",")).current_dir(cluster.directory());
    command.stdin(Stdio::null());
    command
}

/// What a program has written into `name` in the cluster's directory, once there is a whole line.
async fn written(cluster: &Cluster, name: &str) -> String {
    let path = cluster.directory().join(name);
    eventually("the program writes", SOON, || {
        let text = std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'));
        async move { text }
    })
    .await
}

async fn acquire(node: Http, owner: &str) -> crate::kit::Answer {
    node.post("/lock/acquire", &json!({"name": "job", "owner": owner})).await.unwrap()
}

fn is_alive(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    test_kill_process(pid).is_ok()
}

#[tokio::test]
async fn the_exit_code_is_the_programs_and_tokens_grow() {
    let cluster = Cluster::start(3).await;
    let mut tokens = Vec::new();
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("exec no-such-program", 127)]
    {
        let script = format!("echo $LOCKSTEP_TOKEN >token; echo $LOCKSTEP_LOCK >>token; {script}");
        let status = Run::start(&cluster, &["--wait-ms", "0"], &script).ended().await;
        assert_eq!(status.code(), Some(code), "{script}");
        let text = written(&cluster, "token").await;
        let (token, name) = text.split_once('\n').unwrap();
        tokens.push(token.parse::<u64>().unwrap());
        assert_eq!(name.trim(), "job");
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
    assert_eq!(acquire(cluster.http(1), "me").await.status, 200, "every end has released the lock");

    let refused =
        run_to_end("a refused run", command(&cluster, &["--wait-ms", "0"], "touch ran"), SOON).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("held"), "{refused:?}");
    assert!(!cluster.directory().join("ran").exists());
}

#[tokio::test]
async fn a_program_is_stopped_before_its_lock_can_be_granted_to_another() {
    const TTL: Duration = Duration::from_millis(3_000);
    let mut cluster = Cluster::start(3).await;
    // Deaf to SIGTERM, and with a second process that is, too.
    let script =
        "trap '' TERM; beat() { while :; do date +%s%N >$1; sleep 0.02; done; }; beat two & beat one";
    let mut run = Run::start(&cluster, &["--ttl-ms", "3000", "--kill-after-ms", "700"], script);
    written(&cluster, "one").await;
    written(&cluster, "two").await;
    for id in cluster.ids() {
        cluster.node(id).pause();
    }
    // Whatever was renewed was renewed before this.
    let paused = SystemTime::now();
    assert_eq!(run.ended().await.code(), Some(137), "killed, since it would not stop");
    let beats: Vec<PathBuf> = ["one", "two"].iter().map(|name| cluster.directory().join(name)).collect();
    let last = beats.iter().map(|path| modified(path)).max().unwrap();
    let late = last.duration_since(paused).unwrap_or_default();
    assert!(late < TTL, "the last beat came {late:?} after the last renewal");

    for id in cluster.ids() {
        cluster.node(id).resume();
    }
    eventually("another gets the lock", SOON, || async {
        let request = json!({"name": "job", "owner": "other", "wait_ms": 1000});
        cluster
            .http(1)
            .post("/lock/acquire", &request)
            .await
            .ok()
            .filter(|answer| answer.status == 200)
            .map(drop)
    })
    .await;
    assert_eq!(beats.iter().map(|path| modified(path)).max().unwrap(), last, "nothing beats any more");
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).unwrap().modified().unwrap()
}

#[tokio::test]
async fn a_broken_lock_stops_the_program_politely() {
    let cluster = Cluster::start(3).await;
    let script = "trap 'echo politely >stopped; exit 3' TERM; echo $LOCKSTEP_OWNER >owner; while :; do sleep 0.05; done";
    let mut run = Run::start(&cluster, &["--ttl-ms", "3000"], script);
    let owner = written(&cluster, "owner").await;
    let release = json!({"name": "job", "owner": owner.trim()});
    assert_eq!(cluster.http(1).post("/lock/release", &release).await.unwrap().status, 200);
    assert_eq!(run.ended().await.code(), Some(3));
    assert_eq!(written(&cluster, "stopped").await, "politely\n");
}

#[tokio::test]
async fn a_signal_is_passed_on_and_the_lock_is_released_at_once() {
    let cluster = Cluster::start(3).await;
    let mut run = Run::start(&cluster, &["--ttl-ms", "600000"], "echo $$ >pid; exec sleep 1000");
    let pid = written(&cluster, "pid").await;
    assert_eq!(acquire(cluster.http(2), "other").await.code(), "held");
    run.signal(Signal::TERM);
    assert_eq!(run.ended().await.code(), Some(143));
    assert!(!is_alive(&pid));
    assert_eq!(acquire(cluster.http(2), "other").await.status, 200, "ten minutes before its lease ends");

    let mut waits = Run::start(&cluster, &[], "touch ran");
    let node = cluster.http(1);
    let waiters = |count: usize| {
        eventually("so many wait", SOON, move || async move {
            let lock = node.get("/lock/get?name=job").await.ok()?.json;
            (lock["waiters"].as_array()?.len() == count).then_some(())
        })
    };
    waiters(1).await;
    waits.signal(Signal::INT);
    assert_eq!(waits.ended().await.code(), Some(130));
    waiters(0).await;
    assert!(!cluster.directory().join("ran").exists());
}

#[tokio::test]
async fn a_killed_lock_run_takes_its_program_along() {
    let cluster = Cluster::start(3).await;
    let run = Run::start(&cluster, &[], "echo $$ >pid; exec sleep 1000");
    let pid = written(&cluster, "pid").await;
    run.signal(Signal::KILL);
    eventually("the program is gone", SOON, || async { (!is_alive(&pid)).then_some(()) }).await;
}
