//! Snapshots and the chunks of bodies that they name: who writes them, who may delete them.
//!
//! What is damaged by somebody else is told in `damage.rs`.

use super::*;

#[tokio::test]
async fn the_stream_is_trimmed_and_newcomers_begin_with_the_snapshot() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 200_000, ..fast() });
    let leader = leader(&cluster, None).await;
    let away = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.stop(away).await;
    let mut chunks = BTreeSet::new();
    for seq in 1..=3_000 {
        cluster.push(leader, seq, 1_000).await;
        if seq % 500 == 0 {
            chunks.extend(redis.cli(&["KEYS", "*chunk*"]).lines().map(str::to_owned));
        }
    }
    let length = || redis.cli(&["XLEN", &cluster.key()]).parse::<u64>().unwrap();
    until(|| length() < 1_000).await;
    cluster.start(away);
    cluster.caught_up(away, leader).await;
    // Heartbeats go on: between them both stand at one index. States that differ never have one image.
    tokio::time::timeout(Duration::from_secs(20), async {
        while cluster.image(away).await != cluster.image(leader).await {}
    })
    .await
    .expect("a newcomer has the same state, and the same bodies");
    // Two sets of pieces are kept, the others are gone.
    let kept: BTreeSet<String> = redis.cli(&["KEYS", "*chunk*"]).lines().map(str::to_owned).collect();
    let sets: BTreeSet<&str> = kept.iter().filter_map(|key| key.rsplit(':').nth(1)).collect();
    assert!(
        sets.len() <= 3 && chunks.iter().any(|chunk| !kept.contains(chunk)),
        "{sets:?} of {}",
        chunks.len()
    );
}

#[tokio::test]
async fn a_snapshot_writes_only_the_bodies_that_are_new_and_dead_ones_go() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 300_000, ..fast() });
    let leader = leader(&cluster, None).await;
    let chunks = || -> BTreeSet<String> {
        let keys = redis.cli(&["KEYS", "*:bodies:*"]);
        keys.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
    };
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    let index = || redis.cli(&["HGET", &pointer, "index"]).parse::<u64>().unwrap_or(0);
    let mut seq = 0;
    // Goes on until a snapshot has been taken, and tells which chunks there are then.
    let mut grow = async |cluster: &Cluster<'_>| {
        let before = index();
        while index() == before {
            seq += 1;
            cluster.push(leader, seq, 5_000).await;
        }
        chunks()
    };
    grow(&cluster).await;
    let first = grow(&cluster).await;
    let second = grow(&cluster).await;
    assert!(second.is_superset(&first) && second.len() > first.len(), "{first:?} {second:?}");
    assert!(second.len() <= first.len() + 2, "it has copied more than what is new: {first:?} {second:?}");
    assert!(seq > 90, "three snapshots came too early to show anything: {seq} messages");
    let in_memory = |node: NodeId| cluster.nodes[&node].state.bodies_in_memory();
    until(|| all().into_iter().all(|node| in_memory(node) < 350_000)).await;

    // Another node that never saw the pushes delivers everything, in order.
    for node in all().into_iter().filter(|node| *node != leader) {
        cluster.stop(node).await;
        cluster.start(node);
    }
    let other = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.caught_up(other, leader).await;
    cluster.depose(leader).await;
    let leader = conformance::leader(&cluster, Some(leader)).await;
    cluster.drain(seq, 5_000).await;

    // Nobody needs any of them now: the next snapshots take them away.
    for extra in 0..600 {
        cluster.push(leader, 1_000_000 + extra, 5_000).await;
        if extra % 20 == 0 && chunks().is_disjoint(&second) {
            return;
        }
    }
    panic!("chunks of dead bodies are still there: {:?}", chunks().intersection(&second));
}

#[tokio::test]
async fn a_deposed_leader_neither_writes_nor_deletes_chunks() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let old = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(old, seq, 5_000).await;
    }
    let at = {
        let log = cluster.log(old);
        let epoch = log.status().borrow().epoch;
        entry::Position { epoch, seq: 1, index: log.status().borrow().applied }
    };
    let pointer = format!("{{lockstep:{}:1}}:snapshot", cluster.name);
    until(|| redis.cli(&["HGET", &pointer, "index"]).parse::<u64>().is_ok_and(|index| index > 20)).await;
    let frozen = cluster.nodes[&old].state.freeze();
    cluster.depose(old).await;
    let keys = || redis.cli(&["KEYS", "*:1}*"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let new = leader(&cluster, Some(old)).await;
    until(|| cluster.nodes[&new].log.status().borrow().leading).await;
    let before = keys();
    let mut writer = cluster.writer(at.epoch);
    let everything = BTreeSet::new();
    writer.forget_others(&[], &everything).await.unwrap();
    assert!(keys().is_superset(&before), "it has deleted what the living leader needs");
    let written = cluster.writer(at.epoch).write(at, frozen, true).await.unwrap();
    assert!(matches!(written, write::Written::Superseded));
    let foreign = format!("bodies:{}-", at.epoch);
    let added: Vec<_> = keys().difference(&before).filter(|key| key.contains(&foreign)).cloned().collect();
    assert_eq!(added, Vec::<String>::new(), "it has written chunks");
    cluster.drain(60, 5_000).await;
}

/// A snapshot that counts need not be the one that the leader refers to: its writer may never have heard
/// so, or somebody has removed the pointer.
#[tokio::test]
async fn making_room_never_takes_chunks_that_the_state_refers_to() {
    let redis = RedisServer::start();
    let cluster = Cluster::new(&redis, 1, Settings { snapshot_bytes: 100_000, ..fast() });
    let leader = leader(&cluster, None).await;
    for seq in 1..=60 {
        cluster.push(leader, seq, 5_000).await;
    }
    let Node { log, state, .. } = &cluster.nodes[&leader];
    until(|| state.bodies_in_memory() < 150_000).await;
    let (epoch, index) = (log.status().borrow().epoch, log.status().borrow().applied);
    let at = entry::Position { epoch, seq: 1, index };
    redis.cli(&["DEL", &format!("{{lockstep:{}:1}}:snapshot", cluster.name)]);
    let written = cluster.writer(epoch).write(at, state.freeze(), true).await.unwrap();
    assert!(matches!(written, write::Written::Done { .. }));
    cluster.drain(60, 5_000).await;
}

#[tokio::test]
async fn a_snapshot_of_a_deposed_leader_does_not_count() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::new(&redis, 0, fast());
    let old = leader(&cluster, None).await;
    let at = {
        let log = cluster.log(old);
        let applied = log.propose(acquire(1, "a", 600_000)).await.unwrap();
        let epoch = log.status().borrow().epoch;
        entry::Position { epoch, seq: 1, index: applied.index }
    };
    cluster.depose(old).await;
    until(|| !redis.cli(&["KEYS", "*:snapshot"]).is_empty()).await;
    let pointer = format!("{{lockstep:{}:0}}:snapshot", cluster.name);
    let look = || (redis.cli(&["KEYS", "*chunk*"]), redis.cli(&["HGETALL", &pointer]));
    let before = look();
    let frozen = cluster.nodes[&old].state.freeze();
    let bodies = frozen.into_parts().1.manifest();
    let written = cluster.writer(at.epoch).point(at, "stale".into(), bodies).await.unwrap();
    assert!(matches!(written, write::Written::Superseded));
    assert_eq!(look(), before, "it has written pieces, or moved the pointer");
}
