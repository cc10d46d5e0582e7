//! What a cluster of three promises, one fact each.

use lockstep_core::cache::lease::{LEASE, MARGIN, OVERDUE};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_second_read_is_local_and_a_write_anywhere_ends_that() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(3, &key, "a").await.unwrap();
    assert_eq!(cluster.get(1, &key).await, some("a", true), "the home reads its own line");
    assert_eq!(cluster.get(2, &key).await, some("a", false));
    assert_eq!(cluster.get(2, &key).await, some("a", true));
    cluster.set(2, &key, "b").await.unwrap();
    assert_eq!(cluster.local(2, &key), None, "the writer's own copy goes as well");
    assert_eq!(cluster.get(2, &key).await, some("b", false));
    assert_eq!(cluster.get(3, &key).await, some("b", false));
    let past = cluster.nodes[&2].get(&key.as_str().into(), true, SECOND).await.unwrap();
    assert_eq!(text(past), some("b", false), "asked to skip copies");
}

#[tokio::test(start_paused = true)]
async fn copies_that_are_read_outlive_many_leases_and_idle_ones_do_not() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(2, &key).await;
    for _ in 0..20 {
        tokio::time::sleep(SECOND).await;
        assert_eq!(cluster.local(2, &key), Some("a".into()));
    }
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(cluster.local(2, &key), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_beside_a_silent_sharer_returns_when_its_lease_is_over_and_never_lets_it_read_stale() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "old").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.isolate(2);
    let began = cluster.clock.now();
    let write = cluster.set(3, &key, "new");
    tokio::pin!(write);
    let mut reads_beside = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut write => break assert!(done.is_ok()),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if cluster.clock.now() - began < SECOND {
            assert_eq!(cluster.get(3, &key).await, some("old", false));
            reads_beside += 1;
        }
    }
    assert!(reads_beside > 10);
    assert_eq!(cluster.local(2, &key), None);
    let took = cluster.clock.now() - began;
    let limit = Duration::from_millis(LEASE.0 + LEASE.0 / 100 + MARGIN.0 + 20);
    assert!(took > SECOND && took < limit, "{took:?}");
    assert_eq!(cluster.get(3, &key).await, some("new", false));
    cluster.net.heal();
    assert_eq!(cluster.get(2, &key).await, some("new", false));
}

#[tokio::test(start_paused = true)]
async fn a_sharer_that_can_send_and_not_receive_cannot_stall_a_write() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "old").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.cut(1, 2);
    let reader = cluster.nodes[&2].clone();
    let name = key.clone();
    // It goes on to read and to ask for renewals all the time.
    let reading = tokio::spawn(async move {
        loop {
            reader.get_local(&name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let began = cluster.clock.now();
    cluster.set(3, &key, "new").await.unwrap();
    let limit = Duration::from_millis(LEASE.0 + LEASE.0 / 100 + MARGIN.0 + OVERDUE.0 + 20);
    assert!(cluster.clock.now() - began < limit);
    assert_eq!(cluster.local(2, &key), None);
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_dead_home_fail_until_its_lease_is_over_and_are_misses_then() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.isolate(1);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(cluster.nodes[&2].get(&key.as_str().into(), false, SECOND).await, Err(Error::HomeUnavailable));
    let unknown = cluster.nodes[&2].write(set(&key, "b"), SECOND).await;
    assert_eq!(unknown, Err(Error::OutcomeUnknown), "it may have arrived");
    cluster.show(2, &[2, 3], FOR_EVER);
    assert_eq!(cluster.get(2, &key).await, None);
    cluster.set(3, &key, "c").await.unwrap();
    assert_eq!(cluster.get(2, &key).await.map(|(value, _)| value), Some("c".into()));
}

#[tokio::test(start_paused = true)]
async fn a_home_whose_membership_has_lapsed_serves_nothing() {
    let cluster = Cluster::new().await;
    let soon = cluster.clock.now() + 2 * SECOND;
    let net = Arc::new(Net::default());
    let lone =
        Cache::new(NodeId(1), cluster.clock.clone(), Arc::new(Link(net, NodeId(1))), Limits::default());
    lone.set_view(&cluster.view(1, 1, &[1], soon));
    lone.write(set("k", "a"), SECOND).await.unwrap();
    assert!(lone.get_local("k").is_some());
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(lone.get_local("k"), None);
    assert_eq!(lone.get(&"k".into(), false, SECOND).await, Err(Error::HomeUnavailable));
    assert_eq!(lone.write(set("k", "b"), SECOND).await, Err(Error::HomeUnavailable));
    lone.membership_renewed(cluster.clock.now() + SECOND, 1);
    assert_eq!(lone.get(&"k".into(), false, SECOND).await.unwrap().unwrap().value, "a");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_moves_is_never_answered_by_two_homes() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(3);
    cluster.show(2, &[1, 2], FOR_EVER);
    cluster.settle().await;
    let former = if cluster.nodes[&1].lock().home.home_of(&key).unwrap().node.0 == 1 { 1 } else { 2 };
    let reader = 3 - former;
    cluster.set(1, &key, "old").await.unwrap();
    cluster.get(reader, &key).await;
    // The third comes back, but the reader of a copy does not hear the old home.
    cluster.net.cut(former, reader);
    let all = &[1, 2, 3];
    for node in [1, 2] {
        cluster.nodes[&node].set_view(&cluster.view(node, 3, all, FOR_EVER));
    }
    let newcomer = View { me: Some((Incarnation(1), 3)), ..cluster.view(3, 3, all, FOR_EVER) };
    cluster.nodes[&3].set_view(&newcomer);
    let began = cluster.clock.now();
    let newcomer = cluster.nodes[&3].clone();
    let write = newcomer.write(set(&key, "new"), 5 * SECOND);
    tokio::pin!(write);
    let mut saw_old = false;
    loop {
        tokio::select! {
            biased;
            done = &mut write => break assert!(done.is_ok()),
            () = tokio::time::sleep(Duration::from_millis(5)) => saw_old |= cluster.local(reader, &key).is_some(),
        }
    }
    assert!(saw_old, "the copy lived on for its lease");
    assert!(cluster.clock.now() - began > SECOND, "and the newcomer waited for that");
    assert_eq!(cluster.local(reader, &key), None);
    assert_eq!(cluster.local(former, &key), None);
    cluster.net.heal();
    assert_eq!(cluster.get(former, &key).await.map(|(value, _)| value), Some("new".into()));
}

#[tokio::test(start_paused = true)]
async fn a_write_with_a_lost_answer_is_repeated_only_under_a_request_id_and_done_once() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.net.cut(1, 2);
    let lost = cluster.nodes[&2].write(set(&key, "a"), SECOND).await;
    assert_eq!(lost, Err(Error::OutcomeUnknown));
    let first = cluster.nodes[&1].get_local(&key).unwrap().version;
    let named = Write { request_id: Some("r1".into()), ..set(&key, "b") };
    assert_eq!(cluster.nodes[&2].write(named.clone(), SECOND).await, Err(Error::OutcomeUnknown));
    cluster.net.heal();
    let version = cluster.nodes[&2].write(named, SECOND).await.unwrap().version.unwrap();
    assert_eq!(version.counter, first.counter + 1, "the first attempt had done it");
}

#[tokio::test(start_paused = true)]
async fn a_retired_home_leaves_no_readable_copy_behind() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.cut(1, 2);
    cluster.nodes[&1].retire().await;
    assert_eq!(cluster.local(2, &key), None);
    assert_eq!(cluster.local(1, &key), None);
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_a_missing_copy_ask_its_home_once() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "a").await.unwrap();
    let before = cluster.net.requests.load(Ordering::Relaxed);
    let reads = (0..100).map(|_| cluster.get(2, &key));
    let read = futures::future::join_all(reads).await;
    assert!(read.iter().all(|value| *value == some("a", false)), "{read:?}");
    assert_eq!(cluster.net.requests.load(Ordering::Relaxed) - before, 1);
}
