//! Writes: find the home, ask it, and tell a certain failure from an unknown outcome.
//!
//! A write that may have been done is repeated only with a request id and only at the very process
//! that may have done it.

use std::time::Duration;

use lockstep_core::cache::message::{self, Answer, Refusal, Request};
use lockstep_core::names::Origin;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Cache, Error, RETRY, Route, Version, Write};
use crate::peer;

/// What became of one attempt.
enum Attempt {
    Over(Result<Option<Version>, Error>),
    /// Certainly not done.
    NotDone,
    /// May have been done, there.
    Maybe(Origin),
}

impl Cache {
    /// Writes at the key's home; returns when no node can answer with an older value any more.
    /// The version written, or for a delete the version of the absence; `None` if nothing was there.
    pub async fn write(&self, write: Write, timeout: Duration) -> Result<Option<Version>, Error> {
        let deadline = Instant::now() + timeout;
        let write = message::Write::from(write);
        let mut maybe_at: Option<Origin> = None;
        let mut pause = RETRY;
        loop {
            match self.attempt(&write, maybe_at, deadline).await {
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

    async fn attempt(&self, write: &message::Write, maybe_at: Option<Origin>, deadline: Instant) -> Attempt {
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

    async fn write_here(&self, write: &message::Write, deadline: Instant) -> Attempt {
        match timeout_at(deadline, self.start_write(write)).await {
            Ok(Ok(answer)) => judge(answer, false),
            Ok(Err(_)) | Err(_) => Attempt::Over(Err(Error::OutcomeUnknown)),
        }
    }

    fn start_write(&self, write: &message::Write) -> oneshot::Receiver<Answer> {
        let now = self.now();
        let mut state = self.lock();
        let (tag, answer) = state.parked.caller();
        let outputs = state.home.write_own(tag, write.clone(), now);
        self.carry_out_home(&mut state, outputs);
        answer
    }

    async fn write_there(
        &self,
        home: Origin,
        write: &message::Write,
        maybe: bool,
        deadline: Instant,
    ) -> Attempt {
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
        Answer::Written(version) => Attempt::Over(Ok(version)),
        Answer::Refused(Refusal::VersionMismatch { current }) => {
            Attempt::Over(Err(Error::VersionMismatch { current }))
        }
        Answer::Refused(Refusal::TooLarge) => Attempt::Over(Err(Error::TooLarge)),
        Answer::Refused(Refusal::RequestConflict) => Attempt::Over(Err(Error::RequestConflict)),
        Answer::Refused(_) if maybe => Attempt::Over(Err(Error::OutcomeUnknown)),
        Answer::Refused(Refusal::NotHome) => Attempt::NotDone,
        Answer::Refused(_) => Attempt::Over(Err(Error::HomeUnavailable)),
        Answer::Value(_) | Answer::Renewed { .. } | Answer::Invalidated | Answer::Sealed { .. } => {
            Attempt::Over(Err(Error::OutcomeUnknown))
        }
    }
}
