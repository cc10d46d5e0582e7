//! Emptying a namespace: every home has to, under the very ring that all of them know.
//!
//! Under a guard all homes are asked for their marks first, so that whoever has lost the lock by then
//! empties none of them; whoever loses it later is told that some may be empty.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lockstep_core::cache::message::{Answer, Refusal, Request};
use lockstep_core::guards::Guard;
use lockstep_core::names::Origin;
use tokio::time::{Instant, timeout_at};

use super::{Cache, Error, RETRY};

/// What every home is asked.
#[derive(Clone)]
enum Step {
    Fence(Guard),
    Flush(Arc<str>, Option<Guard>),
}

impl Cache {
    /// Empties a namespace: returns when every home has, and no copy can be read. Errors:
    /// [`Error::Guard`], and nothing was done; [`Error::OutcomeUnknown`] if the guard ceased to hold when
    /// some homes may have been emptied; [`Error::HomeUnavailable`] if not all were in time.
    pub async fn flush(&self, namespace: &str, guard: Option<Guard>, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        if let Some(guard) = &guard {
            self.everywhere(&Step::Fence(guard.clone()), deadline).await?;
        }
        self.everywhere(&Step::Flush(namespace.into(), guard), deadline).await
    }

    async fn everywhere(&self, step: &Step, deadline: Instant) -> Result<(), Error> {
        let mut pause = RETRY;
        let mut is_begun = false;
        loop {
            let (ring_epoch, members) = {
                let state = self.lock();
                let tenure = state.home.tenure();
                (tenure.ring_epoch(), tenure.origins().collect::<Vec<_>>())
            };
            let answers = join_all(members.iter().map(|home| self.step_at(*home, step, deadline))).await;
            // Whoever did not answer may have done it.
            let is_emptied = |answer: &Option<Answer>| matches!(answer, None | Some(Answer::Flushed));
            is_begun |= matches!(step, Step::Flush(..)) && answers.iter().any(is_emptied);
            let fenced = answers.iter().flatten().find_map(|answer| match answer {
                Answer::Refused(Refusal::Guard(refusal)) => Some(refusal.clone()),
                _ => None,
            });
            if let Some(refusal) = fenced {
                return Err(if is_begun { Error::OutcomeUnknown } else { Error::Guard(refusal) });
            }
            let is_done = |answer: &Option<Answer>| matches!(answer, Some(Answer::Flushed | Answer::Guarded));
            // Under another ring, other homes may have taken lines over meanwhile.
            if answers.iter().all(is_done)
                && !members.is_empty()
                && self.lock().home.tenure().ring_epoch() == ring_epoch
            {
                return Ok(());
            }
            self.wait_for_change(deadline, &mut pause).await?;
        }
    }

    async fn step_at(&self, home: Origin, step: &Step, deadline: Instant) -> Option<Answer> {
        let to = self.addressee(home);
        if home.node != self.node {
            let request = match step.clone() {
                Step::Fence(guard) => Request::Fence { to, guard },
                Step::Flush(namespace, guard) => Request::Flush { to, namespace, guard },
            };
            let left = deadline.saturating_duration_since(Instant::now());
            return self.call(home.node, &request, left).await.ok();
        }
        let answer = {
            let now = self.now();
            let mut state = self.lock();
            match step {
                Step::Fence(guard) => return Some(state.home.fence(to, guard, now)),
                Step::Flush(namespace, guard) => {
                    let (tag, answer) = state.parked.caller_anyway();
                    let outputs = state.home.flush_under(guard.clone(), tag, to, namespace, now);
                    self.carry_out_home(&mut state, outputs);
                    answer
                }
            }
        };
        timeout_at(deadline, answer).await.ok()?.ok()
    }
}
