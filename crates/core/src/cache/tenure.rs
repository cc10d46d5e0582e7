//! Which keys this node may answer for as their home, and until when.
//!
//! A node is home of the keys that the ring gives it, while its membership lease lasts, and once
//! every other live member has *sealed*: said that under this ring it serves none of them any more.
//! It knows nothing of values; [`super::home::Home`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::message::Addressee;
use super::space::Spaces;
use crate::names::{Incarnation, NodeId, Origin};
use crate::ring::HomeRing;
use crate::stamp::Millis;

/// Rings that may pile up unsettled; beyond it nothing is served until every member has sealed.
const RINGS_MAX: usize = 8;

/// The ring as this node has it from the log, and its own place in it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// How often the set of live members has changed.
    pub ring_epoch: u64,
    /// This process as the log admitted it, and the ring epoch at which it came in.
    pub me: Option<(Incarnation, u64)>,
    /// Every live member, this node included.
    pub members: Vec<Origin>,
    /// The namespaces.
    pub spaces: Arc<Spaces>,
    /// The end of this process's membership lease by this node's clock, counted from the send of
    /// the last acknowledged heartbeat and shortened by the drift.
    pub until: Millis,
}

/// What a new view means for the lines held so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new.
    None,
    /// Another ring: lines whose keys went elsewhere must leave.
    Moved,
    /// This node may have been out of the ring in between: every line is worthless. No copy of them
    /// is readable, because no copy's lease outlives its home's membership.
    Reborn,
}

/// This node's right to serve.
#[derive(Clone, Debug)]
pub struct Tenure {
    node: NodeId,
    me: Option<(Incarnation, u64)>,
    ring_epoch: u64,
    members: BTreeMap<NodeId, Incarnation>,
    /// The rings since everything was last settled, the current one last: a key is served only if
    /// each of them gives it to this node. An empty ring gives nothing to anybody.
    rings: Vec<HomeRing>,
    /// Members that have not yet sealed under the current ring.
    unsealed: BTreeSet<NodeId>,
    until: Millis,
    /// After a lapse: nothing is served before a view at least this new is known.
    hold_below: u64,
    reborn_due: bool,
    retired: bool,
    /// Once retired: the current ring without this node.
    next: Option<HomeRing>,
}

impl Tenure {
    /// A node that is not a member yet.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            me: None,
            ring_epoch: 0,
            members: BTreeMap::new(),
            rings: vec![HomeRing::new(&[])],
            unsealed: BTreeSet::new(),
            until: Millis(0),
            hold_below: 0,
            reborn_due: false,
            retired: false,
            next: None,
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This process, as orders to other nodes name it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let incarnation = self.me.map(|(incarnation, _)| incarnation).unwrap_or_default();
        Origin { node: self.node, incarnation }
    }

    /// The current ring's epoch.
    #[must_use]
    pub fn ring_epoch(&self) -> u64 {
        self.ring_epoch
    }

    /// The home of `key` under the current ring, whether or not it serves already.
    #[must_use]
    pub fn home_of(&self, key: &str) -> Option<Origin> {
        let node = self.rings.last()?.home(key)?;
        let incarnation = *self.members.get(&node)?;
        Some(Origin { node, incarnation })
    }

    /// Whether this node may answer for `key` now.
    #[must_use]
    pub fn serves(&self, key: &str, now: Millis) -> bool {
        self.is_open(now) && self.rings.iter().all(|ring| ring.home(key) == Some(self.node))
    }

    /// Whether the current ring gives `key` to this node, served already or not.
    #[must_use]
    pub fn keeps(&self, key: &str) -> bool {
        !self.retired
            && self.me.is_some()
            && self.rings.last().is_some_and(|r| r.home(key) == Some(self.node))
    }

    /// Whether a request was meant for this process and not for one with a newer view than ours.
    #[must_use]
    pub fn is_meant(&self, to: Addressee) -> bool {
        self.me.is_some_and(|(incarnation, _)| incarnation == to.incarnation)
            && to.ring_epoch <= self.ring_epoch
    }

    /// Whether the membership lease lasts and nothing else forbids to serve at all.
    #[must_use]
    pub fn is_open(&self, now: Millis) -> bool {
        !self.retired && self.me.is_some() && now < self.until && self.ring_epoch >= self.hold_below
    }

    /// What is left of the membership lease: no copy's lease may be longer.
    #[must_use]
    pub fn left(&self, now: Millis) -> Millis {
        self.until.since(now)
    }

    /// Takes over a view from the log. Older ones are ignored.
    pub fn set_view(&mut self, view: &View, now: Millis) -> Change {
        if view.ring_epoch < self.ring_epoch {
            return Change::None;
        }
        let change = self.change(view, now);
        self.renew(view.until, view.ring_epoch, now);
        if change == Change::None {
            return change;
        }
        if change == Change::Reborn {
            self.rings = vec![HomeRing::new(&[])];
            self.reborn_due = false;
        }
        self.adopt(view);
        change
    }

    fn change(&self, view: &View, now: Millis) -> Change {
        let newer = view.ring_epoch > self.ring_epoch;
        let lapsed = now >= self.until;
        if view.me != self.me || (newer && (lapsed || self.reborn_due)) {
            Change::Reborn
        } else if newer {
            Change::Moved
        } else {
            Change::None
        }
    }

    fn adopt(&mut self, view: &View) {
        self.me = view.me;
        self.ring_epoch = view.ring_epoch;
        self.members = view.members.iter().map(|m| (m.node, m.incarnation)).collect();
        let nodes: Vec<NodeId> = self.members.keys().copied().collect();
        if self.rings.len() >= RINGS_MAX {
            self.rings = vec![HomeRing::new(&[])];
        }
        self.rings.push(HomeRing::new(&nodes));
        self.unsealed = nodes.into_iter().filter(|n| *n != self.node).collect();
        self.look_ahead();
        self.settle();
    }

    /// The log renewed the membership lease; `ring_epoch` is what it said along with that.
    ///
    /// If the lease had lapsed in between, another home may have served our keys: with another
    /// ring epoch than the one we know, we hold back until the view has caught up, and start empty.
    pub fn renew(&mut self, until: Millis, ring_epoch: u64, now: Millis) {
        let lapsed = now >= self.until;
        if lapsed && ring_epoch > self.ring_epoch {
            self.hold_below = self.hold_below.max(ring_epoch);
            self.reborn_due = true;
        }
        self.until = self.until.max(until);
    }

    /// Stops to serve for good, ahead of leaving the cluster.
    pub fn retire(&mut self) {
        self.retired = true;
        self.look_ahead();
    }

    /// Who retires hands its lines to those who are home without it.
    fn look_ahead(&mut self) {
        if self.retired {
            let others: Vec<NodeId> =
                self.members.keys().copied().filter(|node| *node != self.node).collect();
            self.next = Some(HomeRing::new(&others));
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        self.retired
    }

    /// Where the line of `key` goes when it leaves this node.
    #[must_use]
    pub fn next_home(&self, key: &str) -> Option<NodeId> {
        self.next.as_ref().or(self.rings.last())?.home(key)
    }

    /// Whether this node has retired and was home of `key` when it did.
    #[must_use]
    pub fn bequeaths(&self, key: &str) -> bool {
        self.retired && self.rings.last().is_some_and(|ring| ring.home(key) == Some(self.node))
    }

    /// How many members the current ring has.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The members of the current ring, in order.
    pub fn origins(&self) -> impl Iterator<Item = Origin> + '_ {
        self.members.iter().map(|(node, incarnation)| Origin { node: *node, incarnation: *incarnation })
    }

    /// Whether `node` is a member of the current ring.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// Whether every member has sealed under the current ring.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.me.is_some() && self.unsealed.is_empty()
    }

    /// Whether lines may be on their way to this member, under the current ring.
    #[must_use]
    pub fn is_due_lines(&self) -> bool {
        self.me.is_some() && !self.unsealed.is_empty()
    }

    /// The members whose seal under the current ring is still awaited.
    #[must_use]
    pub fn unsealed(&self) -> Vec<Origin> {
        self.origins().filter(|origin| self.unsealed.contains(&origin.node)).collect()
    }

    /// Whether `member` still has to seal under `ring_epoch`.
    #[must_use]
    pub fn awaits_seal(&self, member: NodeId, ring_epoch: u64) -> bool {
        self.ring_epoch == ring_epoch && self.unsealed.contains(&member)
    }

    /// A member said that it has sealed under `ring_epoch`. Only the very ring that we know counts:
    /// a member with a newer one may have been given keys back that we would take.
    pub fn sealed(&mut self, by: NodeId, ring_epoch: u64) {
        if ring_epoch == self.ring_epoch {
            self.unsealed.remove(&by);
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.unsealed.is_empty() {
            self.rings.drain(..self.rings.len() - 1);
        }
    }
}
