//! `lockstep lock watch`: what happens to a lock, on the command line, over the death of the node that
//! told it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kit::{Cluster, Http, eventually, within};

const SOON: Duration = Duration::from_secs(30);

async fn done(http: Http, route: &str, body: Value) {
    let answer = http.post(route, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text);
}

#[tokio::test]
async fn a_watch_on_the_command_line_goes_on_when_its_node_dies_and_says_what_it_missed() {
    let mut cluster = Cluster::start(3).await;
    let url = |cluster: &Cluster, id: u64| format!("http://127.0.0.1:{}", cluster.http(id).port);
    let leader = cluster.leader().await;
    let [first, second] = cluster.others(leader)[..] else { panic!("three nodes") };
    let urls = format!("{},{}", url(&cluster, first), url(&cluster, second));
    let watch = |after: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.args(["lock", "watch", "seen"]).env("LOCKSTEP_URL", &urls);
        after.into_iter().for_each(|id| _ = command.args(["--after", id, "--json"]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    };
    let mut child = watch(None);
    let (lines, mut printed) = tokio::sync::mpsc::unbounded_channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let mut next = async |part: &str| {
        let line = within(part, SOON, printed.recv()).await.expect("it goes on");
        assert!(line.contains(part), "{part:?} in {line:?}");
    };

    next("now: free").await;
    let node = cluster.http(leader);
    done(node, "/lock/acquire", json!({"name": "seen", "owner": "a"})).await;
    next("granted a (exclusive) token").await;
    // Whichever of the two tells it, it goes on at the other.
    for id in [first, second] {
        cluster.node(id).kill();
        cluster.start_all();
        cluster.ready(id).await;
        let node = cluster.http(cluster.leader().await);
        done(node, "/lock/release", json!({"name": "seen", "owner": "a"})).await;
        next("released a").await;
        done(node, "/lock/acquire", json!({"name": "seen", "owner": "a"})).await;
        next("granted a").await;
    }
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let ended = eventually("it ends", SOON, || {
        let status = child.try_wait().unwrap();
        async move { status }
    });
    assert!(ended.await.success());

    let mut child = watch(Some("999999999999"));
    let out = BufReader::new(child.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || out.lines().next());
    let line = within("a line", SOON, line).await.unwrap().unwrap().unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&told["event"], &told["lock"]["holders"][0]["owner"]), (&json!("reset"), &json!("a")));
    let _ = (child.kill(), child.wait());
}
