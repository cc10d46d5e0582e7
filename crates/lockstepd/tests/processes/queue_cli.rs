//! `lockstep queue` where it is more than one request: many lines in, messages out as they come.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::kit::{Cluster, eventually};

const SOON: Duration = Duration::from_secs(20);

fn lockstep(cluster: &Cluster, arguments: &[&str]) -> Command {
    let urls = cluster.ids().into_iter().map(|id| format!("http://127.0.0.1:{}", cluster.http(id).port));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.arg("queue").args(arguments).env("LOCKSTEP_URL", urls.collect::<Vec<_>>().join(","));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// In a thread of its own: the links between the nodes run in this one.
async fn fed(mut command: Command, input: String) -> Output {
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn lines_are_pushed_in_order_and_followed_until_a_signal() {
    let cluster = Cluster::start(3).await;
    let lines: String = (0..250).map(|number| format!("line {number}\n")).collect();
    let push = ["push", "--queue", "lines", "--key", "k", "--lines", "-", "--batch", "40", "--skip", "50"];
    let pushed = fed(lockstep(&cluster, &push), lines).await;
    assert!(pushed.status.success(), "{pushed:?}");
    assert_eq!(String::from_utf8_lossy(&pushed.stdout), "200\n");

    let mut follow = lockstep(&cluster, &["follow", "--queue", "lines"]).spawn().unwrap();
    let out = BufReader::new(follow.stdout.take().unwrap());
    let followed = tokio::task::spawn_blocking(move || {
        let lines: Vec<String> = out.lines().take(200).map_while(Result::ok).collect();
        lines
    });
    let followed = tokio::time::timeout(SOON * 2, followed).await.expect("all lines in time").unwrap();
    let expected: Vec<String> = (50..250).map(|number| format!("line {number}")).collect();
    assert_eq!(followed, expected);
    let node = cluster.http(1);
    eventually("what was printed is acknowledged", SOON, || async {
        let stats = node.get("/queue/stats?queue=lines").await.ok()?.json;
        (stats["ready"] == 0 && stats["in_flight"] == 0).then_some(())
    })
    .await;
    let id = Pid::from_raw(i32::try_from(follow.id()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let status = eventually("follow ends", SOON, || {
        let status = follow.try_wait().unwrap();
        async move { status }
    });
    assert_eq!(status.await.code(), Some(0));
}

#[tokio::test]
async fn a_line_that_cannot_be_pushed_is_named_with_where_to_go_on() {
    let cluster = Cluster::start(3).await;
    let lines = format!("small\n\"{}\"\nlast\n", "x".repeat(2 << 20));
    let pushed =
        fed(lockstep(&cluster, &["push", "--lines", "-", "--batch", "2", "--key", "k"]), lines).await;
    let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert_eq!(pushed.status.code(), Some(1), "{said}");
    for part in ["line 2: ", "payload_too_large", "--skip 2"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let popped = cluster.http(1).post("/queue/pop", &json!({})).await.unwrap();
    assert_eq!(popped.json["message"]["payload"], "small", "{}", popped.text);
}
