//! Three replicas in one process, over a network that tests can cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::command::{NewMessage, QueueOp};
use lockstep_core::names::{NodeId, QueueName, ShardId};
use lockstep_core::{Command, Op, Shard};

use super::*;
use crate::log::conformance::{self, LONG, acquire, all, command, settings, token};
use crate::peer::{self, Lane, Service};
use crate::store::wal::MemoryDisk;

/// Calls handlers directly, unless the link is cut.
#[derive(Default)]
struct Wires {
    handlers: Mutex<BTreeMap<NodeId, Arc<dyn Handler>>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

struct End {
    node: NodeId,
    wires: Arc<Wires>,
}

#[async_trait]
impl Peers for End {
    async fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        _service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, peer::Error> {
        let cut = |from, to| self.wires.cut.lock().unwrap().contains(&(from, to));
        let handler =
            self.wires.handlers.lock().unwrap().get(&to).cloned().ok_or(peer::Error::Unreachable)?;
        if cut(self.node, to) {
            return Err(peer::Error::Unreachable);
        }
        let answer = tokio::time::timeout(deadline, handler.handle(self.node, payload)).await;
        if cut(to, self.node) {
            return Err(peer::Error::NoAnswer);
        }
        answer.unwrap_or(Err(peer::Error::NoAnswer))
    }
}

struct Node {
    groups: Groups,
    log: Arc<RaftLog>,
    state: Arc<State>,
}

struct Cluster {
    shard: ShardId,
    settings: Settings,
    limits: lockstep_core::shard::Settings,
    wires: Arc<Wires>,
    disks: BTreeMap<NodeId, (MemoryDisk, Snapshots)>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    async fn new(shard: ShardId, settings: Settings) -> Self {
        Self::with(shard, settings, self::settings()).await
    }

    /// One member, which nobody joins.
    async fn alone(shard: ShardId) -> Self {
        let only = NodeId(1);
        let disks = BTreeMap::from([(only, (MemoryDisk::default(), Snapshots::memory()))]);
        let (settings, limits) = (Settings::default(), self::settings());
        let mut cluster =
            Self { shard, settings, limits, wires: Arc::default(), disks, nodes: BTreeMap::new() };
        cluster.start(only).await;
        cluster.log(only).initialize(&BTreeSet::from([only])).await.unwrap();
        cluster
    }

    async fn with(shard: ShardId, settings: Settings, limits: lockstep_core::shard::Settings) -> Self {
        let disks =
            all().into_iter().map(|node| (node, (MemoryDisk::default(), Snapshots::memory()))).collect();
        let wires = Arc::default();
        let mut cluster = Self { shard, settings, limits, wires, disks, nodes: BTreeMap::new() };
        for node in all() {
            cluster.start(node).await;
        }
        cluster.nodes[&NodeId(1)].log.initialize(&all()).await.unwrap();
        cluster
    }

    async fn start(&mut self, node: NodeId) {
        self.try_start(node).await.unwrap();
    }

    async fn try_start(&mut self, node: NodeId) -> Result<(), Error> {
        let (disk, snapshots) = self.disks[&node].clone();
        let peers = Arc::new(End { node, wires: Arc::clone(&self.wires) });
        let groups = Groups::new(
            self.settings.clone(),
            node,
            Wal::memory(&disk),
            snapshots,
            Space::new(),
            peers,
            Clock::tokio(),
        );
        self.wires.handlers.lock().unwrap().insert(node, groups.handler());
        let bodies = self.disks[&node].1.bodies(self.shard).unwrap();
        let state = State::with_bodies(self.shard, self.limits, bodies);
        let log = groups.start(self.shard, Arc::clone(&state)).await?;
        self.nodes.insert(node, Node { groups, log, state });
        Ok(())
    }

    async fn stop(&mut self, node: NodeId) {
        self.wires.handlers.lock().unwrap().remove(&node);
        if let Some(node) = self.nodes.remove(&node) {
            node.groups.shutdown().await;
        }
    }

    /// The node that leads, other than `not`.
    async fn leader(&self, not: Option<NodeId>) -> NodeId {
        tokio::time::timeout(LONG, async {
            loop {
                let leads = |(id, node): (&NodeId, &Node)| {
                    (node.log.status().borrow().leading && Some(*id) != not).then_some(*id)
                };
                if let Some(leader) = self.nodes.iter().find_map(leads) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("somebody leads")
    }

    async fn caught_up(&self, node: NodeId, with: NodeId) {
        tokio::time::timeout(LONG, async {
            let applied = |node: &NodeId| self.nodes[node].state.read(Shard::applied);
            while applied(&node) < applied(&with) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("it catches up");
    }

    fn assert_same(&self, one: NodeId, other: NodeId) {
        let image = |node: NodeId| self.nodes[&node].state.snapshot().unwrap().1;
        assert!(image(one) == image(other), "replicas differ");
    }

    fn log(&self, node: NodeId) -> &RaftLog {
        &self.nodes[&node].log
    }
}

fn push(seq: u64, bytes: usize) -> Command {
    let message = NewMessage { body: vec![7; bytes].into(), ..NewMessage::default() };
    command(seq, Op::Queue(QueueOp::Push { queue: QueueName("q".into()), messages: vec![message] }))
}

#[async_trait]
impl conformance::Cluster for Cluster {
    fn log(&self, node: NodeId) -> Arc<dyn Log> {
        self.nodes[&node].log.clone()
    }

    fn state(&self, node: NodeId) -> Arc<State> {
        Arc::clone(&self.nodes[&node].state)
    }

    async fn depose(&mut self, leader: NodeId) {
        let cut = all()
            .into_iter()
            .filter(|node| *node != leader)
            .flat_map(|node| [(leader, node), (node, leader)]);
        self.wires.cut.lock().unwrap().extend(cut);
    }

    async fn restart(&mut self) {
        for node in all() {
            self.stop(node).await;
        }
        for node in all() {
            self.start(node).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_raft_driver_conforms() {
    conformance::everything(|| Cluster::new(ShardId(0), Settings::default())).await;
}

#[tokio::test(start_paused = true)]
async fn proposals_that_wait_share_entries() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    let log = cluster.log(leader);
    let proposals = (1..=500).map(|n| log.propose(acquire(n, &format!("lock {n}"), 60_000)));
    let replies = futures::future::join_all(proposals).await;
    let tokens: Vec<_> = replies.iter().map(|reply| token(&reply.as_ref().unwrap().reply)).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    let entries: BTreeSet<_> = replies.iter().map(|reply| reply.as_ref().unwrap().index).collect();
    assert!(entries.len() < 100, "500 commands took {} entries", entries.len());
    for node in all() {
        cluster.caught_up(node, leader).await;
    }
    let snapshots: BTreeSet<_> =
        cluster.nodes.values().map(|node| node.state.snapshot().unwrap().1).collect();
    assert_eq!(snapshots.len(), 1, "replicas differ");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_alone_leads_for_as_long_as_it_lives() {
    let cluster = Cluster::alone(ShardId(0)).await;
    let log = cluster.log(NodeId(1));
    log.status().wait_for(|status| status.leading).await.unwrap();
    let lost = async { log.status().wait_for(|status| !status.leading).await.map(drop) };
    assert!(tokio::time::timeout(LONG, lost).await.is_err(), "it no longer leads");
    log.propose(acquire(1, "a", 600_000)).await.unwrap();
    log.barrier().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_acknowledges_nothing_and_the_others_go_on() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let old = cluster.leader(None).await;
    let before = token(&cluster.log(old).propose(acquire(1, "a", 600_000)).await.unwrap().reply);
    for other in all().into_iter().filter(|node| *node != old) {
        cluster.wires.cut.lock().unwrap().extend([(old, other), (other, old)]);
    }
    let orphan =
        tokio::time::timeout(Duration::from_secs(30), cluster.log(old).propose(acquire(2, "b", 600_000)));
    let (orphan, new) = tokio::join!(orphan, cluster.leader(Some(old)));
    assert!(!matches!(orphan, Ok(Ok(_))), "acknowledged without a majority: {orphan:?}");
    assert!(!cluster.log(old).status().borrow().leading);
    assert!(cluster.log(old).barrier().await.is_err(), "a read point without a majority");
    let after = token(&cluster.log(new).propose(acquire(3, "b", 600_000)).await.unwrap().reply);
    assert!(after > before + (1 << 19), "a new reign counts on far above the old one");
    cluster.wires.cut.lock().unwrap().clear();
    cluster.caught_up(old, new).await;
    let same = |node: NodeId| cluster.nodes[&node].state.read(Shard::snapshot);
    assert_eq!(same(old), same(new));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_catches_up_by_log_and_by_snapshot() {
    let settings = Settings { snapshot_bytes: 200_000, ..Settings::default() };
    for (pushes, by_snapshot) in [(20, false), (1_500, true)] {
        let mut cluster = Cluster::new(ShardId(1), settings.clone()).await;
        let leader = cluster.leader(None).await;
        let away = all().into_iter().find(|node| *node != leader).unwrap();
        cluster.stop(away).await;
        for seq in 1..=pushes {
            cluster.log(leader).propose(push(seq, 1_000)).await.unwrap();
        }
        if by_snapshot {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let first = cluster.disks[&leader].0.first_index(cluster.shard);
            assert!(first > 1_000, "the log still begins at {first}");
        }
        cluster.start(away).await;
        cluster.caught_up(away, leader).await;
        cluster.assert_same(away, leader);
        // And what it was sent lasts.
        cluster.stop(away).await;
        cluster.start(away).await;
        cluster.caught_up(away, leader).await;
        cluster.assert_same(away, leader);
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    let other = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.log(leader).propose(acquire(1, "a", 60_000)).await.unwrap();
    cluster.caught_up(other, leader).await;
    cluster.log(leader).hand_over(other).await;
    assert_eq!(cluster.leader(Some(leader)).await, other);
}

#[tokio::test(start_paused = true)]
async fn a_purged_log_without_its_snapshot_is_refused() {
    let settings = Settings { snapshot_bytes: 100_000, ..Settings::default() };
    let mut cluster = Cluster::new(ShardId(1), settings).await;
    let leader = cluster.leader(None).await;
    for seq in 1..=800 {
        cluster.log(leader).propose(push(seq, 1_000)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.disks[&leader].0.first_index(cluster.shard) > 0, "nothing was purged");
    cluster.stop(leader).await;
    cluster.disks.get_mut(&leader).unwrap().1 = Snapshots::memory();
    let refused = cluster.try_start(leader).await.unwrap_err().to_string();
    assert!(refused.contains("snapshot") && refused.contains("missing"), "{refused}");
}

#[tokio::test]
async fn a_log_with_a_hole_is_refused() {
    use crate::store::wal::Record;
    for (purged, first) in [(None, 3), (Some(3), 5)] {
        let disk = MemoryDisk::default();
        let wal = Wal::memory(&disk);
        let id = |index| {
            let leader = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 };
            types::LogId::new(openraft::vote::RaftLeaderId::to_committed(&leader), index)
        };
        let entry = types::Entry { log_id: id(first), payload: openraft::EntryPayload::Blank };
        let mark = purged.map(|index| Record::Purge(index, types::encode(&id(index))));
        let records = mark.into_iter().chain([Record::Entry(first, types::encode(&entry))]).collect();
        wal.append(ShardId(1), records, Box::new(|| ()));
        let refused =
            storage::Storage::open(ShardId(1), Wal::memory(&disk), 1 << 20).err().unwrap().to_string();
        assert!(refused.contains("missing"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_limits_never_undo_what_was_acknowledged_under_the_old_ones() {
    let mut cluster = Cluster::new(ShardId(1), Settings::default()).await;
    let before = cluster.leader(None).await;
    for seq in 1..=5 {
        let pushed = cluster.log(before).propose(push(seq, 10)).await.unwrap().reply;
        assert!(matches!(pushed, lockstep_core::Reply::Pushed(_)), "{pushed:?}");
    }
    // Every node is told something else, and reads its whole log again.
    for node in all() {
        cluster.stop(node).await;
    }
    for node in all() {
        cluster.limits.messages_max = node.0;
        cluster.start(node).await;
    }
    let leader = cluster.leader(None).await;
    let refused = cluster.log(leader).propose(push(6, 10)).await.unwrap().reply;
    assert_eq!(refused, lockstep_core::Reply::Refused(lockstep_core::Refusal::QueueFull));
    for node in all() {
        cluster.caught_up(node, leader).await;
        cluster.assert_same(node, leader);
        let view = cluster.nodes[&node]
            .state
            .read(|shard| shard.query(&lockstep_core::query::Query::Queue { queue: QueueName("q".into()) }));
        let lockstep_core::query::Answer::Queue(view) = view else { panic!("{view:?}") };
        assert_eq!(view.ready, 5, "at node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn log_time_keeps_up_where_elections_are_short() {
    let limits = lockstep_core::shard::Settings { max_step: lockstep_core::Millis(200), ..settings() };
    let cluster = Cluster::with(ShardId(0), Settings::default(), limits).await;
    conformance::leases_end_by_log_time_without_any_request(&cluster).await;
}
