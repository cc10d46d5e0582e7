//! Writes: find the home, ask it, and tell a certain failure from an unknown outcome.
//!
//! A write that may have been done is repeated only with a request id and only at the very process
//! that may have done it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use lockstep_core::cache::message::{Answer, Refusal, Request};
use lockstep_core::names::Origin;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Cache, Error, RETRY, Route, Write, Written};
use crate::peer;

/// What became of one attempt.
enum Attempt {
    Over(Result<Written, Error>),
    /// Certainly not done.
    NotDone,
    /// May have been done, there.
    Maybe(Origin),
}

impl Cache {
    /// Writes at the key's home, or here if this node owns the line; returns when no node can answer
    /// with an older value any more.
    pub async fn write(&self, write: Write, timeout: Duration) -> Result<Written, Error> {
        self.go_on_writing(&write, None, Instant::now() + timeout).await
    }

    /// Several at once, each for itself: those of one home travel together.
    pub async fn write_many(&self, writes: Vec<Write>, timeout: Duration) -> Vec<Result<Written, Error>> {
        let deadline = Instant::now() + timeout;
        let mut by_home: BTreeMap<Origin, Vec<usize>> = BTreeMap::new();
        let mut attempts = Vec::with_capacity(writes.len());
        for (at, write) in writes.iter().enumerate() {
            let now = self.now();
            let owned = self.write_owned(write);
            let route = self.lock().route(&write.key, self.node, now);
            match (owned, route) {
                (Some(attempt), _) => attempts.push((at, attempt)),
                (None, Route::Remote(home)) => by_home.entry(home).or_default().push(at),
                (None, Route::Own | Route::Nobody) => attempts.push((at, Attempt::NotDone)),
            }
        }
        let there = by_home.into_iter().map(|(home, at)| self.write_all_there(home, at, &writes, deadline));
        attempts.extend(join_all(there).await.into_iter().flatten());
        attempts.sort_by_key(|(at, _)| *at);
        let rest = attempts.into_iter().map(|(at, attempt)| {
            let write = &writes[at];
            async move {
                match attempt {
                    Attempt::Over(outcome) => outcome,
                    Attempt::NotDone => self.go_on_writing(write, None, deadline).await,
                    Attempt::Maybe(_) if write.request_id.is_none() => Err(Error::OutcomeUnknown),
                    Attempt::Maybe(home) => self.go_on_writing(write, Some(home), deadline).await,
                }
            }
        });
        join_all(rest).await
    }

    /// One message for all of them, in the order in which they stand.
    async fn write_all_there(
        &self,
        home: Origin,
        which: Vec<usize>,
        writes: &[Write],
        deadline: Instant,
    ) -> Vec<(usize, Attempt)> {
        let to = self.addressee(home);
        let requests = which.iter().map(|at| Request::Write { to, write: writes[*at].clone() }).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        match self.call_many(home.node, requests, left).await {
            Ok(answers) => which.into_iter().zip(answers.into_iter().map(|a| judge(a, false))).collect(),
            Err(peer::Error::NoAnswer) => which.into_iter().map(|at| (at, Attempt::Maybe(home))).collect(),
            Err(_) => which.into_iter().map(|at| (at, Attempt::NotDone)).collect(),
        }
    }

    async fn go_on_writing(
        &self,
        write: &Write,
        mut maybe_at: Option<Origin>,
        deadline: Instant,
    ) -> Result<Written, Error> {
        let mut pause = RETRY;
        loop {
            match self.attempt(write, maybe_at, deadline).await {
                Attempt::Over(outcome) => return outcome,
                Attempt::Maybe(_) if write.request_id.is_none() => return Err(Error::OutcomeUnknown),
                Attempt::Maybe(home) => maybe_at = Some(home),
                Attempt::NotDone => {}
            }
            if let Err(error) = self.wait_for_change(deadline, &mut pause).await {
                return Err(if maybe_at.is_some() { Error::OutcomeUnknown } else { error });
            }
        }
    }

    async fn attempt(&self, write: &Write, maybe_at: Option<Origin>, deadline: Instant) -> Attempt {
        if maybe_at.is_none()
            && let Some(attempt) = self.write_owned(write)
        {
            return attempt;
        }
        let now = self.now();
        let route = self.lock().route(&write.key, self.node, now);
        match (route, maybe_at) {
            (Route::Own, None) => self.write_here(write, deadline).await,
            (Route::Remote(home), None) => self.write_there(home, write, false, deadline).await,
            (Route::Remote(home), Some(former)) if home == former => {
                self.write_there(home, write, true, deadline).await
            }
            (Route::Nobody, _) => Attempt::NotDone,
            // Another process is home now, and cannot know what the former one did.
            (Route::Own | Route::Remote(_), Some(_)) => Attempt::Over(Err(Error::OutcomeUnknown)),
        }
    }

    /// Writes a line that this node owns.
    fn write_owned(&self, write: &Write) -> Option<Attempt> {
        let now = self.now();
        let mut state = self.lock();
        if state.near.machine.holds(&write.key) {
            // From when the line was shared: its home recalls it from us and from them.
            return None;
        }
        let (answer, outputs) = state.copies.write(write, now)?;
        self.tell_owned(&mut state, write, &answer);
        self.carry_out_copies(&mut state, outputs);
        Some(judge(answer, false))
    }

    async fn write_here(&self, write: &Write, deadline: Instant) -> Attempt {
        match timeout_at(deadline, self.start_write(write)).await {
            Ok(Ok(answer)) => judge(answer, false),
            Ok(Err(_)) | Err(_) => Attempt::Over(Err(Error::OutcomeUnknown)),
        }
    }

    fn start_write(&self, write: &Write) -> oneshot::Receiver<Answer> {
        let now = self.now();
        let mut state = self.lock();
        let (tag, answer) = match state.parked.caller() {
            Ok(parked) => parked,
            Err(refused) => return refused,
        };
        let outputs = state.home.write_own(tag, write.clone(), now);
        self.carry_out_home(&mut state, outputs);
        answer
    }

    async fn write_there(&self, home: Origin, write: &Write, maybe: bool, deadline: Instant) -> Attempt {
        let request = Request::Write { to: self.addressee(home), write: write.clone() };
        match self.call(home.node, &request, deadline.saturating_duration_since(Instant::now())).await {
            Ok(answer) => judge(answer, maybe),
            Err(peer::Error::NoAnswer) => Attempt::Maybe(home),
            Err(peer::Error::Unreachable | peer::Error::Refused(_) | peer::Error::Malformed) => {
                Attempt::NotDone
            }
        }
    }
}

/// `maybe`: an earlier attempt at this home had no answer.
fn judge(answer: Answer, maybe: bool) -> Attempt {
    match answer {
        Answer::Written(version) => Attempt::Over(Ok(Written { version, sum: None })),
        Answer::Counted { version, value } => {
            Attempt::Over(Ok(Written { version: Some(version), sum: Some(value) }))
        }
        Answer::Refused(refusal) => refused(refusal, maybe),
        _ => Attempt::Over(Err(Error::OutcomeUnknown)),
    }
}

fn refused(refusal: Refusal, maybe: bool) -> Attempt {
    let error = match refusal {
        Refusal::VersionMismatch { current } => Error::VersionMismatch { current },
        Refusal::TooLarge => Error::TooLarge,
        Refusal::RequestConflict => Error::RequestConflict,
        Refusal::Guard(refusal) => Error::Guard(refusal),
        Refusal::FillVoid => Error::FillVoid,
        Refusal::NotANumber => Error::NotANumber,
        Refusal::OutOfRange => Error::OutOfRange,
        _ if maybe => Error::OutcomeUnknown,
        // A home that does not know the namespace is behind the log: it was looked at before.
        Refusal::NotHome | Refusal::NoNamespace | Refusal::Owned => return Attempt::NotDone,
        Refusal::Full => Error::Full,
        Refusal::MemoFull => Error::MemoFull,
        Refusal::Overloaded => Error::Overloaded,
        Refusal::NoLease => Error::HomeUnavailable,
    };
    Attempt::Over(Err(error))
}
