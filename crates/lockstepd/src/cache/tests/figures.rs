//! Every figure moves when it should, by as much as it should.

use std::io;

use lockstep_core::cache::home::STALL_BOUNDS_MS;
use lockstep_core::cache::message::{Forget, Order};

use super::*;

/// What is logged on this thread.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens until the guard is dropped.
    pub(super) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_counted_by_where_they_were_answered_alone_and_together() {
    let cluster = Cluster::new().await;
    let (one, three) = (cluster.key_at(1), cluster.key_at(3));
    let none = (100..)
        .map(|n| format!("k{n}"))
        .find(|key| cluster.nodes[&1].lock().home.home_of(key).is_some_and(|home| home.node.0 == 1));
    let none = none.unwrap();
    for key in [&one, &three] {
        cluster.set(1, key, "1").await.unwrap();
    }
    let figures = || ["local_hits", "home_reads", "misses"].map(|name| cluster.figure(2, name));
    cluster.get(2, &one).await;
    assert_eq!(figures(), [0, 1, 0]);
    cluster.get(2, &one).await;
    assert_eq!(figures(), [1, 1, 0]);
    cluster.get(2, &none).await;
    cluster.get(2, &none).await;
    assert_eq!(figures(), [1, 1, 2], "a known absence is no hit");
    let keys = [one.as_str(), three.as_str(), none.as_str()].map(Key::from);
    cluster.nodes[&2].get_many(&keys, SECOND).await;
    assert_eq!(figures(), [2, 2, 3]);
    let load = |key: &str| cluster.nodes[&2].load(key.into(), Millis(1_000), Duration::ZERO, SECOND);
    load(&one).await.unwrap();
    assert_eq!(figures(), [3, 2, 3]);
    load(&none).await.unwrap();
    assert_eq!(figures(), [3, 2, 4]);
    assert_eq!(cluster.figure(1, "fill_rights"), 1);
    let client = cluster.nodes[&2].near_open().unwrap();
    cluster.nodes[&2].near_get(&client, &keys[0], SECOND).await.unwrap().unwrap();
    assert_eq!(figures(), [4, 2, 4]);
    assert_eq!(["near_clients", "near_keys"].map(|name| cluster.figure(2, name)), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_write_counts_whom_it_asked_to_forget_and_how_long_it_waited() {
    let cluster = Cluster::new().await;
    // Until then nodes answer for near clients of their former processes.
    tokio::time::sleep(SECOND).await;
    let key = cluster.key_at(1);
    let home = || {
        ["writes", "changes_with_sharers", "invalidations", "lease_expiries"]
            .map(|name| cluster.figure(1, name))
    };
    let stalls = || cluster.nodes[&1].figures().stalls;
    cluster.set(1, &key, "1").await.unwrap();
    assert_eq!(home(), [1, 0, 0, 0]);
    assert_eq!(stalls()[0], (Some(1), 1), "it waited for nobody");
    cluster.get(2, &key).await;
    cluster.get(3, &key).await;
    cluster.set(1, &key, "2").await.unwrap();
    assert_eq!(home(), [2, 1, 2, 0], "one change, two copies");
    assert_eq!([2, 3].map(|node| cluster.figure(node, "forgotten_copies")), [1, 1]);
    cluster.get(2, &key).await;
    cluster.net.isolate(2);
    cluster.set(1, &key, "3").await.unwrap();
    assert_eq!(home(), [3, 2, 3, 1], "its lease ended instead");
    let nth = STALL_BOUNDS_MS.iter().position(|bound| *bound == 2_500).unwrap();
    assert_eq!(stalls()[nth], (Some(2_500), 1), "{:?}", stalls());
    let kept = cluster.nodes[&1].stalls();
    assert_eq!(kept.buckets.iter().map(|(_, writes)| writes).sum::<u64>(), 3);
    assert!((2.0..2.5).contains(&kept.sum), "{}", kept.sum);
    assert!(kept.buckets.last().unwrap().0.is_infinite());
    tokio::time::sleep(SECOND).await;
    assert!(cluster.figure(2, "lapsed_leases") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_an_order_to_forget_overtook_is_counted() {
    let cluster = Cluster::new().await;
    let key = Key::from(cluster.key_at(1));
    let now = cluster.nodes[&2].now();
    {
        let cache = &cluster.nodes[&2];
        let mut state = cache.lock();
        let home = state.home.home_of(&key).unwrap();
        state.copies.read(&key, home, 1, now);
        let order = Order { home, seq: 1, what: Forget::Copy { key: key.clone() }, moves: false };
        cache.forget(&mut state, &order, now);
    }
    assert_eq!(cluster.figure(2, "refused_fills"), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_stays_within_its_bounds_and_what_made_room_is_counted() {
    let limits = Limits { home_bytes: 40_000, copy_bytes: 20_000, ..Limits::default() };
    let cluster = Cluster::with(FOR_EVER, limits).await;
    tokio::time::sleep(SECOND).await;
    let value = "x".repeat(1_000);
    for n in 0..300 {
        cluster.set(1, &format!("k{n}"), &value).await.unwrap();
        cluster.get(2, &format!("k{n}")).await;
    }
    for node in 1..=3 {
        assert!(cluster.figure(node, "line_evictions") > 0);
        assert!((1..=40_000).contains(&cluster.figure(node, "line_bytes")));
        assert!(cluster.figure(node, "lines") > 0);
    }
    // What is not there makes nothing go.
    let lines = || [1, 2, 3].map(|node| cluster.figure(node, "line_evictions"));
    let before = lines();
    for n in 0..300 {
        assert_eq!(cluster.get(2, &format!("none{n}")).await, None);
    }
    assert_eq!(lines(), before);
    assert!(cluster.figure(2, "copy_evictions") > 0);
    assert!((1..=20_000).contains(&cluster.figure(2, "copy_bytes")));
    assert!(cluster.figure(2, "copies") > 0);
    cluster.nodes[&3].flush(DEFAULT, None, SECOND).await.unwrap();
    assert_eq!([1, 2, 3].map(|node| cluster.figure(node, "flushes")), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn lines_that_move_and_lines_that_are_owned_are_counted() {
    let cluster = Cluster::new().await;
    cluster.show(2, &[1, 2], FOR_EVER);
    cluster.settle().await;
    for n in 0..50 {
        cluster.set(1, &format!("k{n}"), "1").await.unwrap();
    }
    cluster.show(3, &[1, 2, 3], FOR_EVER);
    cluster.settle().await;
    let out = cluster.figure(1, "lines_moved_out") + cluster.figure(2, "lines_moved_out");
    assert_eq!(cluster.figure(3, "lines_moved_in"), out);
    assert!(out > 5, "{out}");

    let owned = (0..)
        .map(|n| format!("back\0k{n}"))
        .find(|key| cluster.nodes[&1].lock().home.home_of(key).is_some_and(|home| home.node.0 == 1));
    let owned = owned.unwrap();
    cluster.get(2, &owned).await;
    cluster.set(2, &owned, "1").await.unwrap();
    assert_eq!(cluster.figure(2, "owned_writes"), 1);
    cluster.get(3, &owned).await;
    assert_eq!([cluster.figure(1, "recalls"), cluster.figure(1, "lost_lines")], [1, 0]);
    cluster.set(1, &owned, "2").await.unwrap();
    cluster.get(2, &owned).await;
    cluster.set(2, &owned, "3").await.unwrap();
    cluster.net.isolate(2);
    cluster.get(3, &owned).await;
    assert_eq!(cluster.figure(1, "lost_lines"), 1);
}
