//! What a home owes each node: one lease for all its copies, and the orders it has not answered.
//!
//! It knows nodes and numbers, not keys or values.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::lease::{self, LEASE, OVERDUE, SHORTEST};
use crate::names::NodeId;
use crate::stamp::Millis;

/// Every node that ever got a lease from this home.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

#[derive(Clone, Debug, Default)]
struct Peer {
    /// From here on it reads none of its copies, by our clock.
    leased_until: Millis,
    /// Changes whose order it has not answered, with the time when it was sent. Numbers only
    /// grow, so the first is the oldest.
    outstanding: BTreeMap<u64, Millis>,
}

impl Peers {
    /// Grants or renews the lease of `node`, never past `left`, what the home itself has.
    pub(super) fn grant(&mut self, node: NodeId, left: Millis, now: Millis) -> Option<Millis> {
        let span = LEASE.min(left);
        if span < SHORTEST || self.is_overdue(node, now) {
            return None;
        }
        let peer = self.0.entry(node).or_default();
        peer.leased_until = peer.leased_until.max(lease::owed_until(now, span));
        Some(span)
    }

    fn is_overdue(&self, node: NodeId, now: Millis) -> bool {
        let oldest = self.0.get(&node).and_then(|peer| peer.outstanding.values().next());
        oldest.is_some_and(|sent| sent.plus(OVERDUE) <= now)
    }

    /// Whether `node` may still read copies that it got from here.
    pub(super) fn may_read(&self, node: NodeId, now: Millis) -> bool {
        self.left(node, now) > Millis(0)
    }

    /// What is left of the lease of `node`, counted long.
    pub(super) fn left(&self, node: NodeId, now: Millis) -> Millis {
        self.0.get(&node).map_or(Millis(0), |peer| peer.leased_until.since(now))
    }

    /// Every node that may still read copies.
    pub(super) fn readers(&self, now: Millis) -> BTreeSet<NodeId> {
        self.0.keys().filter(|node| self.may_read(**node, now)).copied().collect()
    }

    /// An order numbered `seq` is on its way to `node`.
    pub(super) fn sent(&mut self, node: NodeId, seq: u64, now: Millis) {
        self.0.entry(node).or_default().outstanding.insert(seq, now);
    }

    /// `node` answered, or no longer needs to.
    pub(super) fn settled(&mut self, node: NodeId, seq: u64) {
        if let Some(peer) = self.0.get_mut(&node) {
            peer.outstanding.remove(&seq);
        }
    }

    /// Whether the order is still worth repeating.
    pub(super) fn awaits(&self, node: NodeId, seq: u64) -> bool {
        self.0.get(&node).is_some_and(|peer| peer.outstanding.contains_key(&seq))
    }

    /// Orders whose nodes can read nothing any more: as good as answered.
    pub(super) fn lapsed(&self, now: Millis) -> Vec<(NodeId, u64)> {
        let lapsed = self.0.iter().filter(|(_, peer)| peer.leased_until <= now);
        lapsed.flat_map(|(node, peer)| peer.outstanding.keys().map(|seq| (*node, *seq))).collect()
    }

    /// When the next silent node's lease ends.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.0.values().filter(|peer| !peer.outstanding.is_empty()).map(|peer| peer.leased_until).min()
    }
}
