//! Consistent hashing with virtual nodes: key → queue shard → nodes, and cache key → home.
//!
//! It knows who exists, not who is alive: callers pass the members that count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::names::{NodeId, ShardId};

/// Points on the ring for each node or shard: more are fairer, and slower to build.
const VIRTUAL: u64 = 128;
/// How many replicas above its fair share a node may carry, in percent.
const SLACK_PERCENT: usize = 25;
/// Hashes must never change: every stored message lies where they say.
const SEED: u64 = 0x4c6f_636b_7374_6570;

/// Points sorted by hash; a key belongs to the first point at or after its own hash. Clones share them.
#[derive(Clone)]
struct Points {
    members: BTreeSet<u64>,
    sorted: Arc<[(u64, u64)]>,
}

impl fmt::Debug for Points {
    /// Whose points they are: where they lie follows from that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.members.fmt(f)
    }
}

impl Points {
    fn new(members: impl Iterator<Item = u64>) -> Self {
        let members: BTreeSet<u64> = members.collect();
        let of = |member: &u64| (0..VIRTUAL).map(|nth| (point(*member, nth), *member)).collect::<Vec<_>>();
        let mut sorted: Vec<_> = members.iter().flat_map(of).collect();
        sorted.sort_unstable();
        Self { members, sorted: sorted.into() }
    }

    /// Every member's points in ring order, beginning at `hash`, going round once.
    fn from(&self, hash: u64) -> impl Iterator<Item = u64> + '_ {
        let start = self.sorted.partition_point(|(point, _)| *point < hash);
        self.sorted[start..].iter().chain(&self.sorted[..start]).map(|(_, member)| *member)
    }
}

/// Which queue shard a message's key belongs to. Fixed for the life of a cluster.
#[derive(Clone, Debug)]
pub struct ShardRing(Points);

impl ShardRing {
    /// A ring of the shards 1..=`queue_shards`.
    pub fn new(queue_shards: u32) -> Self {
        Self(Points::new((1..=queue_shards).map(u64::from)))
    }

    /// The shard of `key` in `queue`; shard 1 when there are no shards at all.
    pub fn shard_of(&self, queue: &str, key: &[u8]) -> ShardId {
        let hash = xxh3_64_with_seed(key, xxh3_64_with_seed(queue.as_bytes(), SEED));
        let shard = self.0.from(hash).next().unwrap_or(1);
        ShardId(u32::try_from(shard).unwrap_or(1))
    }
}

/// Which live member is the home of a cache key.
#[derive(Clone, Debug)]
pub struct HomeRing(Points);

impl HomeRing {
    /// A ring of these members, whatever their order.
    pub fn new(members: &[NodeId]) -> Self {
        Self(Points::new(members.iter().map(|node| node.0)))
    }

    /// The home of `key`; nobody when there are no members.
    pub fn home(&self, key: &str) -> Option<NodeId> {
        self.0.from(xxh3_64_with_seed(key.as_bytes(), SEED)).next().map(NodeId)
    }
}

/// Which nodes hold each shard's replicas; the first of each should lead it. No node carries more
/// than a quarter above its fair share of replicas, or more leaders than its fair share rounded up, and a
/// node that joins or leaves moves few shards besides its own.
pub fn place(shards: &[ShardId], nodes: &[NodeId], replicas: usize) -> BTreeMap<ShardId, Vec<NodeId>> {
    let points = Points::new(nodes.iter().map(|node| node.0));
    let replicas = replicas.min(nodes.len());
    // A leader moves at no cost, and works more than those who follow.
    let mut leads = Load::new(shards.len(), nodes.len(), 0);
    let mut holds = Load::new(shards.len() * replicas, nodes.len(), SLACK_PERCENT);
    let mut placed = BTreeMap::new();
    for shard in shards {
        let mut chosen: Vec<NodeId> = Vec::with_capacity(replicas);
        while chosen.len() < replicas {
            let order = || points.from(point(u64::from(shard.0), u64::MAX)).map(NodeId);
            let fits = |node: &NodeId| {
                !chosen.contains(node) && holds.fits(*node) && (!chosen.is_empty() || leads.fits(*node))
            };
            // Where the bound leaves nobody, being held at all is worth more than balance.
            let next = order().find(fits).or_else(|| order().find(|node| !chosen.contains(node)));
            let Some(node) = next else { break };
            if chosen.is_empty() {
                leads.add(node);
            }
            holds.add(node);
            chosen.push(node);
        }
        placed.insert(*shard, chosen);
    }
    placed
}

/// How much each node carries already, and how much it may.
struct Load {
    most: usize,
    of: BTreeMap<NodeId, usize>,
}

impl Load {
    fn new(items: usize, nodes: usize, slack_percent: usize) -> Self {
        Self { most: (items * (100 + slack_percent)).div_ceil(100 * nodes.max(1)), of: BTreeMap::new() }
    }

    fn fits(&self, node: NodeId) -> bool {
        self.of.get(&node).copied().unwrap_or(0) < self.most
    }

    fn add(&mut self, node: NodeId) {
        *self.of.entry(node).or_default() += 1;
    }
}

fn point(member: u64, nth: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&member.to_le_bytes());
    bytes[8..].copy_from_slice(&nth.to_le_bytes());
    xxh3_64_with_seed(&bytes, SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(shards: u32, nodes: u64) -> BTreeMap<ShardId, Vec<NodeId>> {
        let shards: Vec<_> = (1..=shards).map(ShardId).collect();
        let nodes: Vec<_> = (1..=nodes).map(NodeId).collect();
        place(&shards, &nodes, 3)
    }

    fn most(of: impl Iterator<Item = NodeId>) -> usize {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        of.for_each(|node| *counts.entry(node).or_default() += 1);
        counts.into_values().max().unwrap_or(0)
    }

    #[test]
    fn leaders_and_replicas_are_spread() {
        for (shards, nodes) in [(3, 3), (1, 3), (8, 3), (3, 5), (64, 5), (256, 7)] {
            let placed = placed(shards, nodes);
            let (shards, nodes) = (shards as usize, usize::try_from(nodes).unwrap());
            let leaders = most(placed.values().map(|replicas| replicas[0]));
            assert_eq!(leaders, shards.div_ceil(nodes), "{shards} shards on {nodes} nodes");
            let held = most(placed.values().flatten().copied());
            assert!(held <= (shards * 3 * 125).div_ceil(100 * nodes), "{held} of {shards} on one of {nodes}");
            for replicas in placed.values() {
                let mut different = replicas.clone();
                different.sort_unstable();
                different.dedup();
                assert_eq!(different.len(), 3, "{replicas:?}");
            }
        }
    }

    #[test]
    fn a_node_that_joins_takes_replicas_from_all_and_moves_few_others() {
        let (before, after) = (placed(64, 5), placed(64, 6));
        let moved: usize = before
            .iter()
            .map(|(shard, replicas)| replicas.iter().filter(|node| !after[shard].contains(node)).count())
            .sum();
        assert!((64 * 3 / 12..64 * 3 / 3).contains(&moved), "{moved} of {} replicas moved", 64 * 3);
    }
}
