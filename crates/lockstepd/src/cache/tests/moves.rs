//! Lines that change their home, and requests for many keys.

use lockstep_core::cache::message::{Addressee, Answer};
use lockstep_core::cache::space::join;
use lockstep_core::guards::{Guard, Proof};
use lockstep_core::names::{LockName, Token};

use super::*;

/// A key of the write-back namespace whose home is node 1.
fn owned_key(cluster: &Cluster) -> Key {
    let state = cluster.nodes[&1].lock();
    let is_home = |key: &Key| state.home.home_of(key).unwrap().node.0 == 1;
    (0..).map(|n| join("back", &format!("k{n}"))).find(is_home).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_hands_its_lines_to_those_who_are_home_next() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(2, &key, "a").await.unwrap();
    cluster.get(3, &key).await;
    cluster.nodes[&1].retire().await;
    assert_eq!(cluster.local(3, &key), None, "recalled first");
    cluster.show(2, &[2, 3], FOR_EVER);
    cluster.settle().await;
    assert_eq!(cluster.get(2, &key).await.map(|(value, _)| value), Some("a".into()));
}

#[tokio::test(start_paused = true)]
async fn what_could_be_read_from_memory_before_a_move_is_in_memory_soon_after_it() {
    let cluster = Cluster::new().await;
    let keys: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    for key in &keys {
        cluster.set(2, key, "a").await.unwrap();
        for node in [2, 3] {
            cluster.get(node, key).await;
        }
    }
    cluster.nodes[&1].retire().await;
    assert!(cluster.figure(3, "displaced_waiting") > 50, "they wait for another ring");
    cluster.show(2, &[2, 3], FOR_EVER);
    cluster.settle().await;
    tokio::time::sleep(SECOND).await;
    for node in [2, 3] {
        assert_eq!(cluster.figure(node, "displaced_waiting"), 0);
        for key in &keys {
            assert_eq!(cluster.local(node, key).as_deref(), Some("a"), "{key} at node {node}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lines_that_were_read_at_their_former_home_can_be_read_there_still() {
    let cluster = Cluster::new().await;
    cluster.show(2, &[1, 2], FOR_EVER);
    cluster.settle().await;
    let keys: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    for key in &keys {
        cluster.set(2, key, "a").await.unwrap();
        cluster.nodes[&1].get(&key.as_str().into(), false, SECOND).await.unwrap();
        cluster.nodes[&1].worded(key, |_| "a".into());
    }
    let all = &[1, 2, 3];
    for node in [1, 2] {
        cluster.nodes[&node].set_view(&cluster.view(node, 3, all, FOR_EVER));
    }
    let newcomer = View { me: Some((Incarnation(1), 3)), ..cluster.view(3, 3, all, FOR_EVER) };
    cluster.nodes[&3].set_view(&newcomer);
    tokio::time::sleep(SECOND).await;
    for key in &keys {
        assert_eq!(cluster.local(1, key).as_deref(), Some("a"), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn lines_sent_ahead_are_dropped_if_another_ring_comes_than_the_expected_one() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(2, &key, "a").await.unwrap();
    cluster.nodes[&1].retire().await;
    cluster.show(3, &[2, 3], FOR_EVER);
    cluster.settle().await;
    assert_eq!(cluster.get(2, &key).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_gets_the_lines_that_are_its_own_now() {
    let cluster = Cluster::new().await;
    let keys: Vec<String> = (0..400).map(|n| format!("k{n}")).collect();
    cluster.show(2, &[1, 2], FOR_EVER);
    cluster.settle().await;
    let big = "x".repeat(4_000);
    for key in &keys {
        cluster.set(1, key, &big).await.unwrap();
    }
    let all = &[1, 2, 3];
    for node in [1, 2] {
        cluster.nodes[&node].set_view(&cluster.view(node, 3, all, FOR_EVER));
    }
    let newcomer = View { me: Some((Incarnation(1), 3)), ..cluster.view(3, 3, all, FOR_EVER) };
    cluster.nodes[&3].set_view(&newcomer);
    for key in &keys {
        assert_eq!(cluster.get(1, key).await.map(|(value, _)| value), Some(big.clone()), "{key}");
    }
    let moved = cluster.nodes[&3].lock().home.stats().moved_in;
    assert!(moved > 70, "{moved} lines came, in more than one portion");
}

#[tokio::test(start_paused = true)]
async fn many_keys_of_one_home_travel_in_one_message() {
    let cluster = Cluster::new().await;
    let state = |key: &String| cluster.nodes[&1].lock().home.home_of(key).unwrap().node.0 == 1;
    let names: Vec<String> = (0..).map(|n| format!("k{n}")).filter(state).take(20).collect();
    let before = cluster.net.requests.load(Ordering::Relaxed);
    let writes = names.iter().map(|key| set(key, "a")).collect();
    let written = cluster.nodes[&2].write_many(writes, SECOND).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let keys: Vec<Key> = names.iter().map(|key| key.as_str().into()).collect();
    let read = cluster.nodes[&3].get_many(&keys, SECOND).await;
    assert!(read.into_iter().all(|entry| text(entry.unwrap()) == some("a", false)));
    assert_eq!(cluster.net.requests.load(Ordering::Relaxed) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_flush_empties_every_home_and_every_copy_of_one_namespace_alone() {
    let cluster = Cluster::new().await;
    let other = join("back", "k");
    for n in 0..9 {
        cluster.set(1, &format!("k{n}"), "a").await.unwrap();
        cluster.get(2, &format!("k{n}")).await;
    }
    cluster.set(1, &other, "kept").await.unwrap();
    cluster.nodes[&3].flush(DEFAULT, None, 5 * SECOND).await.unwrap();
    for n in 0..9 {
        assert_eq!(cluster.local(2, &format!("k{n}")), None);
        assert_eq!(cluster.get(1, &format!("k{n}")).await, None);
    }
    assert_eq!(cluster.get(2, &other).await.map(|(value, _)| value), Some("kept".into()));
}

/// Home 2 waits for the lease of node 3, which does not hear it; the other homes are emptied at once.
#[tokio::test(start_paused = true)]
async fn a_flush_whose_lock_is_lost_half_way_does_not_say_that_nothing_was_done() {
    let cluster = Cluster::new().await;
    let guard = |token| Guard { lock: LockName("l".into()), token: Token(token), proof: Proof::Issued };
    let key = cluster.key_at(2);
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(3, &key).await;
    cluster.net.cut(2, 3);
    let flush = cluster.nodes[&1].flush(DEFAULT, Some(guard(1)), 10 * SECOND);
    let successor = async {
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!([1, 2, 3].map(|node| cluster.figure(node, "flushes")), [1, 0, 1]);
        let state = &mut cluster.nodes[&2].lock();
        let (me, now) = (state.home.tenure().origin(), cluster.nodes[&2].now());
        let to = Addressee { incarnation: me.incarnation, ring_epoch: 1 };
        assert_eq!(state.home.fence(to, &guard(2), now), Answer::Guarded);
    };
    let (flushed, ()) = tokio::join!(flush, successor);
    assert_eq!(flushed, Err(Error::OutcomeUnknown));
    assert_eq!(cluster.figure(2, "flushes"), 0, "and not everything was");
    let late = cluster.nodes[&1].flush(DEFAULT, Some(guard(1)), SECOND).await;
    assert!(matches!(late, Err(Error::Guard(_))), "before anything was done: {late:?}");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_leaves_a_miss_and_later_versions_are_larger() {
    let cluster = Cluster::new().await;
    let key = owned_key(&cluster);
    cluster.set(1, &key, "old").await.unwrap();
    cluster.get(2, &key).await;
    let silent = cluster.set(2, &key, "silent").await.unwrap();
    assert_eq!(cluster.nodes[&2].get_local(&key).unwrap().state, 'M');
    cluster.net.isolate(2);
    assert_eq!(cluster.get(3, &key).await, None, "never the old value");
    let next = cluster.set(3, &key, "next").await.unwrap();
    assert!(next > silent, "{next:?} {silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_gives_back_what_it_owns() {
    let cluster = Cluster::new().await;
    let key = owned_key(&cluster);
    cluster.get(2, &key).await;
    cluster.set(2, &key, "silent").await.unwrap();
    cluster.nodes[&2].retire().await;
    cluster.net.isolate(2);
    assert_eq!(cluster.get(3, &key).await.map(|(value, _)| value), Some("silent".into()));
}

#[tokio::test(start_paused = true)]
async fn the_auditor_compares_copies_and_finds_one_that_was_changed_behind_the_protocols_back() {
    let cluster = Cluster::new().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "a").await.unwrap();
    cluster.get(2, &key).await;
    let (log, _logging) = figures::Log::listen();
    let figure = |name: &str| cluster.figure(2, name);
    tokio::time::sleep(4 * SECOND).await;
    assert!(figure("audited_copies") > 0);
    assert_eq!(figure("disagreements"), 0);
    // A home that commits without asking its sharers: another process that takes itself for it.
    let rogue = Cache::new(
        NodeId(1),
        cluster.clock.clone(),
        Arc::new(Link(cluster.net.clone(), NodeId(1))),
        Limits::default(),
    );
    rogue.set_view(&cluster.view(1, 1, &[1], FOR_EVER));
    rogue.write(set(&key, "b"), SECOND).await.unwrap();
    rogue.write(set(&key, "c"), SECOND).await.unwrap();
    cluster.net.caches.lock().unwrap().insert(NodeId(1), rogue);
    cluster.get(2, &key).await;
    tokio::time::sleep(3 * SECOND).await;
    assert!(figure("disagreements") > 0);
    assert!(log.text().contains("is not what its home committed"), "{}", log.text());
}
