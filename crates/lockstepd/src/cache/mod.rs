//! The cache on this node: drives the pure machines of `lockstep_core::cache` over the peers.
//!
//! It supplies what they lack: a clock, tasks that wait, messages that travel. It decides nothing
//! about coherence itself, and it does not know where views of the ring come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use lockstep_core::Millis;
use lockstep_core::cache::copy::Copies;
use lockstep_core::cache::feed::{FEED_BYTES_MAX, Feed, News};
use lockstep_core::cache::home::Home;
use lockstep_core::cache::message::{Held, Refusal, Request};
use lockstep_core::cache::watch::Watching;
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::peer::Peers;

mod audit;
mod drive;
mod flush;
mod follow;
mod near;
mod parked;
mod read;
mod reread;
mod serve;
mod space;
mod stats;
#[cfg(test)]
mod tests;
mod types;
mod watch;
mod write;

pub use lockstep_core::cache::near::{Refusal as NearRefusal, Subject};
pub use near::{Lent, News as NearNews};
pub use space::{Line, Loaded};
pub use stats::Figures;
pub use types::{
    Change, DEFAULT, Entry, Error, Key, Limits, Version, View, WAITING_MAX, WATCHERS_MAX, Write, Written,
};
pub use watch::{Event, EventId, Only, Watch, Why};

use drive::Outbox;
use parked::Parked;
use reread::Rereads;

/// How long one read at a home may take before its readers look at the ring again.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before a message is sent again.
const RETRY: Duration = Duration::from_millis(25);

/// Portions of lines that a node that stops has on their way at once.
const PORTIONS: usize = 8;

/// How long a node that stops waits until what it owned has been given back.
const GIVE_BACK: Duration = Duration::from_secs(2);

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
    bells: follow::Bells,
    watchers_max: usize,
    /// Tells this process's events from those of any other.
    boot: u32,
    /// Wakes the background work: something is due earlier than it knows.
    due: Arc<Notify>,
    counts: stats::Counts,
    me: Weak<Self>,
}

struct State {
    home: Home,
    copies: Copies,
    near: near::Clients,
    /// What this node has changed.
    feed: Feed<News>,
    watching: Watching,
    parked: Parked,
    outbox: Outbox,
    rereads: Rereads,
}

type ReadAnswer = Result<Option<Held>, Again>;

/// Why one attempt to read at a home failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// Look at the ring, and ask again.
    Look,
    /// The home has too much to do: say so.
    Overloaded,
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
        let now = Millis(clock.millis());
        let cache = Arc::new_cyclic(|me| Self {
            node,
            clock,
            peers,
            state: Mutex::new(State {
                home: Home::new(node, limits.home_bytes),
                copies: Copies::new(limits.copy_bytes),
                near: near::Clients::new(limits.near, now),
                feed: Feed::new(FEED_BYTES_MAX),
                watching: Watching::new(node),
                parked: Parked::new(limits.waiting_max),
                outbox: Outbox::default(),
                rereads: Rereads::default(),
            }),
            changed: Notify::new(),
            bells: follow::Bells::default(),
            watchers_max: limits.watchers_max,
            boot: rand::random(),
            due: Arc::new(Notify::new()),
            counts: stats::Counts::default(),
            me: me.clone(),
        });
        tokio::spawn(drive::maintain(cache.me.clone(), cache.due.clone()));
        tokio::spawn(audit::audit(cache.me.clone()));
        cache
    }

    /// The log shows this ring. Call it whenever the applied state of the coordination shard shows
    /// another one than before, and when this process's own place in it has changed.
    pub fn set_view(&self, view: &View) {
        let now = self.now();
        let mut state = self.lock();
        if let Some((incarnation, _)) = view.me {
            state.copies.set_process(incarnation);
        }
        let outputs = state.home.set_view(&view.to_core(), now);
        // Before anybody who is home now hears that this node has sealed.
        self.follow_ring(&mut state);
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
    /// any copy, what it owned is its homes' again, and its lines are with those who are home next.
    /// To be done before the cluster is told that this node leaves, because others then take its
    /// keys over at once.
    pub async fn retire(&self) {
        let patience = Instant::now() + GIVE_BACK;
        loop {
            let now = self.now();
            {
                let mut state = self.lock();
                let outputs = state.copies.give_all_back(None);
                self.carry_out_copies(&mut state, outputs);
                let outputs = state.home.retire(now);
                self.carry_out_home(&mut state, outputs);
                if state.home.has_left() && (state.copies.owns_nothing() || Instant::now() >= patience) {
                    break;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
        self.bequeath().await;
    }

    /// Sends the lines ahead. What does not arrive becomes a miss.
    async fn bequeath(&self) {
        let now = self.now();
        let (from, ring_epoch, portions) = {
            let state = self.lock();
            let tenure = state.home.tenure();
            (tenure.origin(), tenure.ring_epoch(), state.home.bequests(now))
        };
        let send = |(heir, lines)| async move {
            let request = Request::Bequest { from, ring_epoch, lines };
            if self.call(heir, &request, READ_TIMEOUT).await.is_err() {
                tracing::info!(heir = heir.0, "could not hand cache lines over; they are misses now");
            }
        };
        stream::iter(portions.into_iter().map(send)).buffer_unordered(PORTIONS).collect::<()>().await;
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
    fn local(&mut self, key: &str, now: Millis) -> Option<Option<Entry>> {
        match self.home.read_own(key, now) {
            Ok(held) => Some(held.map(|held| Entry::new(held, 'S', true))),
            Err(Refusal::Owned) => None,
            Err(_) => {
                let seen = self.copies.look(key, now)?;
                let entry =
                    |held: &Held| Entry::new(Held { left: seen.left, ..held.clone() }, seen.state, true);
                Some(seen.held.map(entry))
            }
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
