//! Reads: from memory where this node may, else from the key's home, which may let it keep a copy.
//!
//! It knows no namespaces: an unknown one is a miss.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use lockstep_core::cache::message::{Answer, Held, Refusal, Request, Value, Wish};
use lockstep_core::guards::Guard;
use lockstep_core::names::Origin;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::stats::count;
use super::{Again, Cache, Entry, Error, Key, READ_TIMEOUT, RETRY, ReadAnswer, Route};

/// A read that has begun.
enum Begun {
    Done(Option<Entry>),
    AtHome(oneshot::Receiver<ReadAnswer>),
    Again,
}

impl Cache {
    /// The value from this node's memory, if it holds a copy that may be read now. Never waits.
    pub fn get_local(&self, key: &str) -> Option<Entry> {
        let now = self.now();
        self.lock().local(key, now).flatten()
    }

    /// What `word` makes of the value in this node's memory, kept with it until it changes. `None` if
    /// nothing may be read here now, or the value has a time to live. Never waits.
    pub fn worded(&self, key: &str, word: impl FnOnce(&Entry) -> Bytes) -> Option<Bytes> {
        let now = self.now();
        let mut state = self.lock();
        if let Some(note) = state.home.note(key, now) {
            count(&self.counts.local_hits);
            return Some(note.clone());
        }
        if let Some(seen) = state.copies.look(key, now)
            && seen.left.is_none()
            && !seen.note.is_empty()
        {
            count(&self.counts.local_hits);
            return Some(seen.note.clone());
        }
        let entry = state.local(key, now)?.filter(|entry| entry.left.is_none())?;
        count(&self.counts.local_hits);
        let note = word(&entry);
        let key = Key::from(key);
        if state.home.tenure().serves(&key, now) {
            state.home.annotate(&key, entry.version, note.clone());
        } else {
            let outputs = state.copies.annotate(&key, entry.version, entry.state, note.clone());
            self.carry_out_copies(&mut state, outputs);
        }
        Some(note)
    }

    /// The value, from memory or from the key's home; `None` is a miss. `skip_local` always asks
    /// the home. Errors: [`Error::HomeUnavailable`].
    pub async fn get(&self, key: &Key, skip_local: bool, timeout: Duration) -> Result<Option<Entry>, Error> {
        let deadline = Instant::now() + timeout;
        let mut pause = RETRY;
        loop {
            if !skip_local {
                let now = self.now();
                if let Some(entry) = self.lock().local(key, now) {
                    self.count_local(entry.as_ref());
                    return Ok(entry);
                }
            }
            match self.read_home(key, skip_local, deadline).await {
                Ok(held) => return Ok(self.read_at_home(key, held)),
                Err(Again::Overloaded) => return Err(Error::Overloaded),
                Err(Again::Look) => {}
            }
            self.wait_for_change(deadline, &mut pause).await?;
        }
    }

    pub(super) fn count_local(&self, entry: Option<&Entry>) {
        count(if entry.is_some() { &self.counts.local_hits } else { &self.counts.misses });
    }

    /// What the home has answered, counted.
    fn read_at_home(&self, key: &str, held: Option<Held>) -> Option<Entry> {
        count(if held.is_some() { &self.counts.home_reads } else { &self.counts.misses });
        held.map(|held| Entry::new(held, self.state_of(key), false))
    }

    /// Notes at the key's home that a token was seen: older ones may do nothing there any more.
    pub async fn guard(&self, key: &Key, guard: &Guard, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let mut pause = RETRY;
        loop {
            let now = self.now();
            let route = self.lock().route(key, self.node, now);
            let answer = match route {
                Route::Own => Some(self.lock().home.guard(None, key, guard, now)),
                Route::Remote(home) => {
                    let to = self.addressee(home);
                    let request = Request::Guard { to, key: key.clone(), guard: guard.clone() };
                    let timeout = READ_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
                    self.call(home.node, &request, timeout).await.ok()
                }
                Route::Nobody => None,
            };
            match answer {
                Some(Answer::Guarded) => return Ok(()),
                Some(Answer::Refused(Refusal::Guard(refusal))) => return Err(Error::Guard(refusal)),
                _ => self.wait_for_change(deadline, &mut pause).await?,
            }
        }
    }

    /// Several at once, each for itself: those of one home travel together.
    pub async fn get_many(&self, keys: &[Key], timeout: Duration) -> Vec<Result<Option<Entry>, Error>> {
        let deadline = Instant::now() + timeout;
        let begun = self.begin_many(keys);
        let finish = keys.iter().zip(begun).map(|(key, begun)| async move {
            match begun {
                Begun::Done(entry) => {
                    self.count_local(entry.as_ref());
                    return Ok(entry);
                }
                Begun::AtHome(answer) => match timeout_at(deadline, answer).await {
                    Ok(Ok(Ok(held))) => return Ok(self.read_at_home(key, held)),
                    Ok(Ok(Err(Again::Overloaded))) => return Err(Error::Overloaded),
                    _ => {}
                },
                Begun::Again => {}
            }
            self.get(key, false, deadline.saturating_duration_since(Instant::now())).await
        });
        join_all(finish).await
    }

    fn begin_many(&self, keys: &[Key]) -> Vec<Begun> {
        let now = self.now();
        let mut state = self.lock();
        let (mut begun, mut outputs) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            begun.push(match (state.local(key, now), state.route(key, self.node, now)) {
                (Some(entry), _) => Begun::Done(entry),
                (None, Route::Remote(home)) => {
                    let (tag, answer) = state.parked.reader();
                    outputs.extend(state.copies.read(key, home, tag, now));
                    Begun::AtHome(answer)
                }
                (None, Route::Own | Route::Nobody) => Begun::Again,
            });
        }
        self.carry_out_copies(&mut state, outputs);
        begun
    }

    /// The coherence state of what is here after a read: `I` if it could not be kept.
    fn state_of(&self, key: &str) -> char {
        let now = self.now();
        let state = self.lock();
        if state.home.tenure().serves(key, now) {
            return 'S';
        }
        state.copies.inspect(key, now).map_or('I', |copy| copy.state)
    }

    /// One attempt at the home.
    async fn read_home(&self, key: &Key, skip_local: bool, deadline: Instant) -> ReadAnswer {
        let now = self.now();
        let route = self.lock().route(key, self.node, now);
        match route {
            Route::Own => self.read_own(key, deadline).await,
            Route::Remote(home) if skip_local => self.read_past_copies(key, home, deadline).await,
            Route::Remote(home) => self.read_through_copies(key, home, deadline).await,
            Route::Nobody => Err(Again::Look),
        }
    }

    /// This node is the home; another may own the line.
    async fn read_own(&self, key: &Key, deadline: Instant) -> ReadAnswer {
        let answer = {
            let now = self.now();
            let mut state = self.lock();
            match state.parked.caller() {
                Ok((tag, answer)) => {
                    let outputs = state.home.read_here(tag, key, now);
                    self.carry_out_home(&mut state, outputs);
                    answer
                }
                Err(refused) => refused,
            }
        };
        judge(timeout_at(deadline, answer).await.ok().and_then(Result::ok))
    }

    pub(super) async fn read_past_copies(&self, key: &Key, home: Origin, deadline: Instant) -> ReadAnswer {
        let request = Request::Read { to: self.addressee(home), key: key.clone(), wish: Wish::Look };
        let timeout = READ_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        judge(self.call(home.node, &request, timeout).await.ok())
    }

    async fn read_through_copies(&self, key: &Key, home: Origin, deadline: Instant) -> ReadAnswer {
        let answer = {
            let now = self.now();
            let mut state = self.lock();
            let (tag, answer) = state.parked.reader();
            let outputs = state.copies.read(key, home, tag, now);
            self.carry_out_copies(&mut state, outputs);
            answer
        };
        timeout_at(deadline, answer).await.ok().and_then(Result::ok).unwrap_or(Err(Again::Look))
    }
}

/// What a home said, if it said anything.
fn judge(answer: Option<Answer>) -> ReadAnswer {
    match answer {
        Some(Answer::Value(Value { held, .. })) => Ok(held),
        Some(Answer::Refused(Refusal::Overloaded)) => Err(Again::Overloaded),
        _ => Err(Again::Look),
    }
}
