//! Changes of the ring: lines whose keys went elsewhere leave, copies first, then the lines travel.
//!
//! The new home pulls them while it asks for the seal; a home that leaves for good sends them ahead.
//! Sharers do not travel: every copy of a line is forgotten before it moves.

mod bequests;
mod parcels;
mod seals;

use std::collections::BTreeMap;

use super::line::{Queued, Why};
use super::peers::Peers;
use super::{Home, Output, write};
use crate::cache::feed;
use crate::cache::message::{Answer, Moved, Refusal};
use crate::cache::tenure::{Change, View};
use crate::cache::{Key, Tag};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

use bequests::Bequest;
use parcels::{Line, Parcel};
use seals::{Arrived, Seal};

/// How long lines are kept for a new home that has been told of all of them and may ask again.
const KEPT: Millis = Millis(30_000);

/// Lines between homes.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    /// Lines of ours that still have sharers.
    leaving: usize,
    /// Lines that have left, by their new home.
    out: BTreeMap<NodeId, Parcel>,
    /// Lines that a home which retires sends ahead, by who is home next.
    bequeathed: BTreeMap<NodeId, Parcel>,
    /// What each member has handed over under the current ring, before everything is settled.
    arrived: BTreeMap<NodeId, Arrived>,
    /// What a home that leaves has sent ahead, and under which ring.
    bequests: BTreeMap<Origin, Bequest>,
    /// Members that wait for our seal.
    seals: Vec<Seal>,
}

impl Moves {
    /// New homes have had time enough.
    pub(super) fn forget_old(&mut self, now: Millis) {
        let is_old = |parcel: &&mut Parcel| parcel.told_all.is_some_and(|since| now.since(since) >= KEPT);
        self.out.values_mut().filter(is_old).for_each(Parcel::forget);
    }

    /// Whether nothing is on its way from here.
    fn is_empty(&self) -> bool {
        self.out.is_empty() && self.bequeathed.is_empty()
    }
}

impl Home {
    /// The log shows another ring or other namespaces, or this node's place has changed.
    pub fn set_view(&mut self, view: &View, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        if view.spaces.revision() > self.spaces.revision() {
            self.spaces = view.spaces.clone();
            self.recall_shared_spaces(now, &mut outputs);
        }
        let before: Vec<Origin> = self.tenure.origins().collect();
        let was_due_lines = self.tenure.is_due_lines();
        let change = self.tenure.set_view(view, now);
        let had_lines = !self.lines.is_empty() || !self.moves.is_empty();
        if change != Change::None && (was_due_lines || (change == Change::Reborn && had_lines)) {
            // Their former home may take them for handed over, and nobody says which they are.
            outputs.push(Output::Gap);
        }
        match change {
            Change::None => {}
            Change::Moved => {
                self.move_all(&before, now, &mut outputs);
                self.recall_from_strangers(now, &mut outputs);
            }
            Change::Reborn => self.start_empty(&mut outputs),
        }
        self.settle_arrived(now, &mut outputs);
        self.resume(now, &mut outputs);
        if view.me.is_some() && change != Change::None {
            let ring_epoch = self.tenure.ring_epoch();
            outputs.extend(self.tenure.unsealed().into_iter().map(|to| Output::Seal { to, ring_epoch }));
        }
        self.answer_seals(now, &mut outputs);
        outputs
    }

    /// The log renewed this process's membership; `ring_epoch` as it said along with that.
    pub fn membership_renewed(&mut self, until: Millis, ring_epoch: u64, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.renew(until, ring_epoch, now);
        self.resume(now, &mut outputs);
        outputs
    }

    /// Changes that waited only for our own lease can go on.
    fn resume(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        for key in self.pending.values().cloned().collect::<Vec<_>>() {
            self.go_on(&key, now, outputs);
        }
        self.complete_flushes(now, outputs);
    }

    /// Lines of namespaces that are write-through now are owned by nobody.
    fn recall_shared_spaces(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        self.recall_where(|home, key, _| !home.settings(key).write_back, now, outputs);
    }

    /// Nobody who watches follows a node that is no member: it owns nothing.
    fn recall_from_strangers(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        self.recall_where(|home, _, owner| !home.tenure.has(owner), now, outputs);
    }

    fn recall_where(
        &mut self,
        which: impl Fn(&Self, &Key, NodeId) -> bool,
        now: Millis,
        outputs: &mut Vec<Output>,
    ) {
        for key in self.lines.keys() {
            let owner = self.lines.get(&key).filter(|line| line.pending.is_none()).and_then(|l| l.owner);
            if owner.is_some_and(|owner| which(self, &key, owner.node)) {
                self.begin(&key, Why::Recall, now, outputs);
                self.go_on(&key, now, outputs);
            }
        }
    }

    fn move_all(&mut self, before: &[Origin], now: Millis, outputs: &mut Vec<Output>) {
        self.forget_arrived();
        // Those that their new home may have served are old by now.
        self.moves.out.retain(|_, parcel| parcel.told_all.is_none());
        self.take_back(now, outputs);
        // Who leaves decides anew as well: what it would have sent ahead may be another's by now.
        for parcel in std::mem::take(&mut self.moves.bequeathed).into_values() {
            parcel.lines.iter().for_each(|line| self.route(line.at(now), now, outputs));
        }
        self.take_bequests(before, now);
        self.move_out(now, outputs);
    }

    /// Lines whose new home cannot have served them go where the ring says now.
    fn take_back(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        let (told, untold) = std::mem::take(&mut self.moves.out)
            .into_iter()
            .partition(|(_, parcel)| parcel.told_all.is_some());
        self.moves.out = told;
        for parcel in BTreeMap::into_values(untold) {
            parcel.lines.iter().for_each(|line| self.route(line.at(now), now, outputs));
        }
    }

    /// A line that left, or comes back because we are its home again.
    fn route(&mut self, moved: Moved, now: Millis, outputs: &mut Vec<Output>) {
        if self.tenure.keeps(&moved.key) {
            let key = moved.key.clone();
            self.lines.entry(&key).take(moved.held, now);
            self.lines.settle(&key, true);
        } else if let Some(home) = self.tenure.next_home(&moved.key) {
            let deadline = moved.held.left.map(|left| now.plus(left));
            let is_ahead = self.tenure.bequeaths(&moved.key);
            let parcels = if is_ahead { &mut self.moves.bequeathed } else { &mut self.moves.out };
            parcels.entry(home).or_default().lines.push(Line { moved, deadline });
        } else {
            outputs.push(write::news(&moved.key, moved.held.version, feed::Change::Lost));
        }
    }

    /// Lines that are no longer ours leave: sharers first, then the line.
    fn move_out(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        for key in self.lines.keys() {
            if !self.tenure.keeps(&key) {
                self.leave(&key, now, outputs);
            }
        }
    }

    fn leave(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(key) else { return };
        if line.is_leaving() {
            return;
        }
        self.moves.leaving += 1;
        let mut waiting: Vec<Queued> = line.queue.drain(..).collect();
        let waiters: Vec<Tag> = line.loaders.drain(..).map(|loader| loader.tag).collect();
        match line.pending.as_mut().map(|pending| std::mem::replace(&mut pending.why, Why::Leave)) {
            Some(Why::Write(writing)) => waiting.insert(0, Queued::Write(writing)),
            Some(Why::Evict(cost)) => self.lines.evicting(key, cost, false),
            Some(Why::Recall | Why::Share | Why::Leave) => {}
            None => self.begin(key, Why::Leave, now, outputs),
        }
        let refused = || Answer::Refused(Refusal::NotHome);
        outputs.extend(waiters.into_iter().map(|tag| Output::Answer { tag, answer: refused() }));
        self.turn_away(waiting, outputs);
        self.go_on(key, now, outputs);
    }

    /// No copy of a line that leaves can be read any more.
    pub(super) fn gone(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        self.moves.leaving -= 1;
        let line = self.lines.remove(key);
        let was_read_here = line.as_ref().is_some_and(|line| line.note.is_some());
        if let Some(held) = line.and_then(|line| line.held(now)) {
            self.stats.moved_out += 1;
            if was_read_here && !self.tenure.has_retired() && !self.tenure.keeps(key) {
                outputs.push(Output::Left { key: key.clone() });
            }
            self.route(Moved { key: key.clone(), held }, now, outputs);
        }
        self.answer_seals(now, outputs);
    }

    /// Refuses what was never exposed, so that it certainly was not done.
    fn turn_away(&mut self, waiting: Vec<Queued>, outputs: &mut Vec<Output>) {
        for queued in waiting {
            let answer = Answer::Refused(Refusal::NotHome);
            match queued {
                Queued::Write(writing) => self.finish(writing, answer, outputs),
                Queued::Read { tag, .. } | Queued::Load { tag, .. } => {
                    outputs.push(Output::Answer { tag, answer });
                }
            }
        }
    }

    fn start_empty(&mut self, outputs: &mut Vec<Output>) {
        self.abandon_flushes(outputs);
        for line in std::mem::take(&mut self.lines).into_lines() {
            let pending = line.pending.and_then(|pending| match pending.why {
                Why::Write(writing) => Some(Queued::Write(writing)),
                Why::Recall | Why::Share | Why::Evict(_) | Why::Leave => None,
            });
            self.turn_away(pending.into_iter().chain(line.queue).collect(), outputs);
            for loader in line.loaders {
                outputs.push(Output::Answer { tag: loader.tag, answer: Answer::Refused(Refusal::NotHome) });
            }
        }
        self.peers = Peers::default();
        self.pending.clear();
        self.loads_due.clear();
        let seals = std::mem::take(&mut self.moves.seals);
        self.moves = Moves { seals, ..Moves::default() };
    }
}
