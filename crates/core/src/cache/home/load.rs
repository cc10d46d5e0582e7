//! Filling missing values in: exactly one caller at a time is told to, the others wait for it.
//!
//! A right to fill is no lock: any write, delete, flush or move ends it.

use std::collections::VecDeque;

use super::line::{Fill, Line, Loader, Queued};
use super::{Home, Output};
use crate::cache::message::{Addressee, Answer, Load, Refusal, Value};
use crate::cache::{Key, Tag, Version};
use crate::stamp::Millis;

impl Home {
    /// The value, or the right to fill it in. Answered under `tag`, within the wait asked for.
    pub fn load(&mut self, tag: Tag, to: Option<Addressee>, load: Load, now: Millis) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Err(refusal) = self.admit(to, &load.key, now) {
            outputs.push(Output::Answer { tag, answer: Answer::Refused(refusal) });
        } else if self.lines.bytes() > self.bytes_max.saturating_mul(2) {
            outputs.push(Output::Answer { tag, answer: Answer::Refused(Refusal::Full) });
        } else {
            let key = load.key.clone();
            self.lines.entry(&key).queue.push_back(Queued::Load { tag, load });
            // Whatever is pending would only delay it: it reads what is committed.
            self.seek_first(&key, now, &mut outputs);
            self.make_room(&key, now, &mut outputs);
        }
        outputs
    }

    fn seek_first(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let is_free = line.owner.is_none() && line.queue.len() == 1;
        if is_free && let Some(Queued::Load { tag, load }) = line.queue.pop_front() {
            self.seek(tag, &load, now, outputs);
        }
        self.advance(key, now, outputs);
    }

    /// Answers a load at a line that nobody owns, or lets it wait.
    pub(super) fn seek(&mut self, tag: Tag, load: &Load, now: Millis, outputs: &mut Vec<Output>) {
        let until = now.plus(load.wait);
        self.lines.entry(&load.key).loaders.push_back(Loader { tag, lease: load.lease, until });
        self.tend_loads(&load.key, now, outputs);
        let waits = |line: &Line| line.loaders.iter().any(|loader| loader.tag == tag);
        if self.lines.get(&load.key).is_some_and(waits) {
            self.loads_due.insert((until, load.key.clone()));
        }
    }

    pub(super) fn tend_due_loads(&mut self, now: Millis, outputs: &mut Vec<Output>) {
        while let Some((at, _)) = self.loads_due.first()
            && *at <= now
            && let Some((_, key)) = self.loads_due.pop_first()
        {
            self.tend_loads(&key, now, outputs);
            self.lines.settle(&key, false);
        }
    }

    /// Whoever was told to fill `key` in under `token` has gone: the right passes on to somebody who
    /// waits still.
    pub fn abandon_fill(
        &mut self,
        key: &Key,
        token: Version,
        is_waiting: impl Fn(Tag) -> bool,
        now: Millis,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Some(line) = self.lines.get_mut(key)
            && line.fill.take_if(|fill| fill.token == token).is_some()
        {
            let (live, gone): (Vec<_>, Vec<_>) =
                line.loaders.drain(..).partition(|loader| is_waiting(loader.tag));
            line.loaders = live.into();
            let answer = Answer::Loading { left: Millis(0) };
            outputs.extend(gone.iter().map(|l| Output::Answer { tag: l.tag, answer: answer.clone() }));
            self.tend_loads(key, now, &mut outputs);
            self.lines.settle(key, false);
        }
        outputs
    }

    /// Tells those who wait at a line what there is to tell.
    pub(super) fn tend_loads(&mut self, key: &Key, now: Millis, outputs: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(key) else { return };
        line.fill = line.filling(now);
        if line.owner.is_some() {
            return;
        }
        if let Some(held) = line.held(now) {
            let value = Value { held: Some(held), lease: None, grant: None };
            let told = line.loaders.drain(..);
            outputs.extend(told.map(|l| Output::Answer { tag: l.tag, answer: Answer::Value(value.clone()) }));
            return;
        }
        if line.fill.is_none()
            && let Some(first) = line.loaders.pop_front()
        {
            self.counter += 1;
            let token = Version { epoch: self.tenure.ring_epoch(), counter: self.counter };
            let until = now.plus(first.lease);
            line.fill = Some(Fill { token, until });
            self.loads_due.insert((until, key.clone()));
            self.stats.fills += 1;
            outputs
                .push(Output::Answer { tag: first.tag, answer: Answer::Fill { token, left: first.lease } });
        }
        let left = line.fill.map_or(Millis(0), |fill| fill.until.since(now));
        for late in take_due(&mut line.loaders, now) {
            outputs.push(Output::Answer { tag: late.tag, answer: Answer::Loading { left } });
        }
    }
}

/// Takes those out who have waited long enough.
fn take_due(loaders: &mut VecDeque<Loader>, now: Millis) -> Vec<Loader> {
    let (due, rest): (Vec<_>, Vec<_>) = loaders.drain(..).partition(|loader| loader.until <= now);
    loaders.extend(rest);
    due
}
