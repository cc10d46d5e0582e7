//! Answers that get lost, writers that end in the middle, and a Redis that has forgotten.
//!
//! Damage by others is told in `damage.rs`.

use std::process::Command;

use super::proxy::Proxy;
use super::*;

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_found_again_and_done_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port).await;
    let mut cluster = Cluster::new(&redis, 0, calm());
    for node in [2, 3].map(NodeId) {
        cluster.stop(node).await;
    }
    cluster.stop(NodeId(1)).await;
    cluster.start_at(NodeId(1), &proxy.url);
    until(|| cluster.nodes[&NodeId(1)].log.status().borrow().leading).await;
    let log = &cluster.nodes[&NodeId(1)].log;
    let epoch = || log.status().borrow().epoch;
    let before = log.propose(acquire(1, "a", 600_000)).await.unwrap();
    let (mut last, mut found) = (token(&before.reply), 0);
    for seq in 2..200 {
        let reign = epoch();
        proxy.answers(0);
        let proposed = log.propose(acquire(seq, &format!("lock {seq}"), 600_000));
        let (applied, ()) = tokio::join!(proposed, async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.answers(i64::MAX);
        });
        // Another question was in the way: this was not sent, or the reign is over.
        let Ok(applied) = applied else {
            until(|| log.status().borrow().leading && log.status().borrow().away.is_none()).await;
            continue;
        };
        let granted = token(&applied.reply);
        if epoch() == reign && (last >> 20) == (granted >> 20) {
            assert_eq!(granted, last + 1, "it was granted twice");
            found += 1;
        }
        last = granted;
        if found == 5 {
            break;
        }
    }
    assert_eq!(found, 5, "answers were hardly ever lost");
    // Whoever reads the stream finds dense indices, or fails.
    let reader = cluster.reader().await;
    assert!(reader.state.read(Shard::applied) >= before.index);
}

#[tokio::test]
async fn an_append_whose_fate_stays_unknown_ends_the_reign_and_is_done_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port).await;
    let mut cluster = Cluster::new(&redis, 0, fast());
    for node in all() {
        cluster.stop(node).await;
    }
    cluster.start_at(NodeId(1), &proxy.url);
    until(|| cluster.nodes[&NodeId(1)].log.status().borrow().leading).await;
    let log = Arc::clone(&cluster.nodes[&NodeId(1)].log);
    let mut seq = 0;
    let request = loop {
        proxy.answers(i64::MAX);
        until(|| log.status().borrow().leading && log.status().borrow().away.is_none()).await;
        seq += 1;
        let request = acquire(seq, "a", 600_000);
        proxy.answers(0);
        match log.propose(request.clone()).await {
            Err(ProposeError::Unknown) => break request,
            // The answer to a heartbeat was lost before: this was never sent.
            Err(ProposeError::Away) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(!log.status().borrow().leading, "it cannot know what is in the stream");
    cluster.start(NodeId(2));
    until(|| cluster.nodes[&NodeId(2)].log.status().borrow().leading).await;
    let new = &cluster.nodes[&NodeId(2)].log;
    let again = new.propose(request).await.unwrap();
    let held = new.propose(acquire(seq + 1, "b", 600_000)).await.unwrap();
    assert!(
        token(&again.reply) + (1 << 19) < token(&held.reply),
        "the entry was in, and its request is answered again: {again:?}"
    );
    proxy.answers(i64::MAX);
    until(|| log.status().borrow().leader == Some(NodeId(2))).await;
}

#[tokio::test]
async fn a_snapshot_writer_that_ends_anywhere_leaves_a_whole_state() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port).await;
    let cluster = Cluster::new(&redis, 1, calm());
    let leader = leader(&cluster, None).await;
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    // The first snapshot of a reign is taken at once.
    until(|| redis.cli(&["EXISTS", &pointer]) == "1").await;
    let epoch = cluster.place(leader).epoch;
    let (mut done, mut seq) = (0, 0);
    for answers in 0.. {
        seq += 1;
        cluster.push(leader, seq, 5_000).await;
        let before = cluster.reader().await;
        let (at, frozen) = (before.tail, before.state.freeze());
        proxy.answers(answers);
        let written = cluster.writer_at(epoch, &proxy.url).write(at, frozen, true).await;
        proxy.answers(i64::MAX);
        // Whatever it left: who comes now finds everything, and so does the leader.
        let reader = cluster.reader().await;
        assert!(reader.tail.index >= at.index, "after {answers} answers");
        let whole = Arc::clone(&reader.state);
        let whole = tokio::task::spawn_blocking(move || whole.snapshot().map(|(_, bytes)| bytes.len()));
        assert!(whole.await.unwrap().unwrap() > 5_000 * usize::try_from(seq).unwrap(), "after {answers}");
        done += u32::from(matches!(written, Ok(write::Written::Done { .. })));
        if done == 3 {
            assert!(answers > 15, "it was hardly cut short: {answers}");
            break;
        }
    }
    let reader = cluster.reader().await;
    let sets = cluster.keys().iter().filter(|key| key.contains(":chunk:")).count();
    assert!(sets <= 4, "{:?}", cluster.keys());
    drop(reader);
    cluster.drain(seq, 5_000).await;
}

#[tokio::test]
async fn a_fail_over_that_loses_entries_is_noticed_and_tokens_go_on_above_all_of_them() {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    master.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    let proxy = Proxy::start(master.port).await;
    let mut cluster = Cluster::new(&master, 0, fast());
    for node in all() {
        cluster.stop(node).await;
    }
    for node in all() {
        cluster.start_at(node, &proxy.url);
    }
    let first = leader(&cluster, None).await;
    cluster.log(first).propose(acquire(1, "kept", 600_000)).await.unwrap();
    let length = |redis: &RedisServer| redis.cli(&["XLEN", &cluster.key()]).parse::<u64>().unwrap_or(0);
    until(|| length(&replica) > 2).await;
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    // What follows reaches the master alone: a whole reign of it.
    let lost = cluster.log(first).propose(acquire(2, "lost", 600_000)).await.unwrap();
    cluster.depose(first).await;
    let second = leader(&cluster, Some(first)).await;
    let largest = cluster.log(second).propose(acquire(3, "lost too", 600_000)).await.unwrap();
    assert!(token(&largest.reply) > token(&lost.reply));
    for node in all() {
        cluster.caught_up(node, second).await;
    }
    proxy.lead_to(replica.port);
    for node in all() {
        let said = cluster.failure(node).await;
        assert!(
            said.contains("has lost acknowledged entries") && said.contains("start the nodes again"),
            "{said}"
        );
    }
    // As a supervisor does.
    for node in all() {
        cluster.stop(node).await;
        cluster.start_at(node, &proxy.url);
    }
    let third = leader(&cluster, None).await;
    let fresh = cluster.log(third).propose(acquire(4, "new", 600_000)).await.unwrap();
    assert!(token(&fresh.reply) > token(&largest.reply), "a token of the lost history came again");
    let gone = cluster.log(third).propose(acquire(5, "lost", 600_000)).await.unwrap();
    assert!(token(&gone.reply) > token(&lost.reply), "it was granted anew");
}

#[tokio::test]
async fn what_takes_too_long_to_read_is_asked_for_in_smaller_parts() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    cluster.log(leader).propose(acquire(1, "a", 600_000)).await.unwrap();
    let mut reader = cluster.reader().await;
    let before = reader.read_at_once;
    signal(&redis, "-STOP");
    let slow = reader.next(Duration::ZERO, Duration::from_millis(1)).await;
    signal(&redis, "-CONT");
    assert!(matches!(slow, Err(Fault::Away(_))));
    assert_eq!(reader.read_at_once, before / 4);
    reader.catch_up().await.unwrap();
    assert!(reader.read_at_once > before / 4, "and in larger ones again");
}

#[tokio::test]
async fn a_slow_redis_delays_only_who_asks_for_a_body() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let leader = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(leader, seq, 5_000).await;
    }
    let state = Arc::clone(&cluster.nodes[&leader].state);
    until(|| state.bodies_in_memory() < 150_000).await;
    let queue = QueueName("q".into());
    let first = state.read(|shard| shard.queues().peek(&queue, 1))[0].id;
    signal(&redis, "-STOP");
    let asked = {
        let state = Arc::clone(&state);
        tokio::task::spawn_blocking(move || state.body(first))
    };
    // Long enough for it to have asked; then everybody else is still served at once.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        state.read(Shard::applied);
        assert!(matches!(state.find_body(first), crate::store::bodies::Found::There(_)));
    }
    let took = begun.elapsed();
    assert!(!asked.is_finished(), "it was in memory: the test proves nothing");
    signal(&redis, "-CONT");
    assert!(took < Duration::from_millis(500), "a body that is waited for held everything up: {took:?}");
    assert_eq!(asked.await.unwrap().unwrap(), Some(body_of(1, 5_000)));
}

fn signal(redis: &RedisServer, signal: &str) {
    let done = Command::new("kill").args([signal, &redis.pid().to_string()]).status().unwrap();
    assert!(done.success());
}
