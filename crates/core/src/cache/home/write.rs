//! Writes and evictions: a change waits until no sharer can read what was before, then happens.
//!
//! It does not know why a sharer need not be waited for any more; [`super::recall`] does.

use bytes::Bytes;

use super::line::{self, Line, Pending, Queued, Why, Writing};
use super::memo::Verdict;
use super::{Home, Output};
use crate::cache::feed;
use crate::cache::message::{Addressee, Answer, Change, Refusal, Write};
use crate::cache::{Key, Tag, Version, space};
use crate::command::Refusal as Fence;
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
        if let Some(refusal) = self.fenced(&write) {
            let answer = Answer::Refused(refusal);
            self.finish(Writing { tag, since: now, write }, answer, &mut outputs);
            return outputs;
        }
        self.lines.entry(&key).queue.push_back(Queued::Write(Writing { tag, since: now, write }));
        self.advance(&key, now, &mut outputs);
        self.make_room(&key, now, &mut outputs);
        outputs
    }

    fn refusal(&self, write: &Write, now: Millis) -> Option<Refusal> {
        if let Err(refusal) = self.admit(None, &write.key, now) {
            Some(refusal)
        } else if line::cost(&write.key, write.change.bytes()) > self.share(&write.key) {
            Some(Refusal::TooLarge)
        } else if self.lines.bytes() > self.bytes_max.saturating_mul(2) {
            // Silent sharers hold up so many evictions that only waiting helps.
            Some(Refusal::Full)
        } else {
            None
        }
    }

    /// Why the guard of `write` does not hold; if it does, older tokens of its lock are refused from
    /// now on.
    fn fenced(&mut self, write: &Write) -> Option<Refusal> {
        self.marks.check(write.guard.as_ref()?).err().map(Refusal::Guard)
    }

    /// Starts what waits at a line, until something has to wait for sharers.
    pub(super) fn advance(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let mut committed = false;
        while let Some(line) = self.lines.get_mut(key) {
            if line.pending.is_some() {
                break;
            }
            if line.owner.is_some() && !line.queue.is_empty() {
                let why = if line.is_only_read() { Why::Share } else { Why::Recall };
                self.begin(key, why, now, outputs);
                self.complete(key, now, outputs);
                continue;
            }
            match line.queue.pop_front() {
                Some(Queued::Write(writing)) => committed |= self.start(key, writing, now, outputs),
                Some(Queued::Read { tag, from, wish }) => self.tell(tag, from, key, wish, now, outputs),
                Some(Queued::Load { tag, load }) => self.seek(tag, &load, now, outputs),
                None => break,
            }
        }
        self.lines.settle(key, committed);
    }

    /// Whether it was committed at once.
    fn start(&mut self, key: &Key, writing: Writing, now: Millis, outputs: &mut Vec<Output>) -> bool {
        match self.lines.get_mut(key).map(|line| judge(line, &writing.write, now)) {
            Some(Err(why)) => {
                self.finish(writing, why.answer(), outputs);
                self.tend_loads(key, now, outputs);
                false
            }
            _ => {
                self.begin(key, Why::Write(writing), now, outputs);
                self.complete(key, now, outputs)
            }
        }
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
            Why::Write(writing) => self.commit(key, writing, now, outputs),
            Why::Recall | Why::Share => {}
            Why::Evict(cost) => {
                if let Some(version) = line.current(now) {
                    outputs.push(news(key, version, feed::Change::Evicted));
                }
                line.lose();
                self.lines.evicting(key, cost, false);
                self.stats.evictions += 1;
            }
            // Its owner was told to go on reading before the line had to leave.
            Why::Leave if !line.sharers.is_empty() => {
                self.begin(key, Why::Leave, now, outputs);
                self.complete(key, now, outputs);
            }
            Why::Leave => self.gone(key, now, outputs),
        }
        true
    }

    fn commit(&mut self, key: &Key, writing: Writing, now: Millis, outputs: &mut Vec<Output>) {
        let default_ttl = self.settings(key).ttl;
        // A newer holder may have come while this one waited for sharers.
        if let Some(refusal) = self.fenced(&writing.write) {
            return self.finish(writing, Answer::Refused(refusal), outputs);
        }
        let Some(line) = self.lines.get_mut(key) else { return };
        // The value may have expired, and a right to fill ended, since the conditions were looked at.
        let next = match judge(line, &writing.write, now) {
            Ok(next) => next,
            Err(why) => return self.finish(writing, why.answer(), outputs),
        };
        self.counter += 1;
        line.version = Version { epoch: self.tenure.ring_epoch(), counter: self.counter };
        line.fill = None;
        let keeps_deadline = next.sum.is_some() && line.current(now).is_some();
        if !keeps_deadline {
            line.deadline = writing.write.ttl.or(default_ttl).map(|ttl| now.plus(ttl));
        }
        line.put(next.value);
        let how = if line.value.is_some() { feed::Change::Set } else { feed::Change::Deleted };
        outputs.push(news(key, line.version, how));
        let answer = match next.sum {
            Some(value) => Answer::Counted { version: line.version, value },
            None => Answer::Written(Some(line.version)),
        };
        self.stats.writes += 1;
        self.stats.stalled(now.since(writing.since));
        self.finish(writing, answer, outputs);
        self.tend_loads(key, now, outputs);
    }

    /// Tells the caller, and retries that wait for the same outcome.
    pub(super) fn finish(&mut self, writing: Writing, answer: Answer, outputs: &mut Vec<Output>) {
        let (key, id) = (&writing.write.key, writing.write.request_id.as_deref());
        let also = match (&answer, id) {
            (_, None) => Vec::new(),
            (Answer::Refused(Refusal::NotHome | Refusal::Guard(Fence::GuardUnproven)), Some(id)) => {
                self.memo.forget(key, id)
            }
            (_, Some(id)) => self.memo.finish(key, id, &answer),
        };
        outputs.extend(also.into_iter().map(|tag| Output::Answer { tag, answer: answer.clone() }));
        outputs.push(Output::Answer { tag: writing.tag, answer });
    }

    /// Something that a pending change waited for has come about.
    pub(super) fn go_on(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let done = self.complete(key, now, outputs);
        self.lines.settle(key, done);
        self.advance(key, now, outputs);
    }

    /// While there is too much, in the namespace of `key` or in all of them: drops notes, then evicts
    /// lines that were long neither written nor read. Sharers first.
    pub(super) fn make_room(&mut self, key: &str, now: Millis, outputs: &mut Vec<Output>) {
        let namespace = space::of(key);
        let share = self.share(key);
        while self.lines.staying(Some(namespace)) > share && self.lines.drop_note(Some(namespace)) {}
        while self.lines.staying(None) > self.bytes_max && self.lines.drop_note(None) {}
        while self.lines.staying(Some(namespace)) > share && self.evict(Some(namespace), key, now, outputs) {}
        while self.lines.staying(None) > self.bytes_max && self.evict(None, key, now, outputs) {}
    }

    /// Whether there was anything to evict, for the sake of `new`.
    fn evict(&mut self, namespace: Option<&str>, new: &str, now: Millis, outputs: &mut Vec<Output>) -> bool {
        let Some(key) = self.lines.victim(namespace, new) else { return false };
        let cost = self.lines.get(&key).map_or(0, |line| line.cost);
        self.lines.evicting(&key, cost, true);
        self.begin(&key, Why::Evict(cost), now, outputs);
        self.go_on(&key, now, outputs);
        true
    }
}

/// What those who watch are told.
pub(super) fn news(key: &Key, version: Version, how: feed::Change) -> Output {
    Output::News(feed::News::Changed { key: key.clone(), version, how })
}

/// What a write makes of a line.
struct Next {
    value: Option<Bytes>,
    /// Of an addition.
    sum: Option<i64>,
}

/// Why a write changes no value.
enum NoChange {
    /// There is nothing to delete.
    NothingThere,
    /// A condition does not hold.
    Refused(Refusal),
}

impl NoChange {
    fn answer(self) -> Answer {
        match self {
            Self::NothingThere => Answer::Written(None),
            Self::Refused(refusal) => Answer::Refused(refusal),
        }
    }
}

/// What `write` would make of `line`.
fn judge(line: &mut Line, write: &Write, now: Millis) -> Result<Next, NoChange> {
    let refused = |refusal| Err(NoChange::Refused(refusal));
    if write.fill.is_some() && line.filling(now).map(|fill| fill.token) != write.fill {
        return refused(Refusal::FillVoid);
    }
    let current = line.current(now);
    if (write.if_absent && current.is_some())
        || write.if_version.is_some_and(|wanted| current != Some(wanted))
    {
        return refused(Refusal::VersionMismatch { current });
    }
    match &write.change {
        Change::Set(value) => Ok(Next { value: Some(value.clone()), sum: None }),
        Change::Delete if current.is_some() => Ok(Next { value: None, sum: None }),
        Change::Delete => {
            // Whoever meant to fill it in has read what was there before somebody said: delete.
            line.fill = None;
            Err(NoChange::NothingThere)
        }
        Change::Add(by) => {
            let before = if current.is_some() { line.value.as_ref() } else { None };
            match add(before, *by) {
                Ok(sum) => Ok(Next { value: Some(sum.to_string().into()), sum: Some(sum) }),
                Err(refusal) => refused(refusal),
            }
        }
    }
}

/// A value, nothing counting as 0, plus `by`.
pub(in crate::cache) fn add(value: Option<&Bytes>, by: i64) -> Result<i64, Refusal> {
    let before = match value {
        Some(bytes) => {
            let text = std::str::from_utf8(bytes).ok();
            text.and_then(|text| text.trim().parse::<i64>().ok()).ok_or(Refusal::NotANumber)?
        }
        None => 0,
    };
    before.checked_add(by).ok_or(Refusal::OutOfRange)
}
