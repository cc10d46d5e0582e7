//! The home of cache lines: commits writes one after the other, once nobody can read what was before.
//!
//! A reader is registered as a sharer before the value is read. A write marks its line pending,
//! tells every sharer to forget, and goes on serving the old value, which nobody may keep; when each
//! sharer has answered or its lease has run out, the write is committed, visible, and answered, in
//! that order. Source of the idea: directory protocols of shared-memory machines, with volume leases
//! (Yin, Alvisi, Dahlin, Lin 1999). It sends nothing itself: it returns [`Output`]s.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{Addressee, Answer, Held, Invalidate, Refusal, Value};
use super::tenure::Tenure;
use super::{Key, Tag};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

mod lines;
mod memo;
mod moves;
mod peers;
#[cfg(test)]
mod tests;
mod write;

pub use memo::{ENTRIES_MAX as MEMO_ENTRIES_MAX, WINDOW as MEMO_WINDOW};

use lines::Lines;
use memo::Memo;
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
    Invalidate {
        /// The sharer.
        to: NodeId,
        /// The order.
        order: Invalidate,
    },
    /// Ask for a seal, and repeat while [`Home::awaits_seal`] says so; then call [`Home::sealed`].
    Seal {
        /// The member.
        to: NodeId,
        /// Under this ring.
        ring_epoch: u64,
    },
}

/// One node in its role as home.
#[derive(Clone, Debug)]
pub struct Home {
    tenure: Tenure,
    lines: Lines,
    peers: Peers,
    memo: Memo,
    /// Lines for which a pending change waits, by its number.
    pending: BTreeMap<u64, Key>,
    counter: u64,
    next_seq: u64,
    /// Lines on their way to another home, and bytes on their way out.
    leaving: usize,
    evicting_bytes: usize,
    /// Members that wait for our seal, and under which ring.
    seals: Vec<(Tag, u64)>,
    bytes_max: usize,
}

impl Home {
    /// The home role of `node`, which keeps lines and directory within `bytes_max`.
    #[must_use]
    pub fn new(node: NodeId, bytes_max: usize) -> Self {
        Self {
            tenure: Tenure::new(node),
            lines: Lines::default(),
            peers: Peers::default(),
            memo: Memo::default(),
            pending: BTreeMap::new(),
            counter: 0,
            next_seq: 0,
            leaving: 0,
            evicting_bytes: 0,
            seals: Vec::new(),
            bytes_max,
        }
    }

    /// What this node may serve.
    #[must_use]
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Bytes of lines and directory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    /// The committed value for a reader on this very node: the line itself is its copy.
    /// `Err` if this node may not answer for the key now.
    pub fn read_own(&self, key: &str, now: Millis) -> Result<Option<Held>, Refusal> {
        if !self.tenure.serves(key, now) {
            return Err(Refusal::NotHome);
        }
        match self.lines.get(key) {
            Some(line) if line.is_leaving() => Err(Refusal::NotHome),
            Some(line) => Ok(line.held(now)),
            None => Ok(None),
        }
    }

    /// The committed value for `from`, which is registered as a sharer first if it wants a copy and
    /// may have one.
    pub fn read(
        &mut self,
        from: NodeId,
        to: Addressee,
        key: &Key,
        copy: bool,
        now: Millis,
    ) -> (Answer, Vec<Output>) {
        let mut outputs = Vec::new();
        if !self.tenure.is_meant(to) || self.read_own(key, now).is_err() {
            return (Answer::Refused(Refusal::NotHome), outputs);
        }
        let lease = if copy { self.register(from, key, now) } else { None };
        let held = self.lines.get(key).and_then(|line| line.held(now));
        self.make_room(now, &mut outputs);
        (Answer::Value(Value { held, lease }), outputs)
    }

    /// Nobody may keep a copy of a line that is about to change, nor when the directory is full.
    fn register(&mut self, from: NodeId, key: &Key, now: Millis) -> Option<Millis> {
        let is_changing = self.lines.get(key).is_some_and(|line| line.pending.is_some());
        if is_changing || from == self.tenure.node() || self.lines.bytes() > self.bytes_max {
            return None;
        }
        let lease = self.peers.grant(from, self.tenure.left(now), now)?;
        self.lines.entry(key).sharers.insert(from);
        self.lines.settle(key, false);
        Some(lease)
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

    /// Whether `to` still has to answer the invalidation `seq`.
    #[must_use]
    pub fn awaits(&self, to: NodeId, seq: u64) -> bool {
        self.peers.awaits(to, seq)
    }

    /// Time has passed: sharers whose lease has run out need not answer any more.
    pub fn tick(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (node, seq) in self.peers.lapsed(now) {
            self.release(node, seq, now, &mut outputs);
        }
        outputs
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.peers.next_deadline()
    }

    /// Who may hold a copy of `key` as far as this home knows.
    #[must_use]
    pub fn sharers(&self, key: &str) -> BTreeSet<NodeId> {
        let Some(line) = self.lines.get(key) else { return BTreeSet::new() };
        let awaited = line.pending.iter().flat_map(|pending| &pending.awaiting);
        line.sharers.iter().chain(awaited).copied().collect()
    }

    /// Who would be asked for `key` under the current ring.
    #[must_use]
    pub fn home_of(&self, key: &str) -> Option<Origin> {
        self.tenure.home_of(key)
    }
}
