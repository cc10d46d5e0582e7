//! Changes of the ring: lines whose keys went elsewhere leave, copies first, then the lines travel.
//!
//! The new home pulls them while it asks for the seal; a home that leaves for good sends them ahead.
//! Sharers do not travel: every copy of a line is forgotten before it moves.

use std::collections::BTreeMap;

use super::lines::{Queued, Why};
use super::peers::Peers;
use super::{Home, Output, write};
use crate::cache::feed;
use crate::cache::message::{Addressee, Answer, Moved, Refusal};
use crate::cache::tenure::{Change, View};
use crate::cache::{Key, Tag};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

/// Bytes of lines in one message.
const CHUNK: usize = 256 << 10;
/// What a line on its way costs beside its key and value.
const MOVED_BYTES: usize = 64;
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

#[derive(Clone, Debug, Default)]
struct Parcel {
    lines: Vec<Line>,
    /// Since when its new home may have all of it, and serve.
    told_all: Option<Millis>,
    /// How many lines it had before they were forgotten.
    forgotten: u64,
}

/// How many lines came, and which of them were taken.
#[derive(Clone, Debug, Default)]
struct Arrived {
    count: u64,
    taken: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Line {
    moved: Moved,
    deadline: Option<Millis>,
}

#[derive(Clone, Debug, Default)]
struct Bequest {
    ring_epoch: u64,
    lines: Vec<Line>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Seal {
    tag: Tag,
    from: NodeId,
    to: Addressee,
    have: u64,
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

impl Parcel {
    fn forget(&mut self) {
        self.forgotten += std::mem::take(&mut self.lines).len() as u64;
    }

    /// From line number `first` on, as many as fit one message, and whether that is not all.
    fn chunk(&mut self, first: u64, now: Millis) -> (Vec<Moved>, bool) {
        let mut bytes = 0;
        let from = usize::try_from(first).unwrap_or(usize::MAX).min(self.lines.len());
        let fits = |line: &&Line| {
            let is_first = bytes == 0;
            bytes += line.moved.key.len() + line.moved.held.value.len() + MOVED_BYTES;
            is_first || bytes <= CHUNK
        };
        let lines: Vec<Moved> = self.lines[from..].iter().take_while(fits).map(|line| line.at(now)).collect();
        let more = from + lines.len() < self.lines.len();
        if !more {
            self.told_all = self.told_all.or(Some(now));
        }
        (lines, more)
    }
}

impl Line {
    fn at(&self, now: Millis) -> Moved {
        let mut moved = self.moved.clone();
        moved.held.left = self.deadline.map(|end| end.since(now));
        moved
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

    /// Stops to be a home: no line is served any more, and once [`Self::has_left`] no copy of one
    /// can be read. What a node does before it leaves the cluster.
    pub fn retire(&mut self, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.tenure.retire();
        self.abandon_flushes(&mut outputs);
        self.take_back(now, &mut outputs);
        self.move_out(now, &mut outputs);
        self.answer_seals(now, &mut outputs);
        outputs
    }

    /// Whether nothing that this home ever served can be read anywhere.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.moves.leaving == 0 && self.lines.is_empty()
    }

    /// What a home that has left sends to its heirs, in portions, for [`Self::inherit`].
    #[must_use]
    pub fn bequests(&self, now: Millis) -> Vec<(NodeId, Vec<Moved>)> {
        let mut portions = Vec::new();
        for (heir, parcel) in &self.moves.bequeathed {
            let (mut parcel, mut first) = (parcel.clone(), 0);
            loop {
                let (lines, more) = parcel.chunk(first, now);
                first += lines.len() as u64;
                if !lines.is_empty() {
                    portions.push((*heir, lines));
                }
                if !more {
                    break;
                }
            }
        }
        portions
    }

    /// `from` leaves, and these lines are ours if the ring after `ring_epoch` is the same without it.
    pub fn inherit(&mut self, from: Origin, ring_epoch: u64, lines: Vec<Moved>, now: Millis) -> Answer {
        let bequest = self.moves.bequests.entry(from).or_default();
        if ring_epoch < bequest.ring_epoch {
            return Answer::Taken;
        }
        if bequest.ring_epoch != ring_epoch {
            *bequest = Bequest { ring_epoch, ..Bequest::default() };
        }
        for moved in lines {
            let is_welcome = ring_epoch == self.tenure.ring_epoch() && bequest.bytes < self.bytes_max;
            if is_welcome {
                bequest.bytes += moved.key.len() + moved.held.value.len() + MOVED_BYTES;
                // It may be long before the ring changes.
                let deadline = moved.held.left.map(|left| now.plus(left));
                bequest.lines.push(Line { moved, deadline });
            }
        }
        Answer::Taken
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

    /// What came under a ring that was never settled: its sender decides again where it goes, unless it
    /// takes it for handed over. That is [`Output::Gap`] for those who watch.
    fn forget_arrived(&mut self) {
        for arrived in std::mem::take(&mut self.moves.arrived).into_values() {
            arrived.taken.iter().for_each(|key| drop(self.lines.remove(key)));
        }
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

    fn take_bequests(&mut self, before: &[Origin], now: Millis) {
        let (epoch, after) = (self.tenure.ring_epoch(), self.tenure.origins().collect::<Vec<_>>());
        for (leaver, bequest) in std::mem::take(&mut self.moves.bequests) {
            let rest = before.iter().copied().filter(|origin| *origin != leaver);
            let is_next = epoch == bequest.ring_epoch.saturating_add(1);
            if is_next && before.contains(&leaver) && rest.eq(after.iter().copied()) {
                let lines = bequest.lines.iter().map(|line| line.at(now)).collect();
                self.install(leaver.node, lines, now);
            }
        }
    }

    fn install(&mut self, from: NodeId, lines: Vec<Moved>, now: Millis) {
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

    fn answer_seals(&mut self, now: Millis, outputs: &mut Vec<Output>) {
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
    fn settle_arrived(&mut self, now: Millis, outputs: &mut Vec<Output>) {
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
            self.make_room(&super::space::join(&name, ""), now, outputs);
        }
        self.make_room("", now, outputs);
    }

    /// Whether the seal of `by` under `ring_epoch` is still needed.
    #[must_use]
    pub fn awaits_seal(&self, by: NodeId, ring_epoch: u64) -> bool {
        self.tenure.awaits_seal(by, ring_epoch)
    }
}
