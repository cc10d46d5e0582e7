//! Carries out what the machines ask for: answers to parked callers, messages with their repeats,
//! and what is due as time passes.
//!
//! Every function that is given the state runs under its lock and never waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::cache::message::{Addressee, Answer, Held, Invalidate, Request};
use lockstep_core::cache::{Key, Tag, copy, home};
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::{Notify, oneshot};

use super::{Cache, READ_TIMEOUT, RETRY, State};
use crate::peer::{self, Lane, Service};

/// How long to wait for the answer to an invalidation before it is sent again.
const INVALIDATE_TIMEOUT: Duration = Duration::from_millis(300);

/// How long to wait for a renewal; a later answer would be worth little.
const RENEW_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a member may take to seal before it is asked again.
const SEAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often leases are looked at when nothing else is due.
const LOOK: Duration = Duration::from_millis(250);

type ReadAnswer = Result<Option<Held>, copy::AskAgain>;

/// Callers that wait for an answer of a machine, by tag.
#[derive(Default)]
pub(super) struct Parked {
    next: Tag,
    callers: BTreeMap<Tag, oneshot::Sender<Answer>>,
    readers: BTreeMap<Tag, oneshot::Sender<ReadAnswer>>,
}

impl Parked {
    /// Waits for an answer of the home machine.
    pub(super) fn caller(&mut self) -> (Tag, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.callers.insert(self.next, sender);
        (self.next, receiver)
    }

    /// Waits for a read through the copies.
    pub(super) fn reader(&mut self) -> (Tag, oneshot::Receiver<ReadAnswer>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.readers.insert(self.next, sender);
        (self.next, receiver)
    }
}

impl Cache {
    pub(super) fn carry_out_home(&self, state: &mut State, outputs: Vec<home::Output>) {
        for output in outputs {
            match output {
                home::Output::Answer { tag, answer } => {
                    // A caller that has gone does not mind.
                    state.parked.callers.remove(&tag).map(|caller| caller.send(answer));
                }
                home::Output::Invalidate { to, order } => {
                    self.spawn(|cache| async move { cache.invalidate(to, order).await });
                    self.due.notify_one();
                }
                home::Output::Seal { to, ring_epoch } => {
                    self.spawn(|cache| async move { cache.ask_seal(to, ring_epoch).await });
                }
            }
        }
    }

    pub(super) fn carry_out_copies(&self, state: &mut State, outputs: Vec<copy::Output>) {
        for output in outputs {
            match output {
                copy::Output::Answer { tag, value } => {
                    state.parked.readers.remove(&tag).map(|reader| reader.send(value));
                }
                copy::Output::Ask { flight, home, key } => {
                    let to = addressee(state, home);
                    self.spawn(move |cache| async move { cache.fly(flight, home, to, key).await });
                }
            }
        }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Arc<Self>) -> F) {
        if let Some(cache) = self.me.upgrade() {
            tokio::spawn(task(cache));
        }
    }

    async fn fly(&self, flight: copy::FlightId, home: Origin, to: Addressee, key: Key) {
        let request = Request::Read { to, key, copy: true };
        let answer = self.call(home.node, &request, READ_TIMEOUT).await;
        let now = self.now();
        let mut state = self.lock();
        let outputs = match answer {
            Ok(Answer::Value(value)) => state.copies.landed(flight, value, now),
            _ => state.copies.failed(flight),
        };
        self.carry_out_copies(&mut state, outputs);
    }

    /// Repeats until the sharer answers or need not any more.
    async fn invalidate(&self, to: NodeId, order: Invalidate) {
        let seq = order.seq;
        let request = Request::Invalidate(order);
        while self.lock().home.awaits(to, seq) {
            if let Ok(Answer::Invalidated) = self.call(to, &request, INVALIDATE_TIMEOUT).await {
                let now = self.now();
                let mut state = self.lock();
                let outputs = state.home.acknowledged(to, seq, now);
                return self.carry_out_home(&mut state, outputs);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Repeats until the member has sealed or another ring makes that moot.
    async fn ask_seal(&self, to: NodeId, ring_epoch: u64) {
        let request = Request::Seal { ring_epoch };
        while self.lock().home.awaits_seal(to, ring_epoch) {
            if let Ok(Answer::Sealed { ring_epoch }) = self.call(to, &request, SEAL_TIMEOUT).await {
                let now = self.now();
                let mut state = self.lock();
                let outputs = state.home.sealed(to, ring_epoch, now);
                self.carry_out_home(&mut state, outputs);
                drop(state);
                self.changed.notify_waiters();
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn renew(&self, home: Origin) {
        let sent = self.now();
        let request = Request::Renew { to: self.addressee(home) };
        if let Ok(Answer::Renewed { lease }) = self.call(home.node, &request, RENEW_TIMEOUT).await {
            let now = self.now();
            self.lock().copies.renewed(home, sent, lease, now);
        }
    }

    pub(super) fn addressee(&self, home: Origin) -> Addressee {
        addressee(&self.lock(), home)
    }

    pub(super) async fn call(
        &self,
        to: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Answer, peer::Error> {
        let payload = postcard::to_stdvec(request).map(Bytes::from).map_err(|_| peer::Error::Malformed)?;
        let answer = self.peers.call(to, Lane::Control, Service::Cache, payload, timeout).await?;
        // It came, but says nothing that we understand: whatever was asked may have been done.
        postcard::from_bytes(&answer).map_err(|_| peer::Error::NoAnswer)
    }

    /// Does what is due; returns how long nothing else will be.
    fn look_around(&self) -> Duration {
        let now = self.now();
        let mut state = self.lock();
        let outputs = state.home.tick(now);
        self.carry_out_home(&mut state, outputs);
        for home in state.copies.renewals(now) {
            self.spawn(move |cache| async move { cache.renew(home).await });
        }
        match state.home.next_deadline() {
            // The clock counts whole milliseconds: aim behind the edge.
            Some(at) => LOOK.min(Duration::from_millis(at.since(now).0 + 1)),
            None => LOOK,
        }
    }
}

fn addressee(state: &State, home: Origin) -> Addressee {
    Addressee { incarnation: home.incarnation, ring_epoch: state.home.tenure().ring_epoch() }
}

/// Looks around as time passes, until the cache is dropped.
pub(super) async fn maintain(cache: Weak<Cache>, due: Arc<Notify>) {
    while let Some(alive) = cache.upgrade() {
        let pause = alive.look_around();
        drop(alive);
        let _ = tokio::time::timeout(pause, due.notified()).await;
    }
}
