//! Three replicas in one process, over a network that tests can cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::command::{Attempt, LockOp, Mode, NewMessage, QueueOp, RequestKey};
use lockstep_core::names::{Incarnation, LockName, NodeId, Origin, Owner, QueueName, ShardId};
use lockstep_core::shard::Settings as ShardSettings;
use lockstep_core::{Command, Millis, Op, Reply, Shard};

use super::*;
use crate::peer::{self, Lane, Service};
use crate::store::wal::MemoryDisk;

const LONG: Duration = Duration::from_secs(60);

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
    wires: Arc<Wires>,
    disks: BTreeMap<NodeId, (MemoryDisk, Snapshots)>,
    nodes: BTreeMap<NodeId, Node>,
}

fn shard_settings() -> ShardSettings {
    ShardSettings {
        max_step: Millis(2_000),
        memo_max: 1_000,
        waiters_max: 100,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
    }
}

fn all() -> BTreeSet<NodeId> {
    [1, 2, 3].map(NodeId).into()
}

impl Cluster {
    async fn new(shard: ShardId, settings: Settings) -> Self {
        let disks =
            all().into_iter().map(|node| (node, (MemoryDisk::default(), Snapshots::memory()))).collect();
        let mut cluster = Self { shard, settings, wires: Arc::default(), disks, nodes: BTreeMap::new() };
        for node in all() {
            cluster.start(node).await;
        }
        cluster.nodes[&NodeId(1)].log.initialize(&all()).await.unwrap();
        cluster
    }

    async fn start(&mut self, node: NodeId) {
        let (disk, snapshots) = self.disks[&node].clone();
        let peers = Arc::new(End { node, wires: Arc::clone(&self.wires) });
        let groups =
            Groups::new(self.settings.clone(), node, Wal::memory(&disk), snapshots, peers, Clock::tokio());
        self.wires.handlers.lock().unwrap().insert(node, groups.handler());
        let state = State::new(self.shard, shard_settings());
        let log = groups.start(self.shard, Arc::clone(&state)).await.unwrap();
        self.nodes.insert(node, Node { groups, log, state });
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
        let image = |node: NodeId| self.nodes[&node].state.snapshot().1;
        assert!(image(one) == image(other), "replicas differ");
    }

    fn log(&self, node: NodeId) -> &RaftLog {
        &self.nodes[&node].log
    }
}

fn command(seq: u64, op: Op) -> Command {
    let request = RequestKey::Node { origin: origin(), seq, settled_below: seq };
    Command { request, not_after: Millis(60_000), op }
}

fn origin() -> Origin {
    Origin { node: NodeId(9), incarnation: Incarnation(1) }
}

fn acquire(seq: u64, name: &str, ttl: u64) -> Command {
    let op = LockOp::Acquire {
        name: LockName(name.into()),
        owner: Owner("owner".into()),
        mode: Mode::Exclusive,
        ttl: Millis(ttl),
        wait: Millis(0),
        attempt: Attempt { origin: origin(), number: seq },
    };
    command(seq, Op::Lock(op))
}

fn push(seq: u64, bytes: usize) -> Command {
    let message = NewMessage { key: None, body: vec![7; bytes].into(), delay: Millis(0), enqueued_at: 0 };
    command(seq, Op::Queue(QueueOp::Push { queue: QueueName("q".into()), messages: vec![message] }))
}

fn token(reply: &Reply) -> u64 {
    match reply {
        Reply::Granted(grant) => grant.token.0,
        other => panic!("not granted: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn proposals_are_applied_once_in_order_and_answered_each() {
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
    let snapshots: BTreeSet<_> = cluster.nodes.values().map(|node| node.state.snapshot().1).collect();
    assert_eq!(snapshots.len(), 1, "replicas differ");
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    let follower = all().into_iter().find(|node| *node != leader).unwrap();
    cluster.log(leader).propose(acquire(1, "a", 1_000)).await.unwrap();
    cluster.caught_up(follower, leader).await;
    let refused = cluster.log(follower).propose(acquire(2, "b", 1_000)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { hint: Some(leader) }));
    assert_eq!(cluster.log(follower).barrier().await, Err(BarrierError::NotLeader { hint: Some(leader) }));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_covers_what_was_acknowledged() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    for n in 1..20 {
        let applied = cluster.log(leader).propose(acquire(n, &format!("{n}"), 60_000)).await.unwrap();
        assert!(cluster.log(leader).barrier().await.unwrap() >= applied.index);
    }
}

#[tokio::test(start_paused = true)]
async fn leases_end_by_log_time_without_any_request() {
    let cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    cluster.log(leader).propose(acquire(1, "a", 5_000)).await.unwrap();
    let state = &cluster.nodes[&leader].state;
    let begun = tokio::time::Instant::now();
    while state.next_deadline().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < LONG, "the lease never ends");
    }
    let took = begun.elapsed();
    assert!((4_900..5_500).contains(&took.as_millis()), "a lease of 5 s ended after {took:?}");
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
async fn a_restart_of_all_keeps_everything() {
    let mut cluster = Cluster::new(ShardId(0), Settings::default()).await;
    let leader = cluster.leader(None).await;
    let before = token(&cluster.log(leader).propose(acquire(1, "kept", 600_000)).await.unwrap().reply);
    for node in all() {
        cluster.stop(node).await;
    }
    for node in all() {
        cluster.start(node).await;
    }
    let leader = cluster.leader(None).await;
    assert!(cluster.log(leader).was_formed());
    let again = cluster.log(leader).propose(acquire(2, "kept", 600_000)).await.unwrap();
    assert_eq!(token(&again.reply), before, "the same owner still holds it");
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
