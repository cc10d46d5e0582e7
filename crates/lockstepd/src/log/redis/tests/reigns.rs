//! Beginning a reign, ending one, and what a leader that is no more may not do.
//!
//! What it writes besides entries is told in `snapshots.rs`.

use super::*;

#[tokio::test]
async fn proposals_that_wait_share_entries() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let leader = leader(&cluster, None).await;
    let log = cluster.log(leader);
    let proposals = (1..=500).map(|n| log.propose(acquire(n, &format!("lock {n}"), 60_000)));
    let replies = futures::future::join_all(proposals).await;
    let entries: BTreeSet<_> = replies.iter().map(|reply| reply.as_ref().unwrap().index).collect();
    assert!(entries.len() < 20, "500 commands took {} entries", entries.len());
}

#[tokio::test]
async fn a_deposed_leaders_append_is_refused_and_its_reads_too() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, Settings { heartbeat: Duration::from_millis(500), ..fast() });
    let old = leader(&cluster, None).await;
    let log = cluster.log(old);
    let before = log.propose(acquire(1, "a", 600_000)).await.unwrap();
    cluster.depose(old).await;
    // It cannot know yet: nobody has told it, and its next heartbeat is half a second away.
    let believes = log.status().borrow().leading;
    let (proposed, read) = tokio::join!(log.propose(acquire(2, "b", 600_000)), log.barrier());
    assert!(believes, "it had noticed already: the test proves nothing");
    assert_eq!(proposed, Err(ProposeError::NotLeader { hint: None }));
    assert_eq!(read, Err(BarrierError::NotLeader { hint: None }));
    let new = leader(&cluster, Some(old)).await;
    let after = cluster.log(new).propose(acquire(3, "b", 600_000)).await.unwrap();
    assert!(token(&after.reply) > token(&before.reply) + (1 << 19));
    cluster.caught_up(old, new).await;
    let image = |node: NodeId| cluster.nodes[&node].state.read(Shard::snapshot);
    until(|| image(old) == image(new)).await;
}

#[tokio::test]
async fn leadership_is_handed_over_at_once() {
    let redis = RedisServer::start();
    let slow = Duration::from_secs(30);
    let cluster = Cluster::new(&redis, 0, Settings { election_min: slow, election_max: slow * 2, ..fast() });
    let old = leader(&cluster, None).await;
    let other = all().into_iter().find(|node| *node != old).unwrap();
    let begun = tokio::time::Instant::now();
    cluster.log(old).hand_over(other).await;
    assert_eq!(leader(&cluster, Some(old)).await, other);
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for an election time-out");
}

#[tokio::test]
async fn entries_wake_nobody_who_waits_for_a_change_of_leader() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, calm());
    let first = leader(&cluster, None).await;
    let log = cluster.log(first);
    let before = log.propose(acquire(1, "a", 600_000)).await.unwrap();
    let mut waiting: Vec<_> = all().into_iter().map(|node| cluster.log(node).status()).collect();
    for node in all() {
        cluster.caught_up(node, first).await;
    }
    waiting.iter_mut().for_each(watch::Receiver::mark_unchanged);
    for seq in 2..=20 {
        log.propose(acquire(seq, &format!("{seq}"), 600_000)).await.unwrap();
    }
    for (node, status) in all().into_iter().zip(&waiting) {
        cluster.caught_up(node, first).await;
        assert!(!status.has_changed().unwrap(), "{node} has told everybody of an entry");
        assert!(status.borrow().applied > before.index, "but whoever looks sees how far it is");
    }
    assert!(log.barrier().await.unwrap().0 >= before.index.0 + 19, "who waits for just that is woken");
}
