//! The cache on this node: drives the pure machines of `lockstep_core::cache` over the peers.
//!
//! It supplies what they lack: a clock, tasks that wait, messages that travel. It decides nothing
//! about coherence itself, and it does not know where views of the ring come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockstep_core::Millis;
use lockstep_core::cache::Key;
use lockstep_core::cache::copy::{AskAgain, Copies};
use lockstep_core::cache::home::Home;
use lockstep_core::cache::message::{Answer, Held, Request, Value};
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::peer::Peers;

mod drive;
mod serve;
#[cfg(test)]
mod tests;
mod types;
mod write;

pub use types::{Entry, Error, Limits, Version, View, Write};

use drive::Parked;

/// How long one read at a home may take before its readers look at the ring again.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before a message is sent again.
const RETRY: Duration = Duration::from_millis(25);

/// The longest pause of a request that waits for a home, unless something changes sooner.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// The cache of this node.
pub struct Cache {
    node: NodeId,
    clock: Clock,
    peers: Arc<dyn Peers>,
    state: Mutex<State>,
    /// Wakes requests that wait for a home: the view, or what is served here, has changed.
    changed: Notify,
    /// Wakes the background work: something is due earlier than it knows.
    due: Arc<Notify>,
    me: Weak<Self>,
}

struct State {
    home: Home,
    copies: Copies,
    parked: Parked,
}

/// Where a request about a key goes.
enum Route {
    Own,
    Remote(Origin),
    /// Nobody serves it now.
    Nobody,
}

impl Cache {
    /// The cache of `node`, which serves nothing as a home before [`Self::set_view`]. Runs its
    /// background work on the current tokio runtime until it is dropped.
    pub fn new(node: NodeId, clock: Clock, peers: Arc<dyn Peers>, limits: Limits) -> Arc<Self> {
        let cache = Arc::new_cyclic(|me| Self {
            node,
            clock,
            peers,
            state: Mutex::new(State {
                home: Home::new(node, limits.home_bytes),
                copies: Copies::new(limits.copy_bytes),
                parked: Parked::default(),
            }),
            changed: Notify::new(),
            due: Arc::new(Notify::new()),
            me: me.clone(),
        });
        tokio::spawn(drive::maintain(cache.me.clone(), cache.due.clone()));
        cache
    }

    /// The value from this node's memory, if it holds a copy that may be read now. Never waits.
    pub fn get_local(&self, key: &str) -> Option<Entry> {
        let now = self.now();
        self.lock().local(key, now).flatten().map(|held| Entry::new(held, true))
    }

    /// The value, from memory or from the key's home; `None` is a miss. `skip_local` always asks
    /// the home. Errors: [`Error::HomeUnavailable`].
    pub async fn get(&self, key: &str, skip_local: bool, timeout: Duration) -> Result<Option<Entry>, Error> {
        let deadline = Instant::now() + timeout;
        let key = Key::from(key);
        let mut pause = RETRY;
        loop {
            if !skip_local {
                let now = self.now();
                if let Some(held) = self.lock().local(&key, now) {
                    return Ok(held.map(|held| Entry::new(held, true)));
                }
            }
            if let Some(held) = self.read_home(&key, skip_local, deadline).await {
                return Ok(held.map(|held| Entry::new(held, false)));
            }
            self.wait_for_change(deadline, &mut pause).await?;
        }
    }

    /// One attempt at the home; `None` if it has to be tried again.
    async fn read_home(&self, key: &Key, skip_local: bool, deadline: Instant) -> Option<Option<Held>> {
        let route = {
            let now = self.now();
            let state = self.lock();
            match state.home.read_own(key, now) {
                Ok(held) => return Some(held),
                Err(_) => state.remote(key, self.node),
            }
        };
        match route {
            Route::Remote(home) if skip_local => self.read_past_copies(key, home, deadline).await,
            Route::Remote(home) => self.read_through_copies(key, home, deadline).await.ok(),
            Route::Own | Route::Nobody => None,
        }
    }

    async fn read_past_copies(&self, key: &Key, home: Origin, deadline: Instant) -> Option<Option<Held>> {
        let request = Request::Read { to: self.addressee(home), key: key.clone(), copy: false };
        let timeout = READ_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        match self.call(home.node, &request, timeout).await {
            Ok(Answer::Value(Value { held, .. })) => Some(held),
            _ => None,
        }
    }

    async fn read_through_copies(
        &self,
        key: &Key,
        home: Origin,
        deadline: Instant,
    ) -> Result<Option<Held>, AskAgain> {
        let now = self.now();
        let answer = {
            let mut state = self.lock();
            let (tag, answer) = state.parked.reader();
            let outputs = state.copies.read(key, home, tag, now);
            self.carry_out_copies(&mut state, outputs);
            answer
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(AskAgain),
        }
    }

    /// The log shows this ring. Call it whenever the applied state of the coordination shard shows
    /// another one than before, and when this process's own place in it has changed.
    pub fn set_view(&self, view: &View) {
        let now = self.now();
        let mut state = self.lock();
        let outputs = state.home.set_view(&view.to_core(), now);
        self.carry_out_home(&mut state, outputs);
        drop(state);
        self.changed.notify_waiters();
    }

    /// A heartbeat was acknowledged: the membership lease now lasts until `until` by this node's
    /// clock (counted from the send, shortened by the drift). `ring_epoch` is what the reply said:
    /// after a lapse it tells whether another home may have served our keys meanwhile.
    pub fn membership_renewed(&self, until: Duration, ring_epoch: u64) {
        let now = self.now();
        let mut state = self.lock();
        let outputs = state.home.membership_renewed(types::floor(until), ring_epoch, now);
        self.carry_out_home(&mut state, outputs);
    }

    /// Stops to be a home, for good: returns when nothing that this node served can be read from
    /// any copy. To be done before the cluster is told that this node leaves, because others then
    /// take its keys over at once.
    pub async fn retire(&self) {
        loop {
            let now = self.now();
            {
                let mut state = self.lock();
                let outputs = state.home.retire(now);
                self.carry_out_home(&mut state, outputs);
                if state.home.is_empty() {
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn now(&self) -> Millis {
        Millis(self.clock.millis())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock stops the process in release builds; in tests the state is whole,
        // because the machines change it only in steps that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses before the next attempt, longer each time.
    async fn wait_for_change(&self, deadline: Instant, pause: &mut Duration) -> Result<(), Error> {
        let until = deadline.min(Instant::now() + *pause);
        *pause = PAUSE_MAX.min(*pause * 2);
        let _ = timeout_at(until, self.changed.notified()).await;
        if Instant::now() >= deadline { Err(Error::HomeUnavailable) } else { Ok(()) }
    }
}

impl State {
    /// What this node may answer by itself: a line if it is the home, else a copy.
    fn local(&mut self, key: &str, now: Millis) -> Option<Option<Held>> {
        match self.home.read_own(key, now) {
            Ok(held) => Some(held),
            Err(_) => self.copies.lookup(key, now),
        }
    }

    fn remote(&self, key: &str, node: NodeId) -> Route {
        match self.home.home_of(key) {
            Some(home) if home.node != node => Route::Remote(home),
            _ => Route::Nobody,
        }
    }

    fn route(&self, key: &str, node: NodeId, now: Millis) -> Route {
        if self.home.tenure().serves(key, now) { Route::Own } else { self.remote(key, node) }
    }
}
