//! Carries out what the machines ask for: answers to parked callers, messages with their repeats,
//! and what is due as time passes.
//!
//! Every function that is given the state runs under its lock and never waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::Millis;
use lockstep_core::cache::copy::AskAgain;
use lockstep_core::cache::message::{Addressee, Answer, Forget, Order, Refusal, Request, Wish};
use lockstep_core::cache::{Key, copy, home};
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::Notify;

use super::{Again, Cache, READ_TIMEOUT, RETRY, State};
use crate::peer::{self, Lane, Service};

/// How long to wait for the answer to orders before they are sent again.
pub(super) const FORGET_TIMEOUT: Duration = Duration::from_millis(300);

/// How long to wait for a renewal; a later answer would be worth little.
const RENEW_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a member may take to seal before it is asked again.
const SEAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often leases are looked at when nothing else is due.
const LOOK: Duration = Duration::from_millis(100);

/// Requests in one message.
const BATCH: usize = 256;

/// Bytes of owned values that go back in one message, and one value more.
const RETURN_BYTES: usize = 4 << 20;

/// Orders that wait for the one before them to be answered: one message at a time to each node
/// carries everything that came up meanwhile.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<NodeId, Vec<Order>>,
    /// Nodes to which somebody is sending.
    busy: BTreeSet<NodeId>,
}

impl Cache {
    pub(super) fn carry_out_home(&self, state: &mut State, outputs: Vec<home::Output>) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                home::Output::Answer { tag, answer } => {
                    if let Some((caller, load)) = state.parked.take_caller(tag)
                        && let Err(answer) = caller.send(answer)
                    {
                        outputs.extend(self.not_delivered(state, load, &answer));
                    }
                }
                home::Output::Forget { to, order } if to == self.node => {
                    // What near clients hold of this home's own lines.
                    if let Answer::Forgotten(had) = self.forget(state, &order, self.now()) {
                        let outputs = state.home.acknowledged(to, order.seq, had, self.now());
                        self.carry_out_home(state, outputs);
                    }
                }
                home::Output::Forget { to, order } => {
                    state.outbox.waiting.entry(to).or_default().push(order);
                    if state.outbox.busy.insert(to) {
                        self.spawn(move |cache| async move { cache.send_orders(to).await });
                    }
                    self.due.notify_one();
                }
                home::Output::News(news) => self.tell(state, news),
                home::Output::Gap => self.tell_gap(state),
                home::Output::Left { key } => {
                    let me = state.home.tenure().origin();
                    state.copies.displaced_from(key, me, self.now());
                    self.reread_soon(state);
                }
                home::Output::Seal { to, ring_epoch } => {
                    self.spawn(move |cache| async move { cache.ask_seal(to, ring_epoch).await });
                }
            }
        }
    }

    /// A caller that has gone does not mind; but others may wait for what it was to fill in.
    fn not_delivered(&self, state: &mut State, load: Option<Key>, answer: &Answer) -> Vec<home::Output> {
        let (Some(key), Answer::Fill { token, .. }) = (load, answer) else { return Vec::new() };
        let State { home, parked, .. } = state;
        home.abandon_fill(&key, *token, |tag| parked.is_waiting(tag), self.now())
    }

    pub(super) fn carry_out_copies(&self, state: &mut State, outputs: Vec<copy::Output>) {
        let mut asks: BTreeMap<(Origin, bool), Vec<(copy::FlightId, Key)>> = BTreeMap::new();
        let mut returns: BTreeMap<Origin, Vec<(Key, u64)>> = BTreeMap::new();
        for output in outputs {
            match output {
                copy::Output::Answer { tag, value } => {
                    let value = value.map_err(|AskAgain| Again::Look);
                    state.parked.take_reader(tag).map(|reader| reader.send(value));
                }
                copy::Output::Ask { flight, home, key, may_own } => {
                    asks.entry((home, may_own)).or_default().push((flight, key));
                }
                copy::Output::Return { home, key, grant } => {
                    returns.entry(home).or_default().push((key, grant));
                }
            }
        }
        for (home, lines) in returns {
            self.spawn(move |cache| async move { cache.give_back(home, lines).await });
        }
        for ((home, may_own), mut flights) in asks {
            let to = addressee(state, home);
            let wish = if may_own { wish(state) } else { Wish::Keep };
            while !flights.is_empty() {
                let batch = flights.drain(..flights.len().min(BATCH)).collect();
                self.spawn(move |cache| async move { cache.fly(batch, home, to, wish).await });
            }
        }
    }

    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Arc<Self>) -> F) {
        if let Some(cache) = self.me.upgrade() {
            tokio::spawn(task(cache));
        }
    }

    async fn fly(&self, flights: Vec<(copy::FlightId, Key)>, home: Origin, to: Addressee, wish: Wish) {
        let requests = flights.iter().map(|(_, key)| Request::Read { to, key: key.clone(), wish }).collect();
        let answers = self.call_many(home.node, requests, READ_TIMEOUT).await.unwrap_or_default();
        let now = self.now();
        let mut state = self.lock();
        let mut answers = answers.into_iter();
        for (flight, _) in flights {
            let outputs = match answers.next() {
                Some(Answer::Value(value)) => state.copies.landed(flight, value, now),
                Some(Answer::Refused(Refusal::Overloaded)) => {
                    refuse_readers(&mut state, flight);
                    continue;
                }
                _ => state.copies.failed(flight),
            };
            self.carry_out_copies(&mut state, outputs);
        }
    }

    /// Sends what waits for `to` until nothing does. Orders are repeated until they are answered, or
    /// need not be any more.
    async fn send_orders(&self, to: NodeId) {
        let mut unanswered: Vec<Order> = Vec::new();
        loop {
            {
                let mut state = self.lock();
                let state = &mut *state;
                unanswered.append(state.outbox.waiting.entry(to).or_default());
                unanswered.retain(|order| state.home.awaits(to, order.seq));
                if unanswered.is_empty() {
                    state.outbox.busy.remove(&to);
                    return;
                }
            }
            let batch: Vec<Order> = unanswered.drain(..unanswered.len().min(BATCH)).collect();
            let requests = batch.iter().cloned().map(Request::Forget).collect();
            let patience = if batch.iter().any(is_recall) { READ_TIMEOUT } else { FORGET_TIMEOUT };
            match self.call_many(to, requests, patience).await {
                Ok(answers) => self.take_answers(to, &batch, answers),
                Err(_) => {
                    unanswered.extend(batch);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn take_answers(&self, from: NodeId, orders: &[Order], answers: Vec<Answer>) {
        let now = self.now();
        let mut state = self.lock();
        let mut later = Vec::new();
        for (order, answer) in orders.iter().zip(answers) {
            match answer {
                Answer::Forgotten(had) => {
                    let outputs = state.home.acknowledged(from, order.seq, had, now);
                    self.carry_out_home(&mut state, outputs);
                }
                Answer::Forgetting => later.push(order.clone()),
                _ => {}
            }
        }
        if !later.is_empty() {
            self.spawn(move |cache| async move { cache.ask_again(from, later).await });
        }
    }

    /// Near clients still read it there. They say so when they have forgotten; if that is lost, the
    /// orders are sent again. What was recalled did perhaps not fit the answer.
    async fn ask_again(&self, to: NodeId, orders: Vec<Order>) {
        let pause = if orders.iter().any(is_recall) { RETRY } else { FORGET_TIMEOUT };
        tokio::time::sleep(pause).await;
        let mut state = self.lock();
        for order in orders {
            if state.home.awaits(to, order.seq) {
                self.carry_out_home(&mut state, vec![home::Output::Forget { to, order }]);
            }
        }
    }

    /// Gives these lines back, one message at a time: repeats until the home has answered for each, or
    /// its process is no more.
    async fn give_back(&self, home: Origin, lines: Vec<(Key, u64)>) {
        let mut lines = VecDeque::from(lines);
        while !lines.is_empty() {
            let before = lines.len();
            let (batch, requests, is_member) = self.next_returns(home, &mut lines);
            let answers = if is_member && !requests.is_empty() {
                self.call_many(home.node, requests, READ_TIMEOUT).await.unwrap_or_default()
            } else {
                Vec::new()
            };
            let mut answers = answers.into_iter();
            for (key, grant) in batch {
                if matches!(answers.next(), Some(Answer::Returned)) || !is_member {
                    self.lock().copies.returned(&key, grant);
                } else {
                    lines.push_back((key, grant));
                }
            }
            if lines.len() == before {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// As many as fit one message, of those that are not known at their home yet.
    fn next_returns(
        &self,
        home: Origin,
        lines: &mut VecDeque<(Key, u64)>,
    ) -> (Vec<(Key, u64)>, Vec<Request>, bool) {
        let now = self.now();
        let state = self.lock();
        let (to, mut bytes) = (addressee(&state, home), 0);
        let (mut batch, mut requests) = (Vec::new(), Vec::new());
        while batch.len() < BATCH
            && bytes < RETURN_BYTES
            && let Some((key, grant)) = lines.pop_front()
        {
            if let Some(written) = state.copies.returning(&key, grant, now) {
                bytes += written.as_ref().map_or(0, |held| held.value.len());
                requests.push(Request::Return { to, key: key.clone(), grant, written });
                batch.push((key, grant));
            }
        }
        (batch, requests, state.home.tenure().origins().any(|origin| origin == home))
    }

    /// Repeats until the member has sealed and sent everything, or another ring makes that moot.
    async fn ask_seal(&self, member: Origin, ring_epoch: u64) {
        let to = member.node;
        loop {
            let have = {
                let state = self.lock();
                if !state.home.awaits_seal(to, ring_epoch) {
                    return;
                }
                state.home.has_lines_of(to)
            };
            let meant = Addressee { incarnation: member.incarnation, ring_epoch };
            let request = Request::Seal { to: meant, have };
            let answer = self.call(to, &request, SEAL_TIMEOUT).await;
            if let Ok(Answer::Sealed { ring_epoch: sealed, first, lines, more }) = answer {
                let is_fruitful = !lines.is_empty() || sealed == ring_epoch;
                let now = self.now();
                let mut state = self.lock();
                let outputs = state.home.sealed(to, sealed, first, lines, more, now);
                self.carry_out_home(&mut state, outputs);
                drop(state);
                self.changed.notify_waiters();
                if is_fruitful {
                    continue;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn renew(&self, home: Origin) {
        let sent = self.now();
        let request = Request::Renew { to: self.addressee(home) };
        match self.call(home.node, &request, RENEW_TIMEOUT).await {
            Ok(Answer::Renewed { lease }) => {
                let now = self.now();
                self.lock().copies.renewed(home, sent, lease, now);
            }
            // An answer of ours is overdue, perhaps for want of a near client's: soon it is not.
            Ok(_) => self.lock().copies.not_renewed(home),
            Err(_) => {}
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
        self.call_on(lane(request), to, request, timeout).await
    }

    pub(super) async fn call_on(
        &self,
        lane: Lane,
        to: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Answer, peer::Error> {
        let payload = postcard::to_stdvec(request).map(Bytes::from).map_err(|_| peer::Error::Malformed)?;
        let answer = self.peers.call(to, lane, Service::Cache, payload, timeout).await?;
        // It came, but says nothing that we understand: whatever was asked may have been done.
        postcard::from_bytes(&answer).map_err(|_| peer::Error::NoAnswer)
    }

    /// Several requests in one message; one answer each.
    pub(super) async fn call_many(
        &self,
        to: NodeId,
        mut requests: Vec<Request>,
        timeout: Duration,
    ) -> Result<Vec<Answer>, peer::Error> {
        if requests.len() == 1 {
            return Ok(vec![self.call(to, &requests.remove(0), timeout).await?]);
        }
        let count = requests.len();
        match self.call(to, &Request::Many(requests), timeout).await? {
            Answer::Many(answers) if answers.len() == count => Ok(answers),
            _ => Err(peer::Error::NoAnswer),
        }
    }

    /// Does what is due; returns how long nothing else will be.
    fn look_around(&self) -> Duration {
        let now = self.now();
        let mut state = self.lock();
        let outputs = state.home.tick(now);
        self.carry_out_home(&mut state, outputs);
        self.tick_near(&mut state, now);
        self.tick_watching(&mut state);
        let (renewals, outputs) = state.copies.renewals(now);
        self.carry_out_copies(&mut state, outputs);
        for home in renewals {
            self.spawn(move |cache| async move { cache.renew(home).await });
        }
        let due = [state.home.next_deadline(), state.near.machine.next_deadline()];
        match due.into_iter().flatten().min() {
            // The clock counts whole milliseconds: aim behind the edge.
            Some(at) => LOOK.min(Duration::from_millis(at.since(now).0 + 1)),
            None => LOOK,
        }
    }
}

/// What others wait for goes ahead of what may carry much.
fn lane(request: &Request) -> Lane {
    match request {
        Request::Many(requests) if requests.iter().any(|one| lane(one) == Lane::Request) => Lane::Request,
        // The answer to a recall may be a large value.
        Request::Forget(order) if is_recall(order) => Lane::Request,
        Request::Read { .. }
        | Request::Load { .. }
        | Request::Write { .. }
        | Request::Return { .. }
        | Request::Bequest { .. }
        | Request::Follow(_) => Lane::Request,
        _ => Lane::Control,
    }
}

fn is_recall(order: &Order) -> bool {
    matches!(order.what, Forget::Owned { .. })
}

fn addressee(state: &State, home: Origin) -> Addressee {
    Addressee { incarnation: home.incarnation, ring_epoch: state.home.tenure().ring_epoch() }
}

/// The home has too much to do: whoever waits for this flight is told so.
fn refuse_readers(state: &mut State, flight: copy::FlightId) {
    for output in state.copies.failed(flight) {
        if let copy::Output::Answer { tag, .. } = output
            && let Some(reader) = state.parked.take_reader(tag)
        {
            let _ = reader.send(Err(Again::Overloaded));
        }
    }
}

fn wish(state: &State) -> Wish {
    state.copies.process().map_or(Wish::Keep, |process| Wish::Own { process })
}

/// Looks around as time passes, until the cache is dropped.
pub(super) async fn maintain(cache: Weak<Cache>, due: Arc<Notify>) {
    while let Some(alive) = cache.upgrade() {
        let pause = alive.look_around();
        drop(alive);
        let _ = tokio::time::timeout(pause, due.notified()).await;
    }
}

/// What is left until `deadline`, as the machines count.
pub(super) fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
