//! Remembers the outcome of writes that carried a request id, so that a retry does nothing twice.
//!
//! An id is one for each key: another key may have another home, which would not know it.
//! It lives as long as the home's process: a retry is never sent to another one.

use std::collections::{BTreeMap, VecDeque};

use xxhash_rust::xxh3::Xxh3;

use crate::cache::message::{Answer, Change, Refusal, Write};
use crate::cache::{Tag, Version};
use crate::stamp::Millis;

/// How long an outcome is remembered after the request came.
pub const WINDOW: Millis = Millis(60_000);

/// At most this many requests at once; more are refused rather than forgotten early.
pub const ENTRIES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, Default)]
pub(super) struct Memo {
    known: BTreeMap<Name, Known>,
    /// In the order in which they came.
    ages: VecDeque<(Millis, Name)>,
}

/// A hash of a key and a request id.
type Name = u128;

#[derive(Clone, Debug)]
struct Known {
    since: Millis,
    fingerprint: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Under way: these retries wait for the outcome as well.
    Waiting(Vec<Tag>),
    Done(Outcome),
}

/// An answer to a write, small.
#[derive(Clone, Debug)]
enum Outcome {
    Written(Option<Version>),
    Counted(Version, i64),
    Other(Box<Answer>),
}

impl From<&Answer> for Outcome {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Written(version) => Self::Written(*version),
            Answer::Counted { version, value } => Self::Counted(*version, *value),
            other => Self::Other(Box::new(other.clone())),
        }
    }
}

impl From<&Outcome> for Answer {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Written(version) => Self::Written(*version),
            Outcome::Counted(version, value) => Self::Counted { version: *version, value: *value },
            Outcome::Other(answer) => Self::clone(answer),
        }
    }
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
        let name = name(&write.key, id);
        let is_full = self.known.len() >= ENTRIES_MAX;
        match self.known.get_mut(&name) {
            Some(known) if known.fingerprint != fingerprint => {
                Verdict::Answer(Answer::Refused(Refusal::RequestConflict))
            }
            Some(Known { state: State::Done(answer), .. }) => Verdict::Answer((&*answer).into()),
            Some(Known { state: State::Waiting(tags), .. }) => {
                tags.push(tag);
                Verdict::Attached
            }
            None if is_full => Verdict::Answer(Answer::Refused(Refusal::MemoFull)),
            None => {
                self.known.insert(name, Known { since: now, fingerprint, state: State::Waiting(Vec::new()) });
                self.ages.push_back((now, name));
                Verdict::Do
            }
        }
    }

    /// The request has this outcome; returns the retries that wait for it.
    pub(super) fn finish(&mut self, key: &str, id: &str, answer: &Answer) -> Vec<Tag> {
        let Some(known) = self.known.get_mut(&name(key, id)) else { return Vec::new() };
        match std::mem::replace(&mut known.state, State::Done(answer.into())) {
            State::Waiting(tags) => tags,
            State::Done(_) => Vec::new(),
        }
    }

    /// The request was not done and may be asked again; returns the retries that wait for it.
    pub(super) fn forget(&mut self, key: &str, id: &str) -> Vec<Tag> {
        match self.known.remove(&name(key, id)) {
            Some(Known { state: State::Waiting(tags), .. }) => tags,
            _ => Vec::new(),
        }
    }

    fn drop_old(&mut self, now: Millis) {
        while let Some((since, id)) = self.ages.front() {
            if now.since(*since) < WINDOW {
                return;
            }
            // It may have been forgotten and have come again since.
            let is_it = |known: &Known| known.since == *since && matches!(known.state, State::Done(_));
            if self.known.get(id).is_some_and(is_it) {
                self.known.remove(id);
            }
            self.ages.pop_front();
        }
    }
}

fn name(key: &str, id: &str) -> Name {
    let mut hash = Xxh3::new();
    for part in [key, id] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.digest128()
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
