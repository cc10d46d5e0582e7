//! Writes and evictions: a change waits until no sharer can read what was before, then happens.
//!
//! It does not know why a sharer need not be waited for any more; [`super::peers`] does.

use super::lines::{self, Line, Pending, Queued, Why};
use super::memo::Verdict;
use super::{Home, Output};
use crate::cache::message::{Addressee, Answer, Invalidate, Refusal, Write};
use crate::cache::{Key, Tag, Version};
use crate::names::NodeId;
use crate::stamp::Millis;

impl Home {
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
    pub(super) fn begin(&mut self, key: &Key, why: Why, now: Millis, outputs: &mut Vec<Output>) {
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

    /// Tells the caller, and retries that wait for the same outcome.
    pub(super) fn finish(&mut self, queued: Queued, answer: Answer, outputs: &mut Vec<Output>) {
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

    pub(super) fn release(&mut self, node: NodeId, seq: u64, now: Millis, outputs: &mut Vec<Output>) {
        self.peers.settled(node, seq);
        let Some(key) = self.pending.get(&seq).cloned() else { return };
        if let Some(pending) = self.lines.get_mut(&key).and_then(|line| line.pending.as_mut()) {
            pending.awaiting.remove(&node);
        }
        self.go_on(&key, now, outputs);
    }

    /// Something that a pending change waited for has come about.
    pub(super) fn go_on(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let done = self.complete(key, now, outputs);
        self.lines.settle(key, done);
        self.advance(key, now, outputs);
    }

    /// Evicts the longest unwritten lines while there is too much, sharers first.
    pub(super) fn make_room(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        while self.lines.bytes().saturating_sub(self.evicting_bytes) > self.bytes_max {
            let Some(key) = self.lines.oldest() else { return };
            let value = self.lines.get(&key).and_then(|line| line.value.as_ref());
            self.evicting_bytes += lines::cost(&key, value);
            self.begin(&key, Why::Evict, now, outputs);
            self.go_on(&key, now, outputs);
        }
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
