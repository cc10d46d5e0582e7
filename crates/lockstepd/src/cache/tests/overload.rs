//! A home at which too many wait says so at once, whoever asks.

use futures::future::join_all;

use super::*;

const WAITING: usize = 4;

async fn cluster() -> Cluster {
    Cluster::with(FOR_EVER, Limits { waiting_max: WAITING, ..Limits::default() }).await
}

#[tokio::test(start_paused = true)]
async fn writes_that_others_forward_beyond_the_bound_are_refused_at_once_and_the_rest_is_done() {
    let cluster = cluster().await;
    let key = cluster.key_at(1);
    cluster.set(1, &key, "0").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.isolate(2);
    for writer in [3, 1] {
        let began = cluster.clock.now();
        let flood = (0..10).map(|n| {
            let (cluster, key) = (&cluster, &key);
            async move { (cluster.set(writer, key, &n.to_string()).await, cluster.clock.now() - began) }
        });
        let done = join_all(flood).await;
        let (refused, accepted): (Vec<_>, Vec<_>) =
            done.into_iter().partition(|(outcome, _)| *outcome == Err(Error::Overloaded));
        assert!(accepted.iter().all(|(outcome, _)| outcome.is_ok()), "{accepted:?}");
        if writer == 3 {
            assert_eq!((accepted.len(), refused.len()), (WAITING, 10 - WAITING));
            assert!(accepted[0].1 > SECOND, "they waited for the sharer");
        }
        assert!(refused.iter().all(|(_, took)| *took < Duration::from_millis(20)), "{refused:?}");
    }
    assert!(cluster.set(3, &key, "after").await.is_ok());
}

/// A key at the same home as [`Cluster::key_at`] of 1, and another one.
fn another(cluster: &Cluster) -> Key {
    let is_there =
        |key: &String| cluster.nodes[&1].lock().home.home_of(key).is_some_and(|home| home.node.0 == 1);
    Key::from((0..).map(|n| format!("x{n}")).find(is_there).unwrap())
}

#[tokio::test(start_paused = true)]
async fn reads_beyond_the_bound_are_refused_as_well_and_loads_have_places_of_their_own() {
    let cluster = cluster().await;
    let (key, other) = (cluster.key_at(1), another(&cluster));
    cluster.set(1, &key, "0").await.unwrap();
    cluster.get(2, &key).await;
    cluster.net.cut(1, 2);
    let writes = join_all((0..WAITING).map(|_| cluster.set(3, &key, "a")));
    let reads = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = cluster.clock.now();
        let mut refused = vec![cluster.nodes[&3].get(&other, false, SECOND).await.unwrap_err()];
        refused.push(cluster.nodes[&3].get(&other, true, SECOND).await.unwrap_err());
        let many = cluster.nodes[&3].get_many(std::slice::from_ref(&other), SECOND).await;
        refused.extend(many.into_iter().map(Result::unwrap_err));
        assert_eq!(cluster.clock.now() - began, Duration::from_millis(6), "at once, every time");
        let load = cluster.nodes[&3].load(other.clone(), Millis(1_000), Duration::ZERO, SECOND).await;
        assert!(matches!(load, Ok(Loaded::Fill { .. })), "{load:?}");
        refused
    };
    let (writes, reads) = tokio::join!(writes, reads);
    assert!(writes.iter().all(Result::is_ok), "{writes:?}");
    assert_eq!(reads, vec![Error::Overloaded; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_stampede_of_loads_is_bounded_and_refuses_no_read_and_no_write() {
    let cluster = cluster().await;
    let (key, other) = (cluster.key_at(1), another(&cluster));
    let load = |node: u64| cluster.nodes[&node].load(key.as_str().into(), Millis(1_000), SECOND, SECOND);
    assert!(matches!(load(1).await, Ok(Loaded::Fill { .. })));
    let clock = &cluster.clock;
    let began = clock.now();
    let loads = (0..8).map(|n| load(1 + n % 3)).map(async |load| (load.await, clock.now() - began));
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for node in [1, 3] {
            assert!(cluster.set(node, &other, "a").await.is_ok(), "a write at {node}");
            assert!(cluster.nodes[&node].get(&other, true, SECOND).await.is_ok(), "a read at {node}");
        }
    };
    let (loads, ()) = tokio::join!(join_all(loads), others);
    let refused = loads.iter().filter(|(load, _)| *load == Err(Error::Overloaded));
    assert!(refused.clone().all(|(_, took)| *took < Duration::from_millis(20)));
    assert_eq!(refused.count(), 8 - WAITING);
}

#[tokio::test(start_paused = true)]
async fn a_right_to_fill_passes_over_thousands_who_have_gone() {
    let cluster = Cluster::new().await;
    let (key, node) = (Key::from(cluster.key_at(1)), &cluster.nodes[&1]);
    let load = |wait| node.load(key.clone(), Millis(1_000), wait, SECOND);
    assert!(matches!(load(Duration::ZERO).await, Ok(Loaded::Fill { .. })));
    let mut gone: Vec<_> = (0..10_000).map(|_| Box::pin(load(60 * SECOND))).collect();
    for waiting in &mut gone {
        assert!(futures::poll!(waiting).is_pending());
    }
    let mut live = Box::pin(load(60 * SECOND));
    assert!(futures::poll!(&mut live).is_pending());
    drop(gone);
    let begun = tokio::time::Instant::now();
    assert!(matches!(live.await, Ok(Loaded::Fill { .. })));
    assert!(begun.elapsed() < 2 * SECOND, "it waited {:?}", begun.elapsed());
    assert_eq!(node.lock().parked.waiting(), 0, "nobody is left behind");
}
