//! What this node knows of the cluster: leaders, members, shards. Reads local state only.

use lockstep_core::Epoch;
use lockstep_core::cache::space::Spaces;
use lockstep_core::command::Member;
use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::query::{Answer, Query};

use super::Router;

/// Who leads the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub id: NodeId,
    /// Where clients reach it.
    pub url: String,
    /// Its reign.
    pub epoch: Epoch,
}

/// A shard as this node sees it.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Which.
    pub id: ShardId,
    /// Who leads it, if anybody.
    pub leader: Option<NodeId>,
    /// The leader's reign.
    pub epoch: Epoch,
    /// The last index applied here.
    pub applied: u64,
    /// Who holds replicas.
    pub replicas: Vec<NodeId>,
}

/// A member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Which.
    pub id: NodeId,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it, once it has joined.
    pub url: Option<String>,
    /// Whether it holds a membership lease.
    pub alive: bool,
}

impl Router {
    /// Who leads shard 0, as far as this node knows.
    pub fn leader(&self) -> Option<Leader> {
        let status = self.replica(ShardId::COORDINATION)?.status();
        let id = status.leader?;
        let url = self.live().1.into_iter().find(|member| member.node == id)?.url.to_string();
        Some(Leader { id, url, epoch: status.epoch })
    }

    /// The id of who leads shard 0, as far as this node knows. Cheap enough for every reply.
    pub fn leader_id(&self) -> Option<NodeId> {
        self.replica(ShardId::COORDINATION)?.leader()
    }

    /// Every configured member.
    pub fn members(&self) -> Vec<MemberView> {
        let (_, live) = self.live();
        let view = |(id, peer): (&NodeId, &String)| {
            let member = live.iter().find(|member| member.node == *id);
            MemberView {
                id: *id,
                peer: peer.clone(),
                url: member.map(|member| member.url.to_string()),
                alive: member.is_some(),
            }
        };
        self.placement.members.iter().map(view).collect()
    }

    /// The ring epoch as applied here.
    pub fn ring_epoch(&self) -> u64 {
        self.live().0
    }

    /// Every shard.
    pub fn shards(&self) -> Vec<ShardView> {
        let view = |(id, replicas): (&ShardId, &Vec<NodeId>)| {
            let status = self.replica(*id).map(|replica| replica.status()).unwrap_or_default();
            ShardView {
                id: *id,
                leader: status.leader,
                epoch: status.epoch,
                applied: status.applied.0,
                replicas: replicas.clone(),
            }
        };
        self.placement.replicas.iter().map(view).collect()
    }

    /// Why this node cannot serve now; empty when it can.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .shards()
            .iter()
            .filter(|shard| shard.leader.is_none() && shard.replicas.contains(&self.node))
            .map(|shard| format!("shard {} has no leader", shard.id))
            .collect();
        for replica in self.replicas() {
            let status = replica.status();
            if let Some(why) = status.failed {
                reasons.push(format!("the log of shard {} has stopped: {why}", replica.shard()));
            } else if let Some(why) = status.away {
                reasons.push(format!("the store of shard {} is away: {why}", replica.shard()));
            }
        }
        if !self.live().1.iter().any(|member| member.node == self.node) {
            reasons.push("this node has not joined the cluster yet".into());
        }
        if self.is_draining() {
            reasons.push("this node is stopping".into());
        }
        reasons
    }

    /// Asks other live members to take over what this node leads. Says whether it still leads any.
    pub async fn hand_over_all(&self) -> bool {
        let live = self.live().1;
        let mut leads = false;
        for replica in self.replicas().iter().filter(|replica| replica.leads()) {
            let others = &self.placement.replicas[&replica.shard()];
            let heir =
                others.iter().find(|id| **id != self.node && live.iter().any(|member| member.node == **id));
            if let Some(heir) = heir {
                leads = true;
                replica.log().hand_over(*heir).await;
            }
        }
        leads
    }

    /// The ring epoch and the live members, as applied here.
    pub(crate) fn live(&self) -> (u64, Vec<Member>) {
        let answer = self
            .replica(ShardId::COORDINATION)
            .map(|replica| replica.state().read(|shard| shard.query(&Query::Members)));
        match answer {
            Some(Answer::Members { ring_epoch, members }) => (ring_epoch, members),
            _ => (0, Vec::new()),
        }
    }

    /// The namespaces of the cache, as applied here.
    pub(crate) fn spaces(&self) -> Spaces {
        let answer = self
            .replica(ShardId::COORDINATION)
            .map(|replica| replica.state().read(|shard| shard.query(&Query::Namespaces)));
        match answer {
            Some(Answer::Namespaces(spaces)) => spaces,
            _ => Spaces::default(),
        }
    }
}
