//! Seals: a new home serves once every other member has said that it does not, and has handed lines over.
//!
//! It does not decide which lines go where.

use super::{Home, Output};
use crate::cache::message::{Addressee, Answer, Moved, Refusal};
use crate::cache::{Key, Tag, space};
use crate::names::NodeId;
use crate::stamp::Millis;

/// How many lines came, and which of them were taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived {
    pub(super) count: u64,
    pub(super) taken: Vec<Key>,
}

/// Who waits for our seal.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    pub(super) tag: Tag,
    pub(super) from: NodeId,
    pub(super) to: Addressee,
    pub(super) have: u64,
}

impl Home {
    /// `from` will serve keys that may have been ours once it hears that we have sealed under the ring
    /// of `to`; it has so many of their lines already. Answered under `tag`.
    ///
    /// A process that is not the one meant refuses: copies that its predecessor allowed may be read
    /// still, until that one's membership has ended and another ring makes the question moot.
    pub fn seal(&mut self, tag: Tag, from: NodeId, to: Addressee, have: u64, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        // Who asks again, or under another ring, no longer waits for the first answer.
        let is_former = |seal: &Seal| seal.from == from && seal.to.ring_epoch <= to.ring_epoch;
        for seal in self.moves.seals.extract_if(.., |seal| is_former(seal)) {
            outputs.push(Output::Answer { tag: seal.tag, answer: Answer::Refused(Refusal::NotHome) });
        }
        self.moves.seals.push(Seal { tag, from, to, have });
        self.answer_seals(now, &mut outputs);
        outputs
    }

    pub(super) fn answer_seals(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        let current = self.tenure.ring_epoch();
        if self.moves.leaving > 0 {
            return;
        }
        let ready: Vec<Seal> =
            self.moves.seals.extract_if(.., |seal| seal.to.ring_epoch <= current).collect();
        for Seal { tag, from, to, have } in ready {
            // Under an older ring than ours nothing is handed over, and who asked may know ours by the
            // time it hears: it would take a seal without the lines for all of it.
            if !self.tenure.is_meant(to) || to.ring_epoch != current {
                outputs.push(Output::Answer { tag, answer: Answer::Refused(Refusal::NotHome) });
                continue;
            }
            let parcel = self.moves.out.get_mut(&from);
            if parcel.as_ref().is_some_and(|parcel| have < parcel.forgotten) {
                // It will serve without them.
                outputs.push(Output::Gap);
            }
            let (lines, more) = parcel.map(|parcel| parcel.chunk(have, now)).unwrap_or_default();
            let answer = Answer::Sealed { ring_epoch: current, first: have, lines, more };
            outputs.push(Output::Answer { tag, answer });
        }
    }

    /// `by` has sealed under `ring_epoch` and handed lines over, numbered from `first`; perhaps there
    /// are more.
    pub fn sealed(
        &mut self,
        by: NodeId,
        ring_epoch: u64,
        first: u64,
        lines: Vec<Moved>,
        more: bool,
        now: Millis,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        if !self.tenure.awaits_seal(by, ring_epoch) || first != self.has_lines_of(by) {
            return outputs;
        }
        self.install(by, lines, now);
        if !more {
            self.tenure.sealed(by, ring_epoch);
            self.settle_arrived(now, &mut outputs);
            self.resume(now, &mut outputs);
        }
        outputs
    }

    /// Once everything is settled, what arrived is ours like anything else.
    pub(super) fn settle_arrived(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        if self.tenure.is_settled() && !self.moves.arrived.is_empty() {
            self.moves.arrived.clear();
            self.make_room_everywhere(now, outputs);
        }
    }

    /// How many lines `by` has handed over under the current ring.
    #[must_use]
    pub fn has_lines_of(&self, by: NodeId) -> u64 {
        self.moves.arrived.get(&by).map_or(0, |arrived| arrived.count)
    }

    fn make_room_everywhere(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        let names: Vec<_> = self.spaces.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.make_room(&space::join(&name, ""), now, outputs);
        }
        self.make_room("", now, outputs);
    }

    /// Whether the seal of `by` under `ring_epoch` is still needed.
    #[must_use]
    pub fn awaits_seal(&self, by: NodeId, ring_epoch: u64) -> bool {
        self.tenure.awaits_seal(by, ring_epoch)
    }

    pub(super) fn install(&mut self, from: NodeId, lines: Vec<Moved>, now: Millis) {
        let arrived = self.moves.arrived.entry(from).or_default();
        arrived.count += lines.len() as u64;
        for Moved { key, held } in lines {
            if self.tenure.keeps(&key) && self.lines.get(&key).is_none() {
                self.lines.entry(&key).take(held, now);
                self.lines.settle(&key, true);
                arrived.taken.push(key);
                self.stats.moved_in += 1;
            }
        }
    }

    /// What came under a ring that was never settled: its sender decides again where it goes, unless it
    /// takes it for handed over. That is [`Output::Gap`] for those who watch.
    pub(super) fn forget_arrived(&mut self) {
        for arrived in std::mem::take(&mut self.moves.arrived).into_values() {
            arrived.taken.iter().for_each(|key| drop(self.lines.remove(key)));
        }
    }
}
