//! A cluster that moves between the two kinds of store keeps everything, and can move back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Cluster, Http, RedisServer, Settings, run_to_end};

const LIMIT: Duration = Duration::from_secs(30);
/// Enough for snapshots, with more log behind the last one.
const WAITING: u64 = 240;

/// What was told before the move.
struct Told {
    token: u64,
    receipt: Value,
    session: Value,
    /// What a push under a request id was answered.
    pushed: Value,
}

async fn post(node: Http, route: &str, body: Value) -> Value {
    let answer = node.post(route, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{route}: {}", answer.text);
    answer.json
}

async fn stats(node: Http, queue: &str) -> Value {
    node.get(&format!("/queue/stats?queue={queue}")).await.unwrap().json
}

fn payload(number: u64) -> Value {
    json!(format!("{number} {}", "x".repeat(1_000)))
}

/// A held lock, and messages that wait, are delayed, in flight and dead.
async fn fill(cluster: &Cluster) -> Told {
    let [one, two] = [1, 2].map(|id| cluster.http(id));
    let held = json!({"name": "kept", "owner": "keeper", "ttl_ms": 600_000});
    let token = post(one, "/lock/acquire", held).await["token"].as_u64().unwrap();
    for first in (0..WAITING).step_by(40) {
        let some: Vec<Value> =
            (first..first + 40).map(|n| json!({"key": "k", "payload": payload(n)})).collect();
        let pushed = post(two, "/queue/push", json!({"queue": "waits", "messages": some})).await;
        assert!(pushed["results"].as_array().unwrap().iter().all(|one| one["error"].is_null()), "{pushed}");
    }
    let later = json!({"queue": "later", "payload": "delayed", "delay_ms": 3_600_000});
    post(one, "/queue/push", later).await;
    post(one, "/queue/push", json!({"queue": "taken", "payload": "in flight"})).await;
    let taken = post(two, "/queue/receive", json!({"queue": "taken", "visibility_ms": 600_000})).await;
    let receipt = taken["messages"][0]["receipt"].clone();
    assert!(receipt.is_string(), "{taken}");
    post(one, "/queue/configure", json!({"queue": "sick", "max_attempts": 1})).await;
    post(one, "/queue/push", json!({"queue": "sick", "payload": "poison"})).await;
    let poison = post(two, "/queue/receive", json!({"queue": "sick"})).await;
    post(two, "/queue/nack", json!({"receipt": poison["messages"][0]["receipt"]})).await;
    let session = post(one, "/session/open", json!({"owner": "worker", "ttl_ms": 600_000})).await;
    let session = session["session"].clone();
    let kept = json!({"name": "by session", "owner": "worker", "session": session});
    post(two, "/lock/acquire", kept).await;
    let pushed = post(one, "/queue/push", once()).await;
    Told { token, receipt, session, pushed }
}

/// A push that is made again after each move.
fn once() -> Value {
    json!({"queue": "once", "key": "k", "payload": "once", "request_id": "the same request"})
}

/// Looks at everything and changes nothing but the counter. Answers a new token.
async fn all_there(cluster: &Cluster, told: &Told, newest: u64) -> u64 {
    let node = cluster.http(2);
    let held = json!({"name": "kept", "owner": "keeper", "ttl_ms": 600_000});
    assert_eq!(post(node, "/lock/acquire", held).await["token"], told.token);
    let other = json!({"name": "kept", "owner": "another"});
    assert_eq!(node.post("/lock/acquire", &other).await.unwrap().code(), "held");
    post(node, "/session/renew", json!({"session": told.session})).await;
    let shown = node.get("/lock/get?name=by%20session").await.unwrap();
    assert_eq!(shown.json["holders"][0]["owner"], "worker", "{}", shown.text);
    let again = post(node, "/queue/push", once()).await;
    assert_eq!(again["id"], told.pushed["id"], "a request that was done is done again");
    assert_eq!(stats(node, "once").await["ready"], 1);
    let fresh = json!({"name": format!("new {newest}"), "owner": "o"});
    let token = post(cluster.http(1), "/lock/acquire", fresh).await["token"].as_u64().unwrap();
    assert!(token > newest, "token {token} is not newer than {newest}");
    assert_eq!(stats(node, "waits").await["ready"], WAITING);
    assert_eq!(stats(node, "later").await["delayed"], 1);
    assert_eq!(stats(node, "taken").await["in_flight"], 1);
    assert_eq!(stats(node, "sick").await["dead"], 1);
    let dead = node.get("/queue/peek?queue=sick.dead").await.unwrap();
    assert_eq!(dead.json["messages"][0]["payload"], "poison", "{}", dead.text);
    token
}

/// Takes everything: in order, whole, and once.
async fn drain(cluster: &Cluster, told: &Told) {
    let [one, two] = [1, 2].map(|id| cluster.http(id));
    let acked = post(one, "/queue/ack", json!({"receipt": told.receipt})).await;
    assert!(acked["error"].is_null(), "{acked}");
    assert_eq!(stats(two, "taken").await["in_flight"], 0);
    for due in 0..WAITING {
        let popped = post(two, "/queue/pop", json!({"queue": "waits"})).await;
        assert_eq!(popped["message"]["payload"], payload(due), "message {due}");
    }
    assert_eq!(post(one, "/queue/redrive", json!({"queue": "sick"})).await["redriven"], 1);
    assert_eq!(post(two, "/queue/pop", json!({"queue": "sick"})).await["message"]["payload"], "poison");
    post(one, "/session/close", json!({"session": told.session})).await;
    let freed = json!({"name": "by session", "owner": "another"});
    assert_eq!(one.post("/lock/acquire", &freed).await.unwrap().status, 200, "its end frees its locks");
}

async fn lockstep(what: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.env_clear().arg("cluster").args(arguments).stdin(Stdio::null());
    run_to_end(what, command, LIMIT).await
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An import into directories in which one was interrupted, or something else is.
async fn interrupted(directory: &Path, file: &str) {
    let base = directory.join("interrupted");
    let import = ["import", "--data", text(&base), file];
    std::fs::create_dir_all(base.join("node2")).unwrap();
    std::fs::write(base.join("node2/mine"), "anything").unwrap();
    let refused = lockstep("import beside a file", &import).await;
    assert!(!refused.status.success() && said(&refused).contains("node2 is not empty"), "{}", said(&refused));
    assert!(!base.join("node1").exists(), "it has written before it looked everywhere");
    // As an import leaves it that is killed.
    std::fs::write(base.join("import.incomplete"), r#"{"cluster_id":"0","queue_shards":3,"members":[1,2]}"#)
        .unwrap();
    let refused = lockstep("import after an interrupted one", &import).await;
    assert!(!refused.status.success() && said(&refused).contains("--restart"), "{}", said(&refused));
    assert!(base.join("node2/mine").exists());
    std::fs::write(base.join("node2/node.json"), "{}").unwrap();
    let restart: Vec<&str> = import.iter().copied().chain(["--restart"]).collect();
    let refused = lockstep("import over a node", &restart).await;
    assert!(
        !refused.status.success() && said(&refused).contains("may have been started"),
        "{}",
        said(&refused)
    );
    std::fs::remove_file(base.join("node2/node.json")).unwrap();
    let done = lockstep("import begun again", &restart).await;
    assert!(done.status.success(), "{}", said(&done));
    assert!(!base.join("import.incomplete").exists() && !base.join("node2/mine").exists());
    assert!((1..=3).all(|node| base.join(format!("node{node}/node.json")).exists()));
}

#[tokio::test]
async fn a_cluster_moves_from_its_disks_to_redis_and_back() {
    let redis = RedisServer::start();
    let embedded = Settings::fast(3).with("--snapshot-bytes", "65536");
    let mut first = Cluster::start_with(embedded).await;
    let told = fill(&first).await;
    // One that missed the end: its log must not be taken for the cluster's.
    let late = json!({"queue": "late", "payload": "acknowledged while node 3 was away"});
    first.node(3).kill();
    first.leader_among(&[1, 2]).await;
    crate::kit::eventually("a push without node 3", LIMIT, || async {
        let answer = first.http(1).post("/queue/push", &late).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let data: Vec<PathBuf> = [1, 2, 3].map(|id| first.node(id).data.clone()).to_vec();
    let file = first.directory().join("moved.export");
    let [one, two, three] = [&data[0], &data[1], &data[2]].map(|path| text(path));
    let running =
        lockstep("export while nodes run", &["export", "--data", one, "--data", two, text(&file)]).await;
    assert!(!running.status.success() && said(&running).contains("in use"), "{}", said(&running));
    first.kill_all();
    let few = lockstep("export of too few", &["export", "--data", three, text(&file)]).await;
    assert!(!few.status.success() && said(&few).contains("majority"), "{}", said(&few));
    assert!(!file.exists(), "a failed export leaves no file");

    let done = lockstep("export", &["export", "--data", three, "--data", two, text(&file)]).await;
    assert!(done.status.success() && said(&done).contains("shard 3 of 3"), "{}", said(&done));
    let url = redis.url();
    let done = lockstep("import to Redis", &["import", "--store", &url, text(&file)]).await;
    assert!(done.status.success() && said(&done).contains("shard 3 of 3"), "{}", said(&done));
    let mut second = Cluster::start_with(Settings::on_redis(3, &url).with("--snapshot-bytes", "65536")).await;
    let newest = all_there(&second, &told, told.token).await;
    assert_eq!(stats(second.http(1), "late").await["ready"], 1);
    second.kill_all();

    let back = second.directory().join("back.export");
    let done = lockstep("export from Redis", &["export", "--store", &url, text(&back)]).await;
    assert!(done.status.success(), "{}", said(&done));
    let base = second.directory().join("restored");
    let import = ["import", "--data", text(&base), text(&back)];
    let done = lockstep("import to disks", &import).await;
    assert!(done.status.success() && said(&done).contains("node 3"), "{}", said(&done));
    let twice = lockstep("a second import", &import).await;
    assert!(!twice.status.success() && said(&twice).contains("not empty"), "{}", said(&twice));
    interrupted(second.directory(), text(&back)).await;

    let mut third = Cluster::prepare(Settings::fast(3)).await;
    for id in third.ids() {
        third.node(id).data = base.join(format!("node{id}"));
    }
    third.start_all();
    third.all_ready().await;
    let newest = all_there(&third, &told, newest).await;
    // From a backup: whatever has become of the history before, its tokens were smaller.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(newest > (now - 600) << 20, "{newest} could be a token of a fork");
    third.kill_all();
    third.start_all();
    third.all_ready().await;
    drain(&third, &told).await;
    assert_eq!(
        post(third.http(1), "/queue/pop", json!({"queue": "late"})).await["message"]["payload"],
        late["payload"]
    );
}
