//! What others do to a cluster's keys: each is noticed, and said.
//!
//! Nothing here is mended.

use super::*;

/// Breaks the stream of a healthy cluster; what every node then says.
async fn broken_by(damage: impl Fn(&RedisServer, &str)) -> String {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    for n in 1..=20 {
        cluster.log(leader).propose(acquire(n, &format!("{n}"), 600_000)).await.unwrap();
    }
    for node in all() {
        cluster.caught_up(node, leader).await;
    }
    damage(&redis, &cluster.key());
    let mut said = Vec::new();
    for node in all() {
        said.push(cluster.failure(node).await);
    }
    let refused = cluster.log(leader).propose(acquire(99, "x", 1_000)).await;
    assert_eq!(refused, Err(ProposeError::Stopped));
    said.swap_remove(0)
}

#[tokio::test]
async fn a_foreign_entry_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["XADD", key, "*", "field", "value"]);
    });
    let said = said.await;
    assert!(said.contains("was not written by Lockstep") && said.contains("XDEL"), "{said}");
}

/// It must not invite anybody to begin anew.
fn assert_gone(said: &str) {
    assert!(said.contains("is gone or empty") && said.contains("before any node is started"), "{said}");
    assert!(said.contains("Restore Redis") && !said.contains("start the nodes again"), "{said}");
}

#[tokio::test]
async fn a_deleted_key_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["DEL", key]);
    });
    let said = said.await;
    assert_gone(&said);
}

#[tokio::test]
async fn an_emptied_stream_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["XTRIM", key, "MAXLEN", "0"]);
    });
    let said = said.await;
    assert_gone(&said);
}

#[tokio::test]
async fn a_lost_tail_stops_every_node() {
    let said = broken_by(|redis, key| {
        let last = |text: String| text.lines().next().unwrap_or_default().to_owned();
        // Takes the last entries out, as a fail-over to a replica that lags does.
        for _ in 0..3 {
            let id = last(redis.cli(&["XREVRANGE", key, "+", "-", "COUNT", "1"]));
            redis.cli(&["XDEL", key, &id]);
        }
    });
    let said = said.await;
    assert!(said.contains("has lost acknowledged entries") && said.contains("stores.md"), "{said}");
}

/// A node that starts on a damaged stream; what it says.
async fn refused_after(damage: impl Fn(&RedisServer, &str)) -> String {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    for n in 1..=20 {
        cluster.log(leader).propose(acquire(n, &format!("{n}"), 600_000)).await.unwrap();
    }
    for node in all() {
        cluster.stop(node).await;
    }
    damage(&redis, &cluster.key());
    cluster.start(NodeId(1));
    cluster.failure(NodeId(1)).await
}

#[tokio::test]
async fn a_gap_and_a_trimmed_beginning_stop_a_node_that_reads_them() {
    let gap = refused_after(|redis, key| {
        let ids = redis.cli(&["XRANGE", key, "-", "+", "COUNT", "7"]);
        let id =
            ids.lines().filter(|line| line.contains('-') && !line.contains(':')).nth(5).unwrap().to_owned();
        redis.cli(&["XDEL", key, id.trim()]);
    });
    let gap = gap.await;
    assert!(gap.contains("trimmed or deleted entries") && gap.contains("import"), "{gap}");
    let trimmed = refused_after(|redis, key| {
        redis.cli(&["XTRIM", key, "MAXLEN", "3"]);
    });
    let trimmed = trimmed.await;
    assert!(trimmed.contains("trimmed or deleted entries"), "{trimmed}");
    let gone = refused_after(|redis, key| {
        redis.cli(&["DEL", key]);
    });
    let gone = gone.await;
    assert!(gone.contains("somebody deleted"), "{gone}");
}

#[tokio::test]
async fn a_key_of_another_kind_stops_every_node() {
    let said = broken_by(|redis, key| {
        redis.cli(&["EVAL", "redis.call('DEL', KEYS[1]) redis.call('LPUSH', KEYS[1], 'x')", "1", key]);
    });
    let said = said.await;
    assert!(said.contains("Lockstep did not write") && said.contains("Restore Redis"), "{said}");
}

/// A cluster whose first messages lie in chunks only.
async fn with_chunks(redis: &RedisServer) -> (Cluster<'_>, NodeId, MessageId) {
    let cluster = Cluster::new(redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let leader = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(leader, seq, 5_000).await;
    }
    let state = &cluster.nodes[&leader].state;
    until(|| state.bodies_in_memory() < 150_000).await;
    let first = state.read(|shard| shard.queues().peek(&QueueName("q".into()), 1))[0].id;
    (cluster, leader, first)
}

#[tokio::test]
async fn a_chunk_that_is_missing_short_or_altered_stops_who_needs_it() {
    let redis = RedisServer::start();
    for (damage, at_start) in
        [(["DEL"].as_slice(), true), (&["SET", "x"], true), (&["SETRANGE", "100", "x"], false)]
    {
        let (mut cluster, leader, first) = with_chunks(&redis).await;
        let body = cluster.log(leader).fetch_body(first).await;
        assert_eq!(body, Some(body_of(1, 5_000)));
        let chunk = cluster.chunks().remove(0);
        let command: Vec<&str> = [damage[0], &chunk].into_iter().chain(damage[1..].iter().copied()).collect();
        redis.cli(&command);
        let status = cluster.nodes[&leader].log.status();
        assert_eq!(status.borrow().failed, None, "nobody has looked yet");
        assert_eq!(cluster.log(leader).fetch_body(first).await, None, "it was served");
        let said = cluster.failure(leader).await;
        assert!(said.contains(&chunk) && said.contains("somebody deleted or changed keys"), "{said}");
        assert!(said.contains("Restore Redis from a backup") && said.contains("import"), "{said}");
        if at_start {
            let other = all().into_iter().find(|node| *node != leader).unwrap();
            cluster.stop(other).await;
            cluster.start(other);
            let said = cluster.failure(other).await;
            assert!(said.contains(&chunk), "{said}");
            let third = all().into_iter().find(|node| *node != leader && *node != other).unwrap();
            let said = cluster.failure(third).await;
            assert!(said.contains(&chunk), "who stands next looks too: {said}");
        }
    }
}

#[tokio::test]
async fn a_user_who_may_not_look_at_chunks_waits_and_calls_nothing_damaged() {
    let redis = RedisServer::start();
    let (mut cluster, leader, _) = with_chunks(&redis).await;
    redis.cli(&["ACL", "SETUSER", "weak", "on", ">p", "~*", "&*", "+@all", "-getrange"]);
    let other = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.stop(other).await;
    cluster.start_at(other, &format!("redis://weak:p@127.0.0.1:{}", redis.port));
    let status = cluster.nodes[&other].log.status();
    until(|| status.borrow().away.is_some() || status.borrow().failed.is_some()).await;
    assert_eq!(status.borrow().failed, None);
    redis.cli(&["ACL", "SETUSER", "weak", "+getrange"]);
    until(|| status.borrow().away.is_none() && status.borrow().leader == Some(leader)).await;
}

#[tokio::test]
async fn the_next_snapshot_finds_a_lost_chunk_that_nobody_has_asked_for() {
    let redis = RedisServer::start();
    let (cluster, leader, _) = with_chunks(&redis).await;
    let chunk = cluster.chunks().remove(0);
    redis.cli(&["DEL", &chunk]);
    let log = cluster.log(leader);
    for seq in 61..=300 {
        if log.propose(push(seq, 5_000)).await.is_err() {
            break;
        }
    }
    let said = cluster.failure(leader).await;
    assert!(said.contains(&chunk), "{said}");
}

#[tokio::test]
async fn a_chunk_that_newer_snapshots_have_replaced_is_no_damage() {
    let redis = RedisServer::start();
    let (cluster, leader, first) = with_chunks(&redis).await;
    let mut late = cluster.reader().await;
    let there = cluster.chunks();
    let before = snapshot::pointer(&mut late.link, &late.keys).await.unwrap().unwrap();
    // All but the first message are done: it is copied out of its chunk, which goes.
    let (queue, visibility) = (QueueName("q".into()), Some(Millis(600_000)));
    let receive = Op::Queue(QueueOp::Receive { queue, max: 60, visibility, session: None });
    let (received, _) = cluster.propose(command(1_000, receive)).await;
    let messages = delivered(&received.reply).to_vec();
    assert_eq!((messages.len(), messages[0].id), (60, first));
    let receipt = |at: usize| Receipt { message: messages[at].id, delivery: messages[at].delivery };
    let done = (1..60).map(receipt).collect();
    cluster.propose(command(1_001, Op::Queue(QueueOp::Ack { receipts: done }))).await;
    let mut seq = 2_000;
    while cluster.chunks().contains(&there[0]) {
        seq += 1;
        assert!(seq < 3_000, "it is still there: {:?}", cluster.chunks());
        cluster.push(leader, seq, 5_000).await;
    }
    // One that has not heard of it looks where it was, and is told where it is.
    let state = Arc::clone(&late.state);
    let old = tokio::task::spawn_blocking(move || state.body(first)).await.unwrap();
    assert!(old.is_err(), "the old chunk was read: the test proves nothing");
    let now = snapshot::replaced(&mut late.link, &late.keys, before, "a chunk").await.unwrap();
    assert!(now.at.index > before.at.index, "a reader that was at the older one goes on with the newer");
    let damage = snapshot::replaced(&mut late.link, &late.keys, now, "a chunk").await;
    assert!(matches!(damage, Err(Fault::Broken(_))), "{damage:?}");
    let mut look = async || lookup::body(&mut late.link, &late.keys, &late.state, first).await;
    assert_eq!(look().await, Ok(Some(body_of(1, 5_000))));
    // Then nobody needs any of them, which that one cannot know.
    let (queue, visibility) = (QueueName("q".into()), Some(Millis(600_000)));
    let receive = Op::Queue(QueueOp::Receive { queue, max: 10_000, visibility, session: None });
    let (received, _) = cluster.propose(command(3_000, receive)).await;
    let rest = delivered(&received.reply).iter();
    let receipts = rest.map(|one| Receipt { message: one.id, delivery: one.delivery });
    let receipts = receipts.chain([receipt(0)]).collect();
    cluster.propose(command(3_001, Op::Queue(QueueOp::Ack { receipts }))).await;
    seq = 3_001;
    while look().await != Ok(None) {
        seq += 1;
        assert!(seq < 4_000, "it is still told");
        cluster.push(leader, seq, 5_000).await;
    }
}

#[tokio::test]
async fn a_vanished_snapshot_pointer_stops_who_would_lead() {
    let redis = RedisServer::start();
    let (cluster, leader, first) = with_chunks(&redis).await;
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    let other = all().into_iter().find(|node| *node != leader).unwrap();
    let standing = &cluster.nodes[&other].log;
    while standing.status().borrow().failed.is_none() {
        // A snapshot that was being written would bring it back.
        redis.cli(&["DEL", &pointer]);
        let _ = standing.orders.send(driver::Order::Stand).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = cluster.failure(other).await;
    assert!(said.contains(&pointer) && said.contains("is gone"), "{said}");
    assert_eq!(cluster.log(leader).fetch_body(first).await, None);
    let said = cluster.failure(leader).await;
    assert!(said.contains(&pointer) && said.contains("Restore Redis"), "{said}");
}
