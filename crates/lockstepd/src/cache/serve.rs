//! Answers what other nodes ask this one, as a home or as a holder of copies.
//!
//! It only takes messages apart; the machines know the answers.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::cache::Tag;
use lockstep_core::cache::message::{Answer, Had, Place, Refusal, Request, Value};
use lockstep_core::names::NodeId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Cache, State};
use crate::peer::{Error, Handler};

/// Bytes of values in one message; whoever asked for more is told to ask again. One value always fits.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How long reads that came together wait for the slowest of them.
const MANY_WAIT: Duration = Duration::from_millis(500);

/// An answer, or where it will come.
enum Soon {
    Now(Answer),
    Later(oneshot::Receiver<Answer>),
    /// The same, and it does no harm to ask again.
    Read(oneshot::Receiver<Answer>),
}

impl Soon {
    async fn get(self) -> Result<Answer, Error> {
        match self {
            Self::Now(answer) => Ok(answer),
            Self::Later(answer) | Self::Read(answer) => answer.await.map_err(|_| Error::NoAnswer),
        }
    }

    /// Beside others: a read that takes longer does not hold them up.
    async fn get_by(self, patience: Instant) -> Result<Answer, Error> {
        match self {
            Self::Read(answer) => match timeout_at(patience, answer).await {
                Ok(answer) => answer.map_err(|_| Error::NoAnswer),
                Err(_) => Ok(Answer::Refused(Refusal::NotHome)),
            },
            other => other.get().await,
        }
    }
}

#[async_trait]
impl Handler for Cache {
    async fn handle(&self, from: NodeId, payload: Bytes) -> Result<Bytes, Error> {
        let request = postcard::from_bytes(&payload).map_err(|_| Error::Malformed)?;
        let answer = self.answer(from, request).await?;
        postcard::to_stdvec(&answer).map(Bytes::from).map_err(|_| Error::Malformed)
    }
}

impl Cache {
    async fn answer(&self, from: NodeId, request: Request) -> Result<Answer, Error> {
        let requests = match request {
            Request::Follow(ask) => return Ok(self.followed(ask).await),
            Request::Many(requests) => requests,
            one => return self.begin(from, one)?.get().await,
        };
        let soon =
            requests.into_iter().map(|request| self.begin(from, request)).collect::<Result<Vec<_>, _>>()?;
        let mut answers = Vec::with_capacity(soon.len());
        let mut bytes = 0;
        let patience = Instant::now() + MANY_WAIT;
        for answer in soon {
            let answer = answer.get_by(patience).await?;
            let size = value_bytes(&answer);
            let fits = bytes == 0 || size == 0 || bytes + size <= ANSWER_BYTES_MAX;
            bytes += if fits { size } else { 0 };
            answers.push(if fits { answer } else { later(&answer) });
        }
        Ok(Answer::Many(answers))
    }

    fn begin(&self, from: NodeId, request: Request) -> Result<Soon, Error> {
        let now = self.now();
        let mut state = self.lock();
        let state = &mut *state;
        let answer = match request {
            Request::Renew { to } => state.home.renew(from, to, now),
            Request::Guard { to, key, guard } => state.home.guard(Some(to), &key, &guard, now),
            Request::Fence { to, guard } => state.home.fence(to, &guard, now),
            Request::Forget(order) => self.forget(state, &order, now),
            said @ Request::Forgotten { .. } => {
                self.take_forgotten(state, from, said);
                Answer::Returned
            }
            Request::Inspect { key } => Answer::Place(place(state, &key, now)),
            Request::Bequest { from: leaver, ring_epoch, lines } => {
                state.home.inherit(leaver, ring_epoch, lines, now)
            }
            Request::Return { to, key, grant, written } => {
                let (answer, outputs) = state.home.returned(from, to, &key, grant, written, now);
                self.carry_out_home(state, outputs);
                answer
            }
            Request::Many(_) | Request::Follow(_) => return Err(Error::Malformed),
            Request::Read { .. } | Request::Write { .. } | Request::Load { .. } => {
                let place = match &request {
                    Request::Load { load, .. } => state.parked.loader(load.key.clone()),
                    _ => state.parked.caller(),
                };
                let is_read = matches!(request, Request::Read { .. });
                let answer = match place {
                    Ok(parked) => self.park(state, parked, from, request),
                    Err(refused) => refused,
                };
                return Ok(if is_read { Soon::Read(answer) } else { Soon::Later(answer) });
            }
            Request::Flush { .. } | Request::Seal { .. } => {
                let parked = state.parked.caller_anyway();
                return Ok(Soon::Later(self.park(state, parked, from, request)));
            }
        };
        Ok(Soon::Now(answer))
    }

    /// What the home answers when it can.
    fn park(
        &self,
        state: &mut State,
        (tag, parked): (Tag, oneshot::Receiver<Answer>),
        from: NodeId,
        request: Request,
    ) -> oneshot::Receiver<Answer> {
        let now = self.now();
        let outputs = match request {
            Request::Read { to, key, wish } => state.home.read(tag, from, to, &key, wish, now),
            Request::Write { to, write } => state.home.write(tag, to, write, now),
            Request::Load { to, load } => {
                self.due.notify_one();
                state.home.load(tag, Some(to), load, now)
            }
            Request::Flush { to, namespace, guard } => {
                state.home.flush_under(guard, tag, to, &namespace, now)
            }
            Request::Seal { to, have } => state.home.seal(tag, from, to, have, now),
            _ => Vec::new(),
        };
        self.carry_out_home(state, outputs);
        parked
    }
}

fn value_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Value(Value { held: Some(held), .. }) | Answer::Forgotten(Had::Written(held)) => {
            held.value.len()
        }
        _ => 0,
    }
}

/// In place of a value that does not fit: it is asked for again, and given again.
fn later(answer: &Answer) -> Answer {
    match answer {
        Answer::Forgotten(_) => Answer::Forgetting,
        _ => Answer::Refused(Refusal::NotHome),
    }
}

pub(super) fn place(state: &State, key: &str, now: lockstep_core::Millis) -> Place {
    Place {
        line: state.home.inspect(key, now),
        copy: state.copies.inspect(key, now),
        spaces: state.home.spaces().revision(),
    }
}
