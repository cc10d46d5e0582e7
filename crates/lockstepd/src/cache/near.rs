//! What near clients ask: values that they may keep, what they have to forget, leases.
//!
//! It parks their questions and finds the leases; who waits for whom is decided by the pure machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::Millis;
use lockstep_core::cache::message::{Answer, Had, Held, Order, Request};
use lockstep_core::cache::near::{self, ClientId, Near, Note, Refusal};
use lockstep_core::cache::{Tag, message};
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::drive::FORGET_TIMEOUT;
use super::{Cache, Entry, Error, Key, State};

/// A question for news is answered after so long at the latest: the lease is counted from the question,
/// and has to last until the next one is answered, even if it was cut short.
const WAIT_MAX: Duration = Duration::from_millis(near::LEASE.0 / 4);

/// A value for a near client.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The value, if there is one.
    pub entry: Option<Entry>,
    /// Under whose lease it may be kept, and for how long from when it was asked for.
    pub lease: Option<(Origin, Millis)>,
}

/// What there is to say to a near client.
#[derive(Clone, Debug)]
pub struct News {
    /// To be forgotten, in order.
    pub notes: Vec<Note>,
    /// Leases, counted from when this was asked for.
    pub leases: Vec<(Origin, Millis)>,
}

/// The driver's side of near clients.
pub(super) struct Clients {
    pub(super) machine: Near,
    /// Tells this process's clients from those of a former one.
    boot: u64,
    next: ClientId,
    bells: BTreeMap<ClientId, Arc<Notify>>,
    next_tag: Tag,
    /// Orders that wait for clients.
    orders: BTreeMap<Tag, Forgetting>,
}

/// An order that is carried out here, but not yet at every near client.
struct Forgetting {
    home: Origin,
    seq: u64,
    had: Had,
}

impl Clients {
    pub(super) fn new(limits: near::Limits, now: Millis) -> Self {
        Self {
            machine: Near::new(limits, now),
            boot: rand::random(),
            next: 0,
            bells: BTreeMap::new(),
            next_tag: 0,
            orders: BTreeMap::new(),
        }
    }

    fn id(&self, name: &str) -> Result<ClientId, Refusal> {
        let parts = name.split_once('-');
        let (boot, id) = parts.ok_or(Refusal::Unknown)?;
        let is_ours = u64::from_str_radix(boot, 16).is_ok_and(|boot| boot == self.boot);
        id.parse().ok().filter(|_| is_ours).ok_or(Refusal::Unknown)
    }
}

impl Cache {
    /// A near client comes; returns its name.
    pub fn near_open(&self) -> Result<String, Refusal> {
        let now = self.now();
        let near = &mut self.lock().near;
        near.machine.open(near.next + 1, now)?;
        near.next += 1;
        near.bells.insert(near.next, Arc::default());
        Ok(format!("{:x}-{}", near.boot, near.next))
    }

    /// A near client goes, and holds nothing any more.
    pub fn near_close(&self, client: &str) {
        let mut state = self.lock();
        if let Ok(id) = state.near.id(client) {
            let outputs = state.near.machine.close(id);
            state.near.bells.remove(&id);
            self.carry_out_near(&mut state, outputs);
        }
    }

    /// The value of `key`, which a near client may keep if a lease comes with it.
    pub async fn near_get(
        &self,
        client: &str,
        key: &Key,
        timeout: Duration,
    ) -> Result<Result<Lent, Refusal>, Error> {
        let mut read = None;
        loop {
            match self.lend(client, key) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(Some(lent)) => {
                    if read.is_none() {
                        self.count_local(lent.entry.as_ref());
                    }
                    return Ok(Ok(lent));
                }
                Ok(None) => {}
            }
            if let Some(entry) = read {
                return Ok(Ok(Lent { entry, lease: None }));
            }
            // Whatever comes back may be answered; it may be kept only if a copy is here now.
            read = Some(self.get(key, false, timeout).await?);
        }
    }

    /// What this node may lend from its own memory now.
    fn lend(&self, client: &str, key: &Key) -> Result<Option<Lent>, Refusal> {
        let now = self.now();
        let mut state = self.lock();
        let state = &mut *state;
        let id = state.near.id(client)?;
        let (held, home, left) = if state.home.tenure().serves(key, now) {
            let Some((held, left, outputs)) = state.home.lend(key, now) else { return Ok(None) };
            self.carry_out_home(state, outputs);
            (held, state.home.tenure().origin(), left)
        } else {
            let Some(found) = state.copies.lend(key, now) else { return Ok(None) };
            found
        };
        let span = state.near.machine.keep(id, key, home, left, now)?;
        let entry = |held: Held| Entry::new(held, 'S', true);
        Ok(Some(Lent { entry: held.map(entry), lease: span.map(|span| (home, span)) }))
    }

    /// A near client has carried out everything up to `acked`. Says what else it has to forget, as
    /// soon as there is anything, and renews its leases.
    pub async fn near_sync(&self, client: &str, acked: u64, wait: Duration) -> Result<News, Refusal> {
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let (id, bell) = {
            let now = self.now();
            let mut state = self.lock();
            let id = state.near.id(client)?;
            let outputs = state.near.machine.acknowledged(id, acked, now)?;
            self.carry_out_near(&mut state, outputs);
            (id, state.near.bells.get(&id).cloned().ok_or(Refusal::Unknown)?)
        };
        while !self.lock().near.machine.has_news(id, acked)? {
            if timeout_at(deadline, bell.notified()).await.is_err() {
                break;
            }
        }
        let now = self.now();
        let mut state = self.lock();
        let State { home, copies, near, .. } = &mut *state;
        let me = home.tenure().origin();
        let mut left = |of: Origin| if of == me { home.lend_on(now) } else { copies.lend_on(of, now) };
        let leases = near.machine.renew(id, &mut left, now)?;
        Ok(News { notes: near.machine.notes(id)?, leases })
    }

    /// A home orders to forget something. The answer is final unless near clients may still read it.
    pub(super) fn forget(&self, state: &mut State, order: &Order, now: Millis) -> Answer {
        let same = |under_way: &Forgetting| under_way.home == order.home && under_way.seq == order.seq;
        if state.near.orders.values().any(same) {
            return Answer::Forgetting;
        }
        let had = state.copies.forget(order, now);
        self.reread_soon(state);
        state.near.next_tag += 1;
        let tag = state.near.next_tag;
        let mut outputs = state.near.machine.forget(tag, order, now);
        if outputs.pop_if(|last| *last == near::Output::Forgotten(tag)).is_some() {
            return Answer::Forgotten(had);
        }
        state.near.orders.insert(tag, Forgetting { home: order.home, seq: order.seq, had });
        self.carry_out_near(state, outputs);
        self.due.notify_one();
        Answer::Forgetting
    }

    pub(super) fn carry_out_near(&self, state: &mut State, outputs: Vec<near::Output>) {
        for output in outputs {
            match output {
                near::Output::Wake(client) => {
                    if let Some(bell) = state.near.bells.get(&client) {
                        bell.notify_one();
                    }
                }
                near::Output::Forgotten(tag) => {
                    if let Some(Forgetting { home, seq, had }) = state.near.orders.remove(&tag) {
                        self.say_forgotten(state, home, seq, had);
                    }
                }
            }
        }
    }

    /// If this is lost, the home asks again.
    fn say_forgotten(&self, state: &mut State, home: Origin, seq: u64, had: Had) {
        if home.node == self.node {
            let answer = message::Request::Forgotten { home, seq, had };
            self.take_forgotten(state, self.node, answer);
        } else {
            self.spawn(move |cache| async move {
                let request = Request::Forgotten { home, seq, had };
                let _ = cache.call(home.node, &request, FORGET_TIMEOUT).await;
            });
        }
    }

    /// A node says that what this home ordered to be forgotten is gone.
    pub(super) fn take_forgotten(&self, state: &mut State, from: NodeId, said: Request) {
        if let Request::Forgotten { home, seq, had } = said
            && home == state.home.tenure().origin()
        {
            let now = self.now();
            let outputs = state.home.acknowledged(from, seq, had, now);
            self.carry_out_home(state, outputs);
        }
    }

    /// Near clients whose leases have run out need not be waited for.
    pub(super) fn tick_near(&self, state: &mut State, now: Millis) {
        let outputs = state.near.machine.tick(now);
        self.carry_out_near(state, outputs);
        let Clients { machine, bells, .. } = &mut state.near;
        if machine.sizes().0 < bells.len() {
            bells.retain(|id, _| machine.notes(*id).is_ok());
        }
    }
}
