//! Remembers the outcome of writes that carried a request id, so that a retry does nothing twice.
//!
//! It lives as long as the home's process: a retry is never sent to another one.

use std::collections::{BTreeMap, VecDeque};

use xxhash_rust::xxh3::Xxh3;

use crate::cache::message::{Answer, Change, Refusal, Write};
use crate::cache::{Tag, Version};
use crate::stamp::Millis;

/// How long an outcome is remembered after the request came.
pub const WINDOW: Millis = Millis(60_000);

/// At most this many requests at once; more are refused rather than forgotten early.
pub const ENTRIES_MAX: usize = 1 << 18;

#[derive(Clone, Debug, Default)]
pub(super) struct Memo {
    known: BTreeMap<String, Known>,
    /// In the order in which they came.
    ages: VecDeque<(Millis, String)>,
}

#[derive(Clone, Debug)]
struct Known {
    fingerprint: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Under way: these retries wait for the outcome as well.
    Waiting(Vec<Tag>),
    Done(Answer),
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Do it, then call [`Memo::finish`] or [`Memo::forget`].
    Do,
    /// Do nothing: it is under way, and its outcome will be told to this caller as well.
    Attached,
    /// Do nothing: this is the answer.
    Answer(Answer),
}

impl Memo {
    /// A request came.
    pub(super) fn begin(&mut self, id: &str, write: &Write, tag: Tag, now: Millis) -> Verdict {
        self.drop_old(now);
        let fingerprint = fingerprint(write);
        let is_full = self.known.len() >= ENTRIES_MAX;
        match self.known.get_mut(id) {
            Some(known) if known.fingerprint != fingerprint => {
                Verdict::Answer(Answer::Refused(Refusal::RequestConflict))
            }
            Some(Known { state: State::Done(answer), .. }) => Verdict::Answer(answer.clone()),
            Some(Known { state: State::Waiting(tags), .. }) => {
                tags.push(tag);
                Verdict::Attached
            }
            None if is_full => Verdict::Answer(Answer::Refused(Refusal::Full)),
            None => {
                self.known.insert(id.to_owned(), Known { fingerprint, state: State::Waiting(Vec::new()) });
                self.ages.push_back((now, id.to_owned()));
                Verdict::Do
            }
        }
    }

    /// The request has this outcome; returns the retries that wait for it.
    pub(super) fn finish(&mut self, id: &str, answer: &Answer) -> Vec<Tag> {
        let Some(known) = self.known.get_mut(id) else { return Vec::new() };
        match std::mem::replace(&mut known.state, State::Done(answer.clone())) {
            State::Waiting(tags) => tags,
            State::Done(_) => Vec::new(),
        }
    }

    /// The request was not done and may be asked again; returns the retries that wait for it.
    pub(super) fn forget(&mut self, id: &str) -> Vec<Tag> {
        match self.known.remove(id) {
            Some(Known { state: State::Waiting(tags), .. }) => tags,
            _ => Vec::new(),
        }
    }

    fn drop_old(&mut self, now: Millis) {
        while let Some((since, id)) = self.ages.front() {
            if now.since(*since) < WINDOW {
                return;
            }
            if matches!(self.known.get(id), Some(Known { state: State::Done(_), .. })) {
                self.known.remove(id);
            }
            self.ages.pop_front();
        }
    }
}

/// Tells one write from another under the same id.
fn fingerprint(write: &Write) -> u64 {
    let mut hash = Xxh3::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(write.key.as_bytes());
    let (kind, by) = match &write.change {
        Change::Set(_) => (0, None),
        Change::Delete => (1, None),
        Change::Add(by) => (2, Some(by.cast_unsigned())),
    };
    field(&[kind, u8::from(write.if_absent)]);
    if let Change::Set(value) = &write.change {
        field(value);
    }
    let guard = write.guard.as_ref().map(|guard| (guard.lock.0.as_bytes(), guard.token.0));
    field(guard.map_or(&[], |(lock, _)| lock));
    let pair = |version: Option<Version>| [version.map(|v| v.epoch), version.map(|v| v.counter)];
    let numbers = [by, write.ttl.map(|ttl| ttl.0), guard.map(|(_, token)| token)];
    for number in numbers.into_iter().chain(pair(write.if_version)).chain(pair(write.fill)) {
        field(number.map(u64::to_le_bytes).as_ref().map_or(&[], |bytes| bytes.as_slice()));
    }
    hash.digest()
}
