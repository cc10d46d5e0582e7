//! The home of cache lines: commits writes one after the other, once nobody can read what was before.
//!
//! A reader is registered as a sharer before the value is read. A write marks its line pending,
//! tells every sharer to forget, and goes on serving the old value, which nobody may keep; when each
//! sharer has answered or its lease has run out, the write is committed, visible, and answered, in
//! that order. A sole reader may own a line of a write-back namespace; whoever else wants it waits
//! until its owner has given it back. Source of the idea: directory protocols of shared-memory
//! machines, with volume leases (Yin, Alvisi, Dahlin, Lin 1999). It sends nothing itself: it returns
//! [`Output`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::feed::News;
#[cfg(test)]
use super::message::Held;
use super::message::{Addressee, Answer, LineView, Order, Refusal};
use super::space::{self, Settings, Spaces};
use super::tenure::Tenure;
use super::{Key, Tag};
use crate::guards::{Guard, Marks};
#[cfg(test)]
use crate::names::Incarnation;
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

mod flush;
mod line;
mod lines;
mod load;
mod memo;
mod moves;
mod peers;
mod read;
mod recall;
mod stats;
#[cfg(test)]
mod tests;
mod touched;
mod write;

pub use memo::{ENTRIES_MAX as MEMO_ENTRIES_MAX, WINDOW as MEMO_WINDOW};
pub use stats::{STALL_BOUNDS_MS, Stats};

pub(super) use write::add;

use flush::Flushes;
use line::Line;
use lines::Lines;
use memo::Memo;
use moves::Moves;
use peers::Peers;

/// What the driver has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the waiting caller.
    Answer {
        /// Which.
        tag: Tag,
        /// What.
        answer: Answer,
    },
    /// Send, and repeat while [`Home::awaits`] says so; then call [`Home::acknowledged`].
    Forget {
        /// The sharer.
        to: NodeId,
        /// The order.
        order: Order,
    },
    /// A line that was read at this node has gone to another home: see [`super::copy::displaced`].
    Left {
        /// Its key.
        key: Key,
    },
    /// Tell whoever watches. It comes before the answer to whoever caused it.
    News(News),
    /// Tell whoever watches that what it keeps may be gone, and nobody can say what. It comes before
    /// anything newer can be read.
    Gap,
    /// Ask for a seal, and repeat while [`Home::awaits_seal`] says so; then call [`Home::sealed`].
    Seal {
        /// The member: this very process.
        to: Origin,
        /// Under this ring.
        ring_epoch: u64,
    },
}

/// One node in its role as home.
#[derive(Clone, Debug)]
pub struct Home {
    tenure: Tenure,
    spaces: Arc<Spaces>,
    lines: Lines,
    peers: Peers,
    memo: Memo,
    /// Which tokens of which locks were seen here.
    marks: Marks,
    /// Lines for which a pending change waits, by its number.
    pending: BTreeMap<u64, Key>,
    flushes: Flushes,
    /// When somebody who waits to fill a value in has to be told something.
    loads_due: BTreeSet<(Millis, Key)>,
    moves: Moves,
    counter: u64,
    next_seq: u64,
    bytes_max: usize,
    stats: Stats,
}

impl Home {
    /// The home role of `node`, which keeps lines and directory within `bytes_max`.
    #[must_use]
    pub fn new(node: NodeId, bytes_max: usize) -> Self {
        Self {
            tenure: Tenure::new(node),
            spaces: Arc::default(),
            lines: Lines::default(),
            peers: Peers::default(),
            memo: Memo::default(),
            marks: Marks::default(),
            pending: BTreeMap::new(),
            flushes: Flushes::default(),
            loads_due: BTreeSet::new(),
            moves: Moves::default(),
            counter: 0,
            next_seq: 0,
            bytes_max,
            stats: Stats::default(),
        }
    }

    /// What this node may serve.
    #[must_use]
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// The namespaces as this node has them from the log.
    #[must_use]
    pub fn spaces(&self) -> &Arc<Spaces> {
        &self.spaces
    }

    /// Bytes of lines and directory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether no line is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether this node may answer for `key` now, to whom asked under `to`.
    fn admit(&self, to: Option<Addressee>, key: &str, now: Millis) -> Result<Settings, Refusal> {
        let is_leaving = self.lines.get(key).is_some_and(Line::is_leaving);
        if to.is_some_and(|to| !self.tenure.is_meant(to)) || !self.tenure.serves(key, now) || is_leaving {
            return Err(Refusal::NotHome);
        }
        self.spaces.get(space::of(key)).ok_or(Refusal::NoNamespace)
    }

    fn settings(&self, key: &str) -> Settings {
        self.spaces.get(space::of(key)).unwrap_or_default()
    }

    /// The part of its namespace's bytes that may lie at this home.
    fn share(&self, key: &str) -> usize {
        let homes = self.tenure.members().max(1) as u64;
        let share = self.settings(key).bytes_max.map_or(u64::MAX, |max| max.div_ceil(homes));
        self.bytes_max.min(usize::try_from(share).unwrap_or(usize::MAX))
    }

    /// A read of `key` comes under this guard: older tokens of its lock may do nothing here any more.
    pub fn guard(&mut self, to: Option<Addressee>, key: &str, guard: &Guard, now: Millis) -> Answer {
        if let Err(refusal) = self.admit(to, key, now) {
            return Answer::Refused(refusal);
        }
        match self.marks.check(guard) {
            Ok(()) => Answer::Guarded,
            Err(refusal) => Answer::Refused(Refusal::Guard(refusal)),
        }
    }

    /// Like [`Self::guard`], for work on all keys.
    pub fn fence(&mut self, to: Addressee, guard: &Guard, now: Millis) -> Answer {
        if !self.tenure.is_meant(to) || !self.tenure.is_open(now) {
            return Answer::Refused(Refusal::NotHome);
        }
        match self.marks.check(guard) {
            Ok(()) => Answer::Guarded,
            Err(refusal) => Answer::Refused(Refusal::Guard(refusal)),
        }
    }

    /// Lets `from` go on reading its copies.
    pub fn renew(&mut self, from: NodeId, to: Addressee, now: Millis) -> Answer {
        if !self.tenure.is_meant(to) || !self.tenure.is_open(now) {
            return Answer::Refused(Refusal::NotHome);
        }
        match self.peers.grant(from, self.tenure.left(now), now) {
            Some(lease) => Answer::Renewed { lease },
            None => Answer::Refused(Refusal::NoLease),
        }
    }

    /// Whether `to` still has to answer the order `seq`.
    #[must_use]
    pub fn awaits(&self, to: NodeId, seq: u64) -> bool {
        self.peers.awaits(to, seq)
    }

    /// Time has passed: sharers whose lease has run out need not answer any more.
    pub fn tick(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (node, seq) in self.peers.lapsed(now) {
            self.stats.lease_expiries += 1;
            self.release(node, seq, None, now, &mut outputs);
        }
        self.tend_due_loads(now, &mut outputs);
        self.lines.sweep();
        self.moves.forget_old(now);
        outputs
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let loads = self.loads_due.first().map(|(at, _)| *at);
        let sweep = (!self.lines.is_swept()).then_some(Millis(0));
        [self.peers.next_deadline(), loads, sweep].into_iter().flatten().min()
    }

    /// Who may hold a copy of `key` as far as this home knows.
    #[must_use]
    pub fn sharers(&self, key: &str) -> BTreeSet<NodeId> {
        let Some(line) = self.lines.get(key) else { return BTreeSet::new() };
        let awaited = line.pending.iter().flat_map(|pending| &pending.awaiting);
        let owner = line.owner.iter().map(|owner| &owner.node);
        line.sharers.iter().chain(awaited).chain(owner).copied().collect()
    }

    /// The line of `key`, seen from outside; `None` where this node does not serve it.
    #[must_use]
    pub fn inspect(&self, key: &str, now: Millis) -> Option<LineView> {
        if !self.tenure.serves(key, now) {
            return None;
        }
        let view = self.lines.get(key).filter(|line| !self.lines.is_flushed(key, line)).map(|line| {
            let held = line.held(now);
            LineView {
                version: held.as_ref().map(|held| held.version),
                left: held.and_then(|held| held.left),
                is_changing: line.pending.is_some(),
                owner: line.owner.map(|owner| owner.node),
                sharers: self
                    .sharers(key)
                    .into_iter()
                    .map(|node| (node, self.peers.left(node, now)))
                    .collect(),
            }
        });
        Some(view.unwrap_or_default())
    }

    /// Who would be asked for `key` under the current ring.
    #[must_use]
    pub fn home_of(&self, key: &str) -> Option<Origin> {
        self.tenure.home_of(key)
    }

    /// What the line of `key` says, whoever owns it.
    #[cfg(test)]
    pub(crate) fn raw(&self, key: &str, now: Millis) -> Option<Held> {
        self.lines.get(key).filter(|line| !self.lines.is_flushed(key, line)).and_then(|line| line.held(now))
    }

    /// Who owns the line of `key`, under which grant, as which process.
    #[cfg(test)]
    pub(crate) fn owner(&self, key: &str) -> Option<(NodeId, u64, Incarnation)> {
        let line = self.lines.get(key).filter(|line| !self.lines.is_flushed(key, line))?;
        line.owner.map(|owner| (owner.node, owner.grant, owner.process))
    }

    /// Without what decides nothing.
    #[cfg(test)]
    pub(crate) fn uncounted(&self) -> Self {
        Self { stats: Stats::default(), ..self.clone() }
    }
}
