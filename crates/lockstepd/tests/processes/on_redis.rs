//! The same promises with Redis as the store: nodes keep nothing, and Redis itself may be killed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{Cluster, RedisServer, Settings, eventually, run_to_end, serve_command};
use crate::load::Load;
use crate::seven_lines;

const CLIENTS: u32 = 6;
const RECOVERY: Duration = Duration::from_secs(10);

async fn start(redis: &RedisServer) -> Cluster {
    Cluster::start_with(Settings::on_redis(3, &redis.url())).await
}

#[tokio::test]
async fn the_seven_lines_work_on_redis() {
    let redis = RedisServer::start();
    let cluster = start(&redis).await;
    seven_lines::work_on(&cluster).await;
    for route in ["/health", "/cluster"] {
        let told = cluster.http(1).get(route).await.unwrap();
        let warnings = if route == "/health" { &told.json["warnings"] } else { &told.json["store_warnings"] };
        assert_eq!(warnings, &json!([]), "{}", told.text);
    }
}

#[tokio::test]
async fn a_killed_leader_loses_nothing_and_is_replaced_by_a_node_without_a_volume() {
    let redis = RedisServer::start();
    let mut cluster = start(&redis).await;
    let leader = cluster.leader().await;
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(100, Duration::from_secs(20)).await;

    cluster.node(leader).kill();
    let survivors = cluster.others(leader);
    let killed = Instant::now();
    assert_ne!(cluster.leader_among(&survivors).await, leader);
    load.goes_on(50, RECOVERY.saturating_sub(killed.elapsed())).await;

    cluster.node(leader).start();
    cluster.ready(leader).await;
    load.goes_on(50, RECOVERY).await;
    let told = load.stop().await;
    told.all_delivered(&cluster, &cluster.ids()).await;
    assert!(!cluster.node(leader).data.exists(), "a node on Redis has written to a directory");
}

#[tokio::test]
async fn everything_killed_at_once_redis_included_comes_back_whole() {
    let redis = RedisServer::start();
    let mut cluster =
        Cluster::start_with(Settings::on_redis(3, &redis.url()).with("--snapshot-bytes", "65536")).await;
    let held = json!({"name": "kept", "owner": "keeper", "ttl_ms": 600_000});
    let before = cluster.http(1).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(before.status, 200, "{}", before.text);
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(300, Duration::from_secs(20)).await;

    redis.kill();
    cluster.kill_all();
    redis.run();
    cluster.start_all();
    cluster.all_ready().await;
    load.goes_on(50, RECOVERY).await;
    let told = load.stop().await;

    let again = cluster.http(2).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(again.json["token"], before.json["token"], "the hold has survived: {}", again.text);
    let newer = json!({"name": "new", "owner": "another"});
    let newer = cluster.http(3).post("/lock/acquire", &newer).await.unwrap();
    assert!(newer.json["token"].as_u64() > Some(told.largest_token()), "{}", newer.text);
    told.all_delivered(&cluster, &cluster.ids()).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_loses_nothing_and_nobody_has_to_help() {
    let redis = RedisServer::start();
    let cluster = start(&redis).await;
    let load = Load::start(&cluster, CLIENTS);
    load.goes_on(100, Duration::from_secs(20)).await;

    redis.kill();
    let body = json!({"name": "any", "owner": "o"});
    eventually("a request is refused with 503 quickly", RECOVERY, || async {
        let asked = Instant::now();
        let answer = cluster.http(2).post("/lock/acquire", &body).await.ok()?;
        let quick = asked.elapsed() < Duration::from_secs(3);
        (quick && answer.status == 503 && answer.code() == "store_away").then_some(())
    })
    .await;
    let ready = cluster.http(2).get("/ready").await.unwrap();
    assert!(ready.status == 503 && ready.text.contains("is away"), "{}", ready.text);
    assert_eq!(cluster.http(2).get("/health").await.unwrap().status, 200, "the process runs");

    redis.run();
    load.goes_on(100, RECOVERY).await;
    let told = load.stop().await;
    told.all_delivered(&cluster, &cluster.ids()).await;
}

#[tokio::test]
async fn a_paused_leader_that_wakes_is_fenced() {
    let redis = RedisServer::start();
    let mut cluster = start(&redis).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let held = json!({"name": "resource", "owner": "first", "ttl_ms": 600_000});
    let first = cluster.http(old).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text);

    cluster.node(old).pause();
    assert_ne!(cluster.leader_among(&others).await, old);
    let release = json!({"name": "resource", "owner": "first", "token": first.json["token"]});
    let released = cluster.http(others[0]).post("/lock/release", &release).await.unwrap();
    assert_eq!(released.status, 200, "{}", released.text);
    let second = json!({"name": "resource", "owner": "second", "ttl_ms": 600_000});
    let second = cluster.http(others[1]).post("/lock/acquire", &second).await.unwrap();
    assert_eq!(second.status, 200, "{}", second.text);

    // These lie in its sockets when it wakes, still believing that it leads.
    let third = json!({"name": "resource", "owner": "third", "ttl_ms": 600_000}).to_string();
    let write = format!(
        "POST /lock/acquire HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{third}",
        third.len()
    );
    let read = "GET /lock/get?name=resource HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let mut asked = Vec::new();
    for request in [&write, read] {
        asked.push(cluster.http(old).send(request.as_bytes()).await.unwrap());
    }
    cluster.node(old).resume();
    for mut stream in asked {
        let mut bytes = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes);
        crate::kit::within("an answer of the woken leader", Duration::from_secs(20), reading).await.unwrap();
        let answer = crate::kit::parse_answer(&bytes).unwrap();
        assert_ne!(answer.json["acquired"], true, "granted twice: {}", answer.text);
        let truthful = answer.status != 200 || answer.json["holders"][0]["owner"] == "second";
        assert!(truthful, "a deposed leader answered from before: {}", answer.text);
    }
    cluster.leader().await;
}

#[tokio::test]
async fn weak_settings_are_named_and_do_not_keep_a_node_from_serving() {
    let weak = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru"];
    let redis = RedisServer::start_with(&weak);
    let mut cluster = Cluster::start_with(Settings::on_redis(1, &redis.url())).await;
    for route in ["/health", "/cluster"] {
        let told = cluster.http(1).get(route).await.unwrap();
        assert!(
            told.text.contains("appendfsync everysec") && told.text.contains("Set appendfsync always"),
            "{}",
            told.text
        );
        assert!(told.text.contains("Set maxmemory-policy noeviction"), "{}", told.text);
    }
    assert!(cluster.node(1).log_text().contains("Set appendfsync always"));
}

/// Starts a node that must not start; what it says.
async fn refusal(url: &str, what: &str) -> String {
    let mut cluster = Cluster::prepare(Settings::on_redis(1, url)).await;
    let output = run_to_end(what, serve_command(cluster.node(1)), Duration::from_secs(20)).await;
    assert!(!output.status.success(), "{what}: it exited with success");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{what}: {said}");
    said
}

#[tokio::test]
async fn a_redis_that_cannot_be_used_is_refused_with_a_way_out() {
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--requirepass", "secret"]);
    let port = redis.port;
    let said = refusal(&format!("redis://:wrong@127.0.0.1:{port}"), "a wrong password").await;
    assert!(said.contains("refuses the login") && !said.contains("wrong@"), "{said}");
    let said = refusal(&redis.url(), "no password").await;
    assert!(said.contains("refuses the login"), "{said}");
    let said = refusal(&format!("redis://:secret@127.0.0.1:{port}/99"), "a database that is not there").await;
    assert!(said.contains("no database 99"), "{said}");
    let said = refusal("redis://127.0.0.1:1", "nobody listens").await;
    assert!(said.contains("127.0.0.1:1") && said.contains("--store"), "{said}");

    let master = RedisServer::start();
    let of = format!("127.0.0.1 {}", master.port);
    let replica = RedisServer::start_with(&["--replicaof", &of]);
    let said = refusal(&replica.url(), "a replica").await;
    assert!(said.contains("is a replica") && said.contains("master"), "{said}");

    let full = RedisServer::start_with(&["--maxmemory", "1"]);
    let said = refusal(&full.url(), "out of memory").await;
    assert!(said.contains("maxmemory"), "{said}");
    assert_eq!(full.cli(&["DBSIZE"]), "0", "nothing was written");
}

#[tokio::test]
async fn a_redis_that_loads_its_data_is_waited_for_and_one_with_foreign_keys_is_left_alone() {
    let redis = RedisServer::start();
    for key in 0..300 {
        redis.cli(&["SET", &format!("foreign:{key}"), "x"]);
    }
    redis.cli(&["BGREWRITEAOF"]);
    eventually("the file is rewritten", RECOVERY, || async {
        let now = redis.cli(&["INFO", "persistence"]);
        let rewritten = now.contains("aof_rewrite_in_progress:0") && now.contains("aof_rewrites:1");
        rewritten.then_some(())
    })
    .await;
    redis.kill();
    // A few seconds of loading, during which it answers INFO and little else.
    redis.run_with(&["--key-load-delay", "8000", "--loading-process-events-interval-bytes", "1024"]);
    let mut cluster = Cluster::prepare(Settings::on_redis(1, &redis.url())).await;
    cluster.start_all();
    eventually("the node says that it waits", RECOVERY, || {
        let text = cluster.node(1).log_text();
        async move { text.contains("is still loading its data").then_some(()) }
    })
    .await;
    cluster.all_ready().await;
    assert_eq!(redis.cli(&["GET", "foreign:7"]), "x");

    redis.cli(&["SET", "lockstep:theirs:cluster", "not ours"]);
    let said = refusal(&format!("{}?name=theirs", redis.url()), "another program's key").await;
    assert!(said.contains("was not written by this version") && said.contains("name=NAME"), "{said}");
    let mut more = Cluster::prepare(Settings::on_redis(3, &redis.url())).await;
    let output = run_to_end("other members", serve_command(more.node(1)), Duration::from_secs(20)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("was formed with members {1}"), "{said}");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_gives_503_until_it_is_a_master_again() {
    let (redis, master) = (RedisServer::start(), RedisServer::start());
    let cluster = start(&redis).await;
    let push = json!({"payload": "x"});
    assert_eq!(cluster.http(1).post("/queue/push", &push).await.unwrap().status, 200);
    // Its own master refuses it, so that it keeps its data; but it takes no writes.
    master.cli(&["CONFIG", "SET", "requirepass", "unknown"]);
    redis.cli(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    eventually("a push is refused", RECOVERY, || async {
        let answer = cluster.http(1).post("/queue/push", &push).await.ok()?;
        (answer.status == 503 && answer.code() == "store_away").then_some(())
    })
    .await;
    let ready = cluster.http(1).get("/ready").await.unwrap();
    assert!(ready.status == 503 && ready.text.contains("away"), "{}", ready.text);
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("a push is taken again", RECOVERY, || async {
        let answer = cluster.http(2).post("/queue/push", &push).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_gives_503_and_everything_goes_on_when_it_does() {
    let redis = RedisServer::start();
    let cluster = start(&redis).await;
    let push = json!({"payload": "x"});
    // Out of memory, as others may use it up; and not enough replicas.
    for (setting, bad, good) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        redis.cli(&["CONFIG", "SET", setting, bad]);
        eventually("a lock is refused", RECOVERY, || async {
            let lock = json!({"name": "any", "owner": "o"});
            let answer = cluster.http(1).post("/lock/acquire", &lock).await.ok()?;
            (answer.status == 503 && answer.code() == "store_away").then_some(())
        })
        .await;
        let refused = cluster.http(1).post("/queue/push", &push).await.unwrap();
        assert!([429, 503].contains(&refused.status), "{setting}: {}", refused.text);
        redis.cli(&["CONFIG", "SET", setting, good]);
        eventually("a push is taken again", RECOVERY, || async {
            let answer = cluster.http(1).post("/queue/push", &push).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// Answers everything as a Redis of this version answers `INFO`.
async fn pretender(version: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let info = format!("redis_version:{version}\r\nrole:master\r\nloading:0\r\ncluster_enabled:0\r\n");
    let answer = format!("${}\r\n{info}\r\n", info.len());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            while stream.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    url
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused() {
    let said = refusal(&pretender("6.0.16").await, "an old Redis").await;
    assert!(said.contains("6.0.16") && said.contains("needs 6.2 or later"), "{said}");
}

#[tokio::test]
async fn pushes_are_refused_before_the_memory_is_full_and_everything_else_goes_on() {
    let limits = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "24mb"];
    let redis = RedisServer::start_with(&limits);
    let cluster = Cluster::start_with(
        Settings::on_redis(3, &redis.url()).with("--body-bytes-max", "1048576").with("--queue-shards", "1"),
    )
    .await;
    let body = "x".repeat(200 << 10);
    let push = |number: u64| {
        let message = json!({"key": format!("k{}", number % 3), "payload": format!("{number} {body}")});
        let request = json!({"messages": [message], "request_id": format!("push {number}")});
        let node = cluster.http(1 + number % 3);
        async move { node.post("/queue/push", &request).await }
    };
    let (mut pushed, mut refused) = (0, 0);
    // Some at a time: they must not fill what is left between two looks at the memory.
    for round in 0..40 {
        for answer in futures::future::join_all((round * 8..round * 8 + 8).map(&push)).await {
            let answer = answer.unwrap();
            match answer.json["results"][0]["error"]["code"].as_str() {
                None if answer.status == 200 => pushed += 1,
                Some("storage_full") => refused += 1,
                _ if answer.status == 429 && answer.code() == "storage_full" => refused += 1,
                _ => panic!("{} {}", answer.status, answer.text),
            }
        }
        if refused > 20 {
            break;
        }
    }
    assert!(pushed > 20 && refused > 20, "{pushed} pushed, {refused} refused");
    let memory = redis.cli(&["INFO", "memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim();
    let used: u64 = used.parse().unwrap();
    assert!(used < 23 << 20, "{used} bytes of 24 MiB are in use");

    // A push that was taken is answered again, locks are granted, and consumers make room.
    let again = push(0).await.unwrap();
    assert_eq!(again.status, 200, "{}", again.text);
    let lock = json!({"name": "any", "owner": "o"});
    assert_eq!(cluster.http(1).post("/lock/acquire", &lock).await.unwrap().status, 200);
    let mut drained = 0;
    loop {
        let got = cluster.http(2).post("/queue/receive", &json!({"max": 8, "wait_ms": 0})).await.unwrap();
        assert_eq!(got.status, 200, "{}", got.text);
        let messages = got.json["messages"].as_array().unwrap();
        if messages.is_empty() {
            break;
        }
        let receipts: Vec<_> = messages.iter().map(|message| &message["receipt"]).collect();
        drained += receipts.len();
        let acked = cluster.http(3).post("/queue/ack", &json!({"receipts": receipts})).await.unwrap();
        assert_eq!(acked.status, 200, "{}", acked.text);
    }
    assert_eq!(drained, pushed);
    eventually("a push is taken again", RECOVERY, || async {
        let answer = push(1_000).await.ok()?;
        (answer.status == 200 && answer.json["results"][0]["error"].is_null()).then_some(())
    })
    .await;
}

fn lockstep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn a_stopped_cluster_is_exported_and_imported_elsewhere() {
    let (redis, other) = (RedisServer::start(), RedisServer::start());
    let mut cluster = start(&redis).await;
    let held = json!({"name": "kept", "owner": "keeper", "ttl_ms": 600_000});
    let before = cluster.http(1).post("/lock/acquire", &held).await.unwrap();
    let pushed = cluster.http(2).post("/queue/push", &json!({"key": "k", "payload": "moved"})).await.unwrap();
    assert_eq!((before.status, pushed.status), (200, 200), "{} {}", before.text, pushed.text);
    let file = cluster.directory().join("export");
    let file = file.display().to_string();
    let (from, to) = (redis.url(), other.url());
    let export = ["cluster", "export", "--store", &from, &file];
    let import = ["cluster", "import", "--store", &to, &file];
    let limit = Duration::from_secs(30);
    let running = run_to_end("an export while nodes run", lockstep(&export), limit).await;
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(!running.status.success() && said.contains("Stop all of them"), "{said}");

    cluster.kill_all();
    let done = run_to_end("export", lockstep(&export), limit).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let whole = std::fs::read(&file).unwrap();
    for damaged in
        [&whole[..whole.len() - 1], &[&whole[..whole.len() - 9], b"X", &whole[whole.len() - 8..]].concat()]
    {
        std::fs::write(&file, damaged).unwrap();
        let refused = run_to_end("import of a damaged file", lockstep(&import), limit).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("no whole export"), "{said}");
        assert_eq!(other.cli(&["DBSIZE"]), "0", "nothing was written");
    }
    std::fs::write(&file, &whole).unwrap();
    let done = run_to_end("import", lockstep(&import), limit).await;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("shard 3 of 3"), "{said}");
    let twice = run_to_end("a second import", lockstep(&import), limit).await;
    assert!(!twice.status.success());

    let mut moved = start(&other).await;
    let again = moved.http(2).post("/lock/acquire", &held).await.unwrap();
    assert_eq!(again.json["token"], before.json["token"], "{}", again.text);
    let fresh = moved.http(3).post("/lock/acquire", &json!({"name": "new", "owner": "o"})).await.unwrap();
    assert!(fresh.json["token"].as_u64() > before.json["token"].as_u64(), "{}", fresh.text);
    let popped = moved.http(1).get("/queue/pop").await.unwrap();
    assert_eq!(popped.json["message"]["payload"], "moved", "{}", popped.text);
    moved.kill_all();
}

#[tokio::test]
async fn a_damaged_stream_ends_the_node_with_a_sentence() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::start_with(Settings::on_redis(1, &redis.url())).await;
    redis.cli(&["XADD", "{lockstep:default:0}:log", "*", "field", "value"]);
    let status = cluster.node(1).ended(RECOVERY).await;
    assert_eq!(status.code(), Some(1));
    assert!(cluster.node(1).log_text().contains("was not written by Lockstep"));
}

#[tokio::test]
async fn a_message_whose_chunk_was_deleted_ends_the_node_and_is_never_served() {
    let redis = RedisServer::start();
    let settings = Settings::on_redis(1, &redis.url()).with("--snapshot-bytes", "65536");
    let mut cluster = Cluster::start_with(settings.with("--queue-shards", "1")).await;
    let chunks = || redis.cli(&["KEYS", "{lockstep:default:1}:bodies:*"]);
    let payload = "x".repeat(10_000);
    let node = cluster.http(1);
    eventually("bodies are in chunks", RECOVERY, || async {
        let push = json!({"key": "k", "payload": payload});
        assert_eq!(node.post("/queue/push", &push).await.unwrap().status, 200);
        (chunks().lines().count() >= 2).then_some(())
    })
    .await;
    // No longer in its memory.
    cluster.kill_all();
    cluster.start_all();
    cluster.all_ready().await;
    for chunk in chunks().lines() {
        redis.cli(&["DEL", chunk]);
    }
    let popped = tokio::spawn({
        let node = cluster.http(1);
        async move { node.get("/queue/pop").await }
    });
    let status = cluster.node(1).ended(RECOVERY).await;
    assert_eq!(status.code(), Some(1));
    let said = cluster.node(1).log_text();
    assert!(said.contains("somebody deleted or changed keys") && said.contains("Restore Redis"), "{said}");
    let served = popped.await.unwrap().is_ok_and(|answer| answer.status == 200);
    assert!(!served, "a message was served whose body is gone");
}
