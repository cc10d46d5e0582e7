//! The home of cache lines: commits writes one after the other, once nobody can read what was before.
//!
//! A reader is registered as a sharer before the value is read. A write marks its line pending,
//! tells every sharer to forget, and goes on serving the old value, which nobody may keep; when each
//! sharer has answered or its lease has run out, the write is committed, visible, and answered, in
//! that order. Source of the idea: directory protocols of shared-memory machines, with volume leases
//! (Yin, Alvisi, Dahlin, Lin 1999). It sends nothing itself: it returns [`Output`]s.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{Addressee, Answer, Held, Invalidate, Refusal, Value, Write};
use super::tenure::{Change, Tenure, View};
use super::{Key, Tag, Version};
use crate::names::{NodeId, Origin};
use crate::stamp::Millis;

mod lines;
mod memo;
mod peers;
#[cfg(test)]
mod tests;

pub use memo::{ENTRIES_MAX as MEMO_ENTRIES_MAX, WINDOW as MEMO_WINDOW};

use lines::{Line, Lines, Pending, Queued, Why};
use memo::{Memo, Verdict};
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

    /// A write from another node.
    pub fn write(&mut self, tag: Tag, to: Addressee, write: Write, now: Millis) -> Vec<Output> {
        if self.tenure.is_meant(to) {
            self.write_own(tag, write, now)
        } else {
            vec![Output::Answer { tag, answer: Answer::Refused(Refusal::NotHome) }]
        }
    }

    /// A write from this node: answered under `tag`, at once or when the sharers allow it.
    pub fn write_own(&mut self, tag: Tag, write: Write, now: Millis) -> Vec<Output> {
        if let Some(refusal) = self.refusal(&write, now) {
            return vec![Output::Answer { tag, answer: Answer::Refused(refusal) }];
        }
        if let Some(id) = &write.request_id {
            match self.memo.begin(id, &write, tag, now) {
                Verdict::Do => {}
                Verdict::Attached => return Vec::new(),
                Verdict::Answer(answer) => return vec![Output::Answer { tag, answer }],
            }
        }
        let key = write.key.clone();
        let mut outputs = Vec::new();
        self.lines.entry(&key).queue.push_back(Queued { tag, write });
        self.advance(&key, now, &mut outputs);
        self.make_room(now, &mut outputs);
        outputs
    }

    fn refusal(&self, write: &Write, now: Millis) -> Option<Refusal> {
        if self.read_own(&write.key, now).is_err() {
            Some(Refusal::NotHome)
        } else if lines::cost(&write.key, write.value.as_ref()) > self.bytes_max {
            Some(Refusal::TooLarge)
        } else if self.lines.bytes() > self.bytes_max.saturating_mul(2) {
            // Silent sharers hold up so many evictions that only waiting helps.
            Some(Refusal::Full)
        } else {
            None
        }
    }

    /// Starts what waits at a line, until something has to wait for sharers.
    fn advance(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let mut committed = false;
        while let Some(line) = self.lines.get_mut(key) {
            if line.pending.is_some() {
                break;
            }
            let Some(queued) = line.queue.pop_front() else { break };
            match early_answer(line, &queued.write, now) {
                Some(answer) => self.finish(queued, answer, outputs),
                None => {
                    self.begin(key, Why::Write(queued), now, outputs);
                    committed |= self.complete(key, now, outputs);
                }
            }
        }
        self.lines.settle(key, committed);
    }

    /// Marks the line pending and tells its sharers to forget.
    fn begin(&mut self, key: &Key, why: Why, now: Millis, outputs: &mut Vec<Output>) {
        let home = self.tenure.origin();
        let Some(line) = self.lines.get_mut(key) else { return };
        self.next_seq += 1;
        let seq = self.next_seq;
        let mut awaiting = std::mem::take(&mut line.sharers);
        awaiting.retain(|node| self.peers.may_read(*node, now));
        for to in &awaiting {
            self.peers.sent(*to, seq, now);
            outputs.push(Output::Invalidate { to: *to, order: Invalidate { home, key: key.clone(), seq } });
        }
        line.pending = Some(Pending { seq, why, awaiting });
        self.pending.insert(seq, key.clone());
        self.lines.settle(key, false);
    }

    /// Carries a pending change out if no sharer is left that could read the old value.
    /// Whether it did.
    fn complete(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) -> bool {
        let serves = self.tenure.serves(key, now);
        let Some(line) = self.lines.get_mut(key) else { return false };
        // A home whose own lease has ended must not expose anything: it waits for a renewal.
        let may = |p: &Pending| p.awaiting.is_empty() && (serves || !matches!(p.why, Why::Write(_)));
        let Some(pending) = line.pending.take_if(|p| may(p)) else { return false };
        self.pending.remove(&pending.seq);
        match pending.why {
            Why::Write(queued) => self.commit(key, queued, now, outputs),
            Why::Evict => {
                self.evicting_bytes =
                    self.evicting_bytes.saturating_sub(lines::cost(key, line.value.as_ref()));
                line.value = None;
            }
            Why::Leave => {
                self.leaving -= 1;
                self.lines.remove(key);
                self.answer_seals(outputs);
            }
        }
        true
    }

    fn commit(&mut self, key: &Key, queued: Queued, now: Millis, outputs: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(key) else { return };
        // The value may have expired since the condition was looked at.
        if let Some(answer) = early_answer(line, &queued.write, now) {
            return self.finish(queued, answer, outputs);
        }
        self.counter += 1;
        line.version = Version { epoch: self.tenure.ring_epoch(), counter: self.counter };
        line.value = queued.write.value.clone();
        line.deadline = queued.write.ttl.map(|ttl| now.plus(ttl));
        let answer = Answer::Written(Some(line.version));
        self.finish(queued, answer, outputs);
    }

    fn finish(&mut self, queued: Queued, answer: Answer, outputs: &mut Vec<Output>) {
        let id = queued.write.request_id.as_deref();
        let also = match (&answer, id) {
            (_, None) => Vec::new(),
            (Answer::Refused(Refusal::NotHome), Some(id)) => self.memo.forget(id),
            (_, Some(id)) => self.memo.finish(id, &answer),
        };
        outputs.extend(also.into_iter().map(|tag| Output::Answer { tag, answer: answer.clone() }));
        outputs.push(Output::Answer { tag: queued.tag, answer });
    }

    /// `from` has forgotten its copy. Late, repeated and unknown answers do nothing.
    pub fn acknowledged(&mut self, from: NodeId, seq: u64, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.release(from, seq, now, &mut outputs);
        outputs
    }

    fn release(&mut self, node: NodeId, seq: u64, now: Millis, outputs: &mut Vec<Output>) {
        self.peers.settled(node, seq);
        let Some(key) = self.pending.get(&seq).cloned() else { return };
        if let Some(pending) = self.lines.get_mut(&key).and_then(|line| line.pending.as_mut()) {
            pending.awaiting.remove(&node);
        }
        self.go_on(&key, now, outputs);
    }

    fn go_on(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let done = self.complete(key, now, outputs);
        self.lines.settle(key, done);
        self.advance(key, now, outputs);
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

    /// Evicts the longest unwritten lines while there is too much, sharers first.
    fn make_room(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        while self.lines.bytes().saturating_sub(self.evicting_bytes) > self.bytes_max {
            let Some(key) = self.lines.oldest() else { return };
            let value = self.lines.get(&key).and_then(|line| line.value.as_ref());
            self.evicting_bytes += lines::cost(&key, value);
            self.begin(&key, Why::Evict, now, outputs);
            self.go_on(&key, now, outputs);
        }
    }

    /// The log shows another ring, or this node's place in it has changed.
    pub fn set_view(&mut self, view: &View, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        match self.tenure.set_view(view, now) {
            Change::None => self.resume(now, &mut outputs),
            Change::Moved => self.move_out(now, &mut outputs),
            Change::Reborn => self.start_empty(&mut outputs),
        }
        if view.me.is_some() {
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

    fn answer_seals(&mut self, outputs: &mut Vec<Output>) {
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

/// The answer to a write that changes nothing: a condition that does not hold, a delete of nothing.
fn early_answer(line: &Line, write: &Write, now: Millis) -> Option<Answer> {
    let current = line.current(now);
    let mismatch = (write.if_absent && current.is_some())
        || write.if_version.is_some_and(|wanted| current != Some(wanted));
    if mismatch {
        Some(Answer::Refused(Refusal::VersionMismatch { current }))
    } else if write.value.is_none() && current.is_none() {
        Some(Answer::Written(None))
    } else {
        None
    }
}
