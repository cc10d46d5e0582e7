//! What every driver must do, whatever it is made of: one suite, run on each.
//!
//! A driver brings a [`Cluster`] of three members; what only one driver can do is tested beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_core::command::{Acquire, Attempt, LockOp, RequestKey};
use lockstep_core::names::{Incarnation, LockName, NodeId, Origin, Owner, ShardId};
use lockstep_core::shard::Settings;
use lockstep_core::{Command, Millis, Op, Reply, Shard};

use super::{BarrierError, Log, ProposeError};
use crate::state::State;

pub(super) const LONG: Duration = Duration::from_secs(60);

/// Three members of shard 0.
#[async_trait]
pub(super) trait Cluster {
    fn log(&self, node: NodeId) -> Arc<dyn Log>;
    fn state(&self, node: NodeId) -> Arc<State>;
    /// Takes the leader's reign away.
    async fn depose(&mut self, leader: NodeId);
    /// Stops all members and starts them again from what they keep.
    async fn restart(&mut self);
    /// Lets a driver without a task of its own write log time down.
    fn tick(&self) {}
}

/// Everything, on fresh clusters.
pub(super) async fn everything<C: Cluster, F: Future<Output = C>>(new: impl Fn() -> F) {
    proposals_are_applied_once_in_order_and_answered_each(&new().await).await;
    a_follower_refuses_and_names_the_leader(&new().await).await;
    a_barrier_covers_what_was_acknowledged(&new().await).await;
    a_request_that_is_proposed_twice_is_done_once(&new().await).await;
    leases_end_by_log_time_without_any_request(&new().await).await;
    a_new_reign_counts_on_far_above_the_old_one(new().await).await;
    a_restart_of_all_keeps_everything(new().await).await;
}

async fn proposals_are_applied_once_in_order_and_answered_each(cluster: &impl Cluster) {
    let log = cluster.log(leader(cluster, None).await);
    let proposals = (1..=200).map(|n| log.propose(acquire(n, &format!("lock {n}"), 60_000)));
    let replies = futures::future::join_all(proposals).await;
    let tokens: Vec<_> = replies.iter().map(|reply| token(&reply.as_ref().unwrap().reply)).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    let last = replies.last().unwrap().as_ref().unwrap().index;
    for node in all() {
        until(|| cluster.state(node).read(Shard::applied) >= last).await;
    }
    // Heartbeats go on: between them all stand at one index. Replicas that differ never have one image.
    let images = || -> BTreeSet<_> {
        all().into_iter().map(|node| cluster.state(node).read(Shard::snapshot)).collect()
    };
    until(|| images().len() == 1).await;
}

async fn a_follower_refuses_and_names_the_leader(cluster: &impl Cluster) {
    let leader = leader(cluster, None).await;
    let follower = all().into_iter().find(|node| *node != leader).unwrap();
    until(|| cluster.log(follower).status().borrow().leader == Some(leader)).await;
    let refused = cluster.log(follower).propose(acquire(2, "b", 1_000)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { hint: Some(leader) }));
    let refused = cluster.log(follower).barrier().await;
    assert_eq!(refused, Err(BarrierError::NotLeader { hint: Some(leader) }));
}

async fn a_barrier_covers_what_was_acknowledged(cluster: &impl Cluster) {
    let leader = leader(cluster, None).await;
    for n in 1..20 {
        let applied = cluster.log(leader).propose(acquire(n, &format!("{n}"), 60_000)).await.unwrap();
        assert!(cluster.log(leader).barrier().await.unwrap() >= applied.index);
        assert!(cluster.state(leader).read(Shard::applied) >= applied.index);
    }
}

async fn a_request_that_is_proposed_twice_is_done_once(cluster: &impl Cluster) {
    let log = cluster.log(leader(cluster, None).await);
    let first = log.propose(acquire(1, "a", 60_000)).await.unwrap();
    let again = log.propose(acquire(1, "a", 60_000)).await.unwrap();
    assert_eq!(token(&first.reply), token(&again.reply));
    assert_eq!(token(&log.propose(acquire(2, "b", 60_000)).await.unwrap().reply), token(&first.reply) + 1);
}

pub(super) async fn leases_end_by_log_time_without_any_request(cluster: &impl Cluster) {
    let leader = leader(cluster, None).await;
    cluster.log(leader).propose(acquire(1, "a", 5_000)).await.unwrap();
    let begun = tokio::time::Instant::now();
    until(|| {
        cluster.tick();
        cluster.state(leader).next_deadline().is_none()
    })
    .await;
    let took = begun.elapsed().as_millis();
    assert!((4_900..5_600).contains(&took), "a lease of 5 s ended after {took} ms");
}

async fn a_new_reign_counts_on_far_above_the_old_one(mut cluster: impl Cluster) {
    let old = leader(&cluster, None).await;
    let before = cluster.log(old).propose(acquire(1, "a", 600_000)).await.unwrap();
    let now = cluster.state(old).read(Shard::now);
    cluster.depose(old).await;
    let new = leader(&cluster, Some(old)).await;
    let after = cluster.log(new).propose(acquire(2, "b", 600_000)).await.unwrap();
    assert!(token(&after.reply) > token(&before.reply) + (1 << 19));
    assert!(cluster.state(new).read(Shard::now) >= now, "log time went back");
    assert!(cluster.log(new).status().borrow().epoch > lockstep_core::Epoch(1));
}

async fn a_restart_of_all_keeps_everything(mut cluster: impl Cluster) {
    let log = cluster.log(leader(&cluster, None).await);
    let before = log.propose(acquire(1, "kept", 600_000)).await.unwrap();
    drop(log);
    cluster.restart().await;
    let log = cluster.log(leader(&cluster, None).await);
    let again = log.propose(acquire(2, "kept", 600_000)).await.unwrap();
    assert_eq!(token(&again.reply), token(&before.reply), "the same owner still holds it");
}

/// The node that leads, other than `not`.
pub(super) async fn leader(cluster: &impl Cluster, not: Option<NodeId>) -> NodeId {
    let leads =
        || all().into_iter().find(|node| cluster.log(*node).status().borrow().leading && Some(*node) != not);
    until(|| leads().is_some()).await;
    leads().expect("somebody leads")
}

pub(super) async fn until(done: impl Fn() -> bool) {
    tokio::time::timeout(LONG, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it comes true within a minute");
}

pub(super) fn all() -> BTreeSet<NodeId> {
    [1, 2, 3].map(NodeId).into()
}

pub(super) fn settings() -> Settings {
    Settings {
        max_step: Millis(2_000),
        memo_max: 1_000,
        waiters_max: 100,
        queue_shards: 1,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
    }
}

pub(super) fn command(seq: u64, op: Op) -> Command {
    let request = RequestKey::Node { origin: origin(), seq, settled_below: seq };
    Command { request, not_after: Millis(60_000), guard: None, op }
}

pub(super) fn acquire(seq: u64, name: &str, ttl: u64) -> Command {
    let want = Acquire {
        attempt: Attempt { origin: origin(), number: seq },
        ..Acquire::exclusive(LockName(name.into()), Owner("owner".into()), Millis(ttl))
    };
    let op = LockOp::Acquire(Box::new(want));
    command(seq, Op::Lock(op))
}

pub(super) fn token(reply: &Reply) -> u64 {
    match reply {
        Reply::Granted(grant) => grant.token.0,
        other => panic!("not granted: {other:?}"),
    }
}

fn origin() -> Origin {
    Origin { node: NodeId(9), incarnation: Incarnation(1) }
}

mod in_memory {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Clock;
    use crate::log::memory::{Group, MemoryLog};

    struct Members {
        group: Arc<Group>,
        members: BTreeMap<NodeId, (Arc<MemoryLog>, Arc<State>)>,
    }

    impl Members {
        fn new() -> Self {
            let group = Group::new(NodeId(1), Clock::tokio());
            let mut members = Self { group, members: BTreeMap::new() };
            members.join();
            members
        }

        fn join(&mut self) {
            for node in all() {
                let state = State::new(ShardId(0), settings());
                let log = self.group.join(node, Arc::clone(&state));
                self.members.insert(node, (log, state));
            }
        }
    }

    #[async_trait]
    impl Cluster for Members {
        fn log(&self, node: NodeId) -> Arc<dyn Log> {
            self.members[&node].0.clone()
        }

        fn state(&self, node: NodeId) -> Arc<State> {
            Arc::clone(&self.members[&node].1)
        }

        async fn depose(&mut self, leader: NodeId) {
            let other = all().into_iter().find(|node| *node != leader).unwrap();
            self.group.elect(other);
        }

        async fn restart(&mut self) {
            for (log, _) in self.members.values() {
                log.shutdown().await;
            }
            self.join();
        }

        fn tick(&self) {
            self.group.tick();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_driver_conforms() {
        everything(|| async { Members::new() }).await;
    }
}
