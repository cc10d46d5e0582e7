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

#[tokio::test(start_paused = true)]
async fn loads_and_reads_beyond_the_bound_are_refused_as_well() {
    let cluster = cluster().await;
    let key = cluster.key_at(1);
    let load = |node: u64| cluster.nodes[&node].load(key.as_str().into(), Millis(1_000), SECOND, SECOND);
    assert!(matches!(load(1).await, Ok(Loaded::Fill { .. })));
    let clock = &cluster.clock;
    let began = clock.now();
    let loads = (0..8).map(|n| load(1 + n % 3)).map(async |load| (load.await, clock.now() - began));
    let reads = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut refused = Vec::new();
        let other = (0..)
            .map(|n| format!("x{n}"))
            .find(|key| cluster.nodes[&1].lock().home.home_of(key).is_some_and(|home| home.node.0 == 1));
        let other = Key::from(other.unwrap());
        refused.push(cluster.nodes[&2].get(&other, false, SECOND).await.unwrap_err());
        refused.push(cluster.nodes[&2].get(&other, true, SECOND).await.unwrap_err());
        refused
            .extend(cluster.nodes[&3].get_many(&[other], SECOND).await.into_iter().map(Result::unwrap_err));
        assert_eq!(cluster.clock.now() - began, Duration::from_millis(106), "at once, every time");
        refused
    };
    let (loads, reads) = tokio::join!(join_all(loads), reads);
    assert_eq!(reads, vec![Error::Overloaded; 3]);
    let refused = loads.iter().filter(|(load, _)| *load == Err(Error::Overloaded));
    assert!(refused.clone().all(|(_, took)| *took < Duration::from_millis(20)));
    assert_eq!(refused.count(), 8 - WAITING);
}
