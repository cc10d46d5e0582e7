//! Changes of the ring: lines whose keys went elsewhere leave, and members learn when they are gone.
//!
//! Lines are not shipped to their new home yet: they become misses.

use super::lines::{Queued, Why};
use super::peers::Peers;
use super::{Home, Output, lines};
use crate::cache::message::{Answer, Refusal};
use crate::cache::tenure::{Change, View};
use crate::cache::{Key, Tag};
use crate::names::NodeId;
use crate::stamp::Millis;

impl Home {
    /// The log shows another ring, or this node's place in it has changed.
    pub fn set_view(&mut self, view: &View, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        let change = self.tenure.set_view(view, now);
        match change {
            Change::None => self.resume(now, &mut outputs),
            Change::Moved => self.move_out(now, &mut outputs),
            Change::Reborn => self.start_empty(&mut outputs),
        }
        if view.me.is_some() && change != Change::None {
            let ring_epoch = self.tenure.ring_epoch();
            outputs.extend(self.tenure.unsealed().into_iter().map(|to| Output::Seal { to, ring_epoch }));
        }
        self.answer_seals(&mut outputs);
        outputs
    }

    /// The log renewed this process's membership; `ring_epoch` as it said along with that.
    pub fn membership_renewed(&mut self, until: Millis, ring_epoch: u64, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.renew(until, ring_epoch, now);
        self.resume(now, &mut outputs);
        outputs
    }

    /// Stops to be a home: no line is served any more, and once [`Self::is_empty`] no copy of one
    /// can be read. What a node does before it leaves the cluster.
    pub fn retire(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.retire();
        self.move_out(now, &mut outputs);
        self.answer_seals(&mut outputs);
        outputs
    }

    /// Whether no line is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Changes that waited only for our own lease can go on.
    fn resume(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        for key in self.pending.values().cloned().collect::<Vec<_>>() {
            self.go_on(&key, now, outputs);
        }
    }

    /// Lines that are no longer ours leave: sharers first, then the line. They become misses.
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
        self.leaving += 1;
        let mut waiting: Vec<Queued> = line.queue.drain(..).collect();
        match line.pending.as_mut().map(|pending| std::mem::replace(&mut pending.why, Why::Leave)) {
            Some(Why::Write(queued)) => waiting.insert(0, queued),
            Some(Why::Evict) => {
                let cost = lines::cost(key, line.value.as_ref());
                self.evicting_bytes = self.evicting_bytes.saturating_sub(cost);
            }
            Some(Why::Leave) => {}
            None => self.begin(key, Why::Leave, now, outputs),
        }
        self.turn_away(waiting, outputs);
        self.go_on(key, now, outputs);
    }

    /// Refuses writes that were never exposed, so they certainly were not done.
    fn turn_away(&mut self, waiting: Vec<Queued>, outputs: &mut Vec<Output>) {
        for queued in waiting {
            self.finish(queued, Answer::Refused(Refusal::NotHome), outputs);
        }
    }

    fn start_empty(&mut self, outputs: &mut Vec<Output>) {
        for line in std::mem::take(&mut self.lines).into_lines() {
            let pending = line.pending.and_then(|pending| match pending.why {
                Why::Write(queued) => Some(queued),
                Why::Evict | Why::Leave => None,
            });
            self.turn_away(pending.into_iter().chain(line.queue).collect(), outputs);
        }
        self.peers = Peers::default();
        self.pending.clear();
        self.leaving = 0;
        self.evicting_bytes = 0;
    }

    /// A member will serve keys that may have been ours once it hears that we have sealed under
    /// `ring_epoch` or a later ring. Answered under `tag`.
    pub fn seal(&mut self, tag: Tag, ring_epoch: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.seals.push((tag, ring_epoch));
        self.answer_seals(&mut outputs);
        outputs
    }

    pub(super) fn answer_seals(&mut self, outputs: &mut Vec<Output>) {
        let current = self.tenure.ring_epoch();
        if self.leaving > 0 {
            return;
        }
        let answer = Answer::Sealed { ring_epoch: current };
        for (tag, _) in self.seals.extract_if(.., |(_, wanted)| *wanted <= current) {
            outputs.push(Output::Answer { tag, answer: answer.clone() });
        }
    }

    /// `by` has sealed under `ring_epoch`.
    pub fn sealed(&mut self, by: NodeId, ring_epoch: u64, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.sealed(by, ring_epoch);
        self.resume(now, &mut outputs);
        outputs
    }

    /// Whether the seal of `by` under `ring_epoch` is still needed.
    #[must_use]
    pub fn awaits_seal(&self, by: NodeId, ring_epoch: u64) -> bool {
        self.tenure.awaits_seal(by, ring_epoch)
    }
}
