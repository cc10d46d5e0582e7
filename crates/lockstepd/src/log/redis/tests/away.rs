//! A Redis that does not answer, or not in time.
//!
//! Whole nodes under it are tested as processes.

use super::*;

#[tokio::test]
async fn a_redis_that_is_away_refuses_quickly_and_everything_goes_on_when_it_is_back() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 0, fast());
    let first = leader(&cluster, None).await;
    let kept = cluster.log(first).propose(acquire(1, "kept", 600_000)).await.unwrap();
    redis.kill();
    let away = |node: NodeId| cluster.nodes[&node].log.status().borrow().away.is_some();
    until(|| all().into_iter().all(away)).await;
    let begun = tokio::time::Instant::now();
    for node in all() {
        assert_eq!(cluster.log(node).propose(acquire(2, "x", 1_000)).await, Err(ProposeError::Away));
        assert_eq!(cluster.log(node).barrier().await, Err(BarrierError::Away));
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "refusing took {:?}", begun.elapsed());
    redis.run();
    until(|| !all().into_iter().any(away)).await;
    let leader = leader(&cluster, None).await;
    let again = cluster.log(leader).propose(acquire(3, "kept", 600_000)).await.unwrap();
    assert_eq!(token(&again.reply), token(&kept.reply), "what was acknowledged is still there");
}
