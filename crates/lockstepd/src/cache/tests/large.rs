//! Many large values at once: no message carries more than one can.

use lockstep_core::cache::space::join;

use super::*;

const VALUES: usize = 12;
/// Far less than a frame between nodes may carry, and than all of the values are.
const MESSAGE: u64 = 20 << 20;

fn keys(cluster: &Cluster, namespace: &str) -> Vec<Key> {
    let is_home = |key: &Key| cluster.nodes[&1].lock().home.home_of(key).unwrap().node.0 == 1;
    (0..).map(|n| join(namespace, &format!("k{n}"))).filter(is_home).take(VALUES).collect()
}

async fn all_at(cluster: &Cluster, node: u64, keys: &[Key]) -> usize {
    let read = cluster.nodes[&node].get_many(keys, 20 * SECOND).await;
    read.into_iter().filter(|entry| entry.as_ref().unwrap().is_some()).count()
}

#[tokio::test(start_paused = true)]
async fn values_that_do_not_fit_one_answer_come_with_further_ones() {
    let cluster = Cluster::new().await;
    let keys = keys(&cluster, DEFAULT);
    let big = "x".repeat(2 << 20);
    for key in &keys {
        cluster.set(1, key, &big).await.unwrap();
    }
    assert_eq!(all_at(&cluster, 2, &keys).await, VALUES);
    assert!(cluster.net.largest.load(Ordering::Relaxed) < MESSAGE);
}

#[tokio::test(start_paused = true)]
async fn recalls_whose_values_do_not_fit_one_answer_are_repeated_and_lose_nothing() {
    let cluster = Cluster::new().await;
    let keys = keys(&cluster, "back");
    let big = "x".repeat(2 << 20);
    for key in &keys {
        cluster.get(2, key).await;
        cluster.set(2, key, &big).await.unwrap();
        assert_eq!(cluster.nodes[&2].get_local(key).unwrap().state, 'M');
    }
    assert_eq!(all_at(&cluster, 3, &keys).await, VALUES);
    assert!(cluster.net.largest.load(Ordering::Relaxed) < MESSAGE);
    assert_eq!(cluster.figure(1, "lost_lines"), 0);
}
