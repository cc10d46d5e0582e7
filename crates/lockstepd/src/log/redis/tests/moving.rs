//! Reading a stopped cluster's logs, and writing them where none are.
//!
//! The file between the two, and whole nodes before and after, are tested elsewhere.

use super::*;

fn offline(redis: &RedisServer, name: &str) -> Address {
    Address::parse(&format!("{}?name={name}", redis.url())).unwrap()
}

#[tokio::test]
async fn an_export_notices_a_lost_tail_and_a_lost_chunk() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let first = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(first, seq, 5_000).await;
    }
    until(|| cluster.nodes[&first].state.bodies_in_memory() < 150_000).await;
    for node in all() {
        cluster.stop(node).await;
    }
    let store = Offline::open(offline(&redis, &cluster.name)).await.unwrap();
    store.read(ShardId(1)).await.unwrap();
    let chunk = cluster.chunks().remove(0);
    redis.cli(&["RENAME", &chunk, "elsewhere"]);
    let said = store.read(ShardId(1)).await.err().unwrap().to_string();
    assert!(said.contains(&chunk) && said.contains("somebody deleted or changed keys"), "{said}");
    redis.cli(&["RENAME", "elsewhere", &chunk]);
    redis.cli(&["XTRIM", &cluster.key(), "MAXLEN", "0"]);
    let said = store.read(ShardId(1)).await.err().unwrap().to_string();
    assert!(said.contains("is gone or empty"), "{said}");
}

#[tokio::test]
async fn an_import_that_was_interrupted_is_begun_again_on_request_and_nothing_else_is_touched() {
    let redis = RedisServer::start();
    let mut source = Cluster::new(&redis, 1, fast());
    let first = leader(&source, None).await;
    source.push(first, 1, 5_000).await;
    until(|| source.keys().iter().any(|key| key.ends_with(":snapshot"))).await;
    for node in all() {
        source.stop(node).await;
    }
    let frozen = || async {
        Offline::open(offline(&redis, &source.name)).await.unwrap().read(ShardId(1)).await.unwrap()
    };
    let (core, image) = frozen().await.into_parts();
    let bodies = tokio::task::spawn_blocking(move || image.all()).await.unwrap().unwrap();
    let core = core.snapshot();
    let cluster = home::Cluster::new("1".repeat(32), 1, BTreeSet::from([1, 2, 3]));
    let store = Offline::open(offline(&redis, "target")).await.unwrap();
    let write = async || {
        let mut bodies = bodies.iter().map(|(id, body)| (MessageId(*id), body.clone()));
        store.write(ShardId(1), core.clone(), || Ok(bodies.next())).await
    };
    store.begin(&cluster, false).await.unwrap();
    write().await.unwrap();
    let keys = || redis.cli(&["KEYS", "*target*"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let left = keys();

    // It ends here. Nobody takes what it left for a cluster, or writes over it unasked.
    let home = Home::new(Server::new(offline(&redis, "target")).unwrap(), NodeId(1));
    let node = home.join(&cluster.members, None, 1).await.unwrap_err().to_string();
    assert!(node.contains("has not come to its end") && node.contains("--restart"), "{node}");
    let again = store.begin(&cluster, false).await.unwrap_err().to_string();
    assert!(again.contains("--restart"), "{again}");
    assert_eq!(keys(), left);

    store.begin(&cluster, true).await.unwrap();
    assert_eq!(keys(), BTreeSet::from(["lockstep:target:import".to_owned()]));
    write().await.unwrap();
    store.finish(&cluster).await.unwrap();
    assert!(!keys().contains("lockstep:target:import"));
    assert_eq!(home.join(&cluster.members, None, 1).await.unwrap(), cluster);
    let there = store.begin(&cluster, true).await.unwrap_err().to_string();
    assert!(there.contains("there is a cluster"), "{there}");

    // Not even where the record is gone and a mark is there: nodes have written since.
    redis.cli(&["DEL", &format!("lockstep:{}:cluster", source.name)]);
    let marked = serde_json::to_string(&cluster).unwrap();
    redis.cli(&["SET", &format!("lockstep:{}:import", source.name), &marked]);
    let source_keys = source.keys();
    let store = Offline::open(offline(&redis, &source.name)).await.unwrap();
    let kept = store.begin(&cluster, true).await.unwrap_err().to_string();
    assert!(kept.contains("holds more than an import has left there"), "{kept}");
    assert_eq!(source.keys(), source_keys);
}
