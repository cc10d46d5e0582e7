//! A Redis whose memory runs out: snapshots find room or wait, and what gives room back always fits.
//!
//! Whole nodes under it are tested as processes.

use lockstep_core::Reply;
use lockstep_core::command::{Claimant, LockOp};
use lockstep_core::names::{LockName, Owner};

use super::*;

const LIMIT: u64 = 12 << 20;

fn used(redis: &RedisServer) -> u64 {
    let memory = redis.cli(&["INFO", "memory"]);
    memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
}

fn batch(seq: u64, messages: u64) -> Command {
    let body = |n: u64| {
        let mut body = vec![7; 100];
        body[..8].copy_from_slice(&n.to_le_bytes());
        NewMessage { body: body.into(), ..NewMessage::default() }
    };
    let messages = (0..messages).map(|n| body(seq * messages + n)).collect();
    command(seq, Op::Queue(QueueOp::Push { queue: QueueName("q".into()), messages }))
}

#[tokio::test]
async fn small_messages_fill_the_memory_and_are_taken_out_again() {
    let limit = LIMIT.to_string();
    let safe = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", &limit];
    let redis = RedisServer::start_with(&safe);
    let cluster = Cluster::new(&redis, 1, calm());
    let first = leader(&cluster, None).await;
    let epoch = cluster.place(first).epoch;
    let mut batches = 0;
    loop {
        match cluster.log(first).propose(batch(batches, 200)).await {
            Ok(_) => batches += 1,
            Err(ProposeError::StorageFull) => break,
            Err(error) => panic!("{error} after {batches} batches, {} bytes used", used(&redis)),
        }
    }
    assert!(batches > 50, "only {batches} batches fit");
    // Whoever goes on pushing is refused, and snapshots come through all the same.
    for seq in 0..20 {
        let refused = cluster.log(first).propose(batch(10_000 + seq, 200)).await;
        batches += u64::from(refused.is_ok());
        assert!(matches!(refused, Ok(_) | Err(ProposeError::StorageFull)), "{refused:?}");
    }
    assert!(used(&redis) < LIMIT * 97 / 100, "{} of {LIMIT} bytes are used", used(&redis));

    let (mut taken, mut seq) = (0, 20_000);
    loop {
        let (queue, visibility) = (QueueName("q".into()), Some(Millis(600_000)));
        seq += 2;
        let receive = Op::Queue(QueueOp::Receive { queue, max: 200, visibility, session: None });
        let received = cluster.log(first).propose(command(seq - 1, receive)).await.unwrap();
        let messages = delivered(&received.reply).to_vec();
        if messages.is_empty() {
            break;
        }
        taken += messages.len() as u64;
        let receipts = messages.iter().map(|one| Receipt { message: one.id, delivery: one.delivery });
        let receipts = receipts.collect();
        cluster.log(first).propose(command(seq, Op::Queue(QueueOp::Ack { receipts }))).await.unwrap();
    }
    assert_eq!(taken, batches * 200);
    let full = || cluster.nodes[&first].log.room.is_full();
    until(|| !full()).await;
    cluster.log(first).propose(batch(seq + 1, 200)).await.unwrap();
    assert_eq!(cluster.place(first).epoch, epoch, "the reign has not ended");
}

#[tokio::test]
async fn without_any_memory_the_leader_waits_and_gives_back_what_it_can() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 50_000, ..calm() });
    let first = leader(&cluster, None).await;
    let sets = || redis.cli(&["SCARD", &format!("{{lockstep:{}:1}}:sets", cluster.name)]);
    for seq in 1.. {
        cluster.push(first, seq, 5_000).await;
        if sets() == "2" && seq > 30 {
            break;
        }
    }
    let epoch = cluster.place(first).epoch;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let status = cluster.nodes[&first].log.status();
    until(|| status.borrow().away.is_some()).await;
    assert_eq!(cluster.log(first).propose(acquire(900, "x", 1_000)).await, Err(ProposeError::Away));
    until(|| sets() == "1").await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until(|| status.borrow().away.is_none()).await;
    cluster.log(first).propose(acquire(901, "x", 1_000)).await.unwrap();
    assert_eq!(cluster.place(first).epoch, epoch, "the reign has not ended");
    cluster.reader().await;
}

#[tokio::test]
async fn time_without_any_memory_costs_no_holder_its_lease_and_no_leader_its_reign() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, calm());
    let first = leader(&cluster, None).await;
    let epoch = cluster.place(first).epoch;
    let log = cluster.log(first);
    let granted = log.propose(acquire(1, "held", 2_000)).await.unwrap();
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let status = log.status();
    until(|| status.borrow().away.is_some()).await;
    redis.cli(&["CONFIG", "RESETSTAT"]);
    log.hand_over(all().into_iter().find(|node| *node != first).unwrap()).await;
    // Longer than the lease, which is the point.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (commands, stats) = (redis.cli(&["INFO", "commandstats"]), redis.cli(&["INFO", "stats"]));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until(|| status.borrow().away.is_none()).await;
    let by = Claimant { owner: Owner("owner".into()), session: None, token: None };
    let renew = LockOp::Renew { names: vec![LockName("held".into())], by, ttl: Some(Millis(60_000)) };
    let renewed = log.propose(command(2, Op::Lock(renew))).await.unwrap();
    assert!(!matches!(renewed.reply, Reply::Refused(_)), "{renewed:?}");
    let again = log.propose(acquire(3, "held", 60_000)).await.unwrap();
    assert_eq!(token(&again.reply), token(&granted.reply), "it ran out before it could be renewed");
    assert!(status.borrow().leading, "nobody was named to lead instead");
    assert_eq!(cluster.place(first).epoch, epoch, "the reign has not ended");
    assert!(number(&commands, "cmdstat_eval:calls=") < 60, "it tried all the time: {commands}");
    assert!(number(&stats, "total_connections_received:") < 12, "it connected all the time: {stats}");
}

/// The number behind `what` in an INFO.
fn number(info: &str, what: &str) -> u64 {
    let rest = info.split(what).nth(1).unwrap_or_default();
    rest.split(|other: char| !other.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap()
}

#[tokio::test]
async fn a_snapshot_that_finds_no_room_leaves_nothing_behind() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, calm());
    let first = leader(&cluster, None).await;
    until(|| cluster.keys().iter().any(|key| key.ends_with(":snapshot"))).await;
    for seq in 1..=40 {
        cluster.push(first, seq, 50_000).await;
    }
    // Nobody else writes here from now on.
    for node in all() {
        cluster.stop(node).await;
    }
    let before = cluster.keys();
    let write = async || {
        let reader = cluster.reader().await;
        cluster.writer(reader.tail.epoch).write(reader.tail, reader.state.freeze(), false).await
    };
    // Room for nothing, then for one of its three chunks, and so on.
    let least = used(&redis) * 100 / 95;
    let mut tries = 0;
    for more in 1.. {
        redis.cli(&["CONFIG", "SET", "maxmemory", &(least + more * (256 << 10)).to_string()]);
        match write().await {
            Ok(write::Written::Done { .. }) => break,
            Ok(_) => panic!("nobody else writes"),
            Err(link::Failed::Maybe(why)) => panic!("{why}"),
            Err(link::Failed::Not(why)) => assert!(why.contains("kept for what must always fit"), "{why}"),
        }
        assert_eq!(cluster.keys(), before, "after {more} quarters of a megabyte");
        tries += 1;
    }
    assert!(tries > 4, "it found room at once: {tries}");
    assert!(cluster.chunks().len() >= 2, "{:?}", cluster.chunks());
}

#[tokio::test]
async fn while_memory_is_short_a_node_writes_one_snapshot_at_a_time() {
    let redis = RedisServer::start();
    let server = Server::new(Address::parse(&format!("{}?name=turns", redis.url())).unwrap()).unwrap();
    let mut one = driver::Driver::idle(&server, NodeId(1), ShardId(1), State::new(ShardId(1), settings()));
    let other = driver::Driver {
        turns: Arc::clone(&one.turns),
        ..driver::Driver::idle(&server, NodeId(1), ShardId(2), State::new(ShardId(2), settings()))
    };
    assert!(one.turn().is_some() && other.turn().is_some(), "there is memory enough for all");
    redis.cli(&["CONFIG", "SET", "maxmemory", &(used(&redis) * 2).to_string()]);
    for driver in [&one, &other] {
        driver.room.look(&mut driver.link.another(), None).await.unwrap();
    }
    assert!(!one.room.is_short(), "half of it is not short");
    one.room = room::Room::new(60);
    one.room.look(&mut one.link.another(), None).await.unwrap();
    assert!(one.room.is_short() && !one.room.is_full());
    let writing = one.turn();
    assert!(writing.is_some() && one.turn().is_none());
    drop(writing);
    assert!(one.turn().is_some());
}
