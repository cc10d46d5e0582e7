//! Watching the cache at this node: hands on what all members have changed.
//!
//! Watchers have no queue of their own: each reads the common feed at its own pace, and is reset where
//! the feed has forgotten what it has not read. It promises less than a near cache: no write waits for
//! a watcher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::cache::feed::News;
use lockstep_core::cache::space;
use lockstep_core::cache::watch::{Gap, Told};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Cache, Error, State};
use crate::turn::{Turn, turn};

/// How often a quiet watch says how far it has come.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Entries of the common feed that are looked at at once.
const LOOKED_AT_MAX: usize = 256;

/// A watcher that was told something looks again after so long: what changes meanwhile comes together,
/// and wakes it once.
const COLLECT: Duration = Duration::from_millis(2);

/// How long a watch waits for every member to say how far it is, before it begins.
const IN_STEP_WITHIN: Duration = Duration::from_secs(1);

/// The place of an entry in the common feed of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Drawn by each process of a node when it starts.
    pub process: u32,
    /// Counted by the process.
    pub seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.seq)
    }
}

/// What a watcher wants to hear of.
#[derive(Clone, Debug, Default)]
pub struct Only {
    /// One namespace.
    pub namespace: String,
    /// One key of it.
    pub key: Option<String>,
    /// Keys of it that begin so.
    pub prefix: Option<String>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing that it keeps may be used any more.
    Reset(Why),
    /// Something changed.
    News(News),
    /// Nothing that it wants to hear of happened up to here.
    Alive,
}

/// Why a watcher has to drop everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It begins here.
    Start,
    /// The event behind which it wanted to go on is not known here, or not any more.
    UnknownId,
    /// It reads too slowly.
    Slow,
    /// A member may have changed something that nobody has heard of.
    Gap(Gap),
}

/// One watcher.
pub struct Watch {
    cache: Arc<Cache>,
    only: Only,
    process: u32,
    /// The last entry that the watcher knows.
    seq: u64,
    /// Its first event, if it does not just go on.
    first: Option<Why>,
    rests_until: Instant,
    bell: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
}

impl Cache {
    /// Watches what changes from now on, or from behind an event. Errors: [`Error::HomeUnavailable`]
    /// while this process was never admitted as a member, [`Error::TooManyWatchers`].
    pub async fn watch(
        &self,
        only: Only,
        after: Option<EventId>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Watch, Error> {
        let cache = self.me.upgrade().ok_or(Error::HomeUnavailable)?;
        self.enter_watch()?;
        let (process, seq, first, rests_until) = (self.boot, 0, None, Instant::now());
        let bell = self.bells.told.subscribe();
        let mut watch = Watch { cache, only, process, seq, first, rests_until, bell, stopping };
        watch.get_in_step().await;
        watch.begin(after);
        Ok(watch)
    }

    fn enter_watch(&self) -> Result<(), Error> {
        let now = self.now();
        let mut state = self.lock();
        state.copies.process().ok_or(Error::HomeUnavailable)?;
        if state.watching.watchers() >= self.watchers_max {
            return Err(Error::TooManyWatchers);
        }
        let State { home, watching, .. } = &mut *state;
        let new = watching.enter(home.tenure().ring_epoch(), home.tenure().origins(), now);
        self.follow_all(new);
        Ok(())
    }
}

impl Watch {
    /// What happened since the last call, as soon as anything has. `None`: the node is stopping.
    pub async fn next(&mut self) -> Option<Vec<(EventId, Event)>> {
        // What others hear of rings as well, and must not put off the word that this one lives.
        let quiet_at = Instant::now() + ALIVE_EVERY;
        loop {
            if *self.stopping.borrow() {
                return None;
            }
            sleep_until(self.rests_until).await;
            self.bell.borrow_and_update();
            let events = self.look();
            self.rests_until = Instant::now() + COLLECT;
            if !events.is_empty() {
                return Some(events);
            }
            match turn(&mut self.bell, &mut self.stopping, quiet_at).await {
                Turn::Rung => {}
                Turn::Stopping => return None,
                Turn::Quiet => return Some(vec![(self.id(self.seq), Event::Alive)]),
            }
        }
    }

    async fn get_in_step(&mut self) {
        let deadline = Instant::now() + IN_STEP_WITHIN;
        loop {
            self.bell.borrow_and_update();
            if self.cache.lock().watching.is_in_step()
                || timeout_at(deadline, self.bell.changed()).await.is_err()
            {
                return;
            }
        }
    }

    fn begin(&mut self, after: Option<EventId>) {
        let state = self.cache.lock();
        let is_known = |id: &EventId| id.process == self.process && state.watching.after(id.seq, 0).whole;
        match after {
            Some(id) if is_known(&id) => self.seq = id.seq,
            other => {
                self.first = Some(if other.is_some() { Why::UnknownId } else { Why::Start });
                self.seq = state.watching.last();
            }
        }
    }

    /// What there is to tell, until there is nothing more to look at.
    fn look(&mut self) -> Vec<(EventId, Event)> {
        if let Some(why) = self.first.take() {
            return vec![(self.id(self.seq), Event::Reset(why))];
        }
        let mut events = Vec::new();
        while events.is_empty() {
            let since = self.cache.lock().watching.after(self.seq, LOOKED_AT_MAX);
            if !since.whole {
                self.seq = since.last;
                return vec![(self.id(self.seq), Event::Reset(Why::Slow))];
            }
            if since.entries.is_empty() {
                break;
            }
            for (told, seq) in since.entries.into_iter().zip(since.first..) {
                self.seq = seq;
                events.extend(self.only.event(told).map(|event| (self.id(seq), event)));
            }
        }
        events
    }

    fn id(&self, seq: u64) -> EventId {
        EventId { process: self.process, seq }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let now = self.cache.now();
        self.cache.lock().watching.leave(now);
    }
}

impl Only {
    fn event(&self, told: Told) -> Option<Event> {
        match told {
            Told::Reset(gap) => Some(Event::Reset(Why::Gap(gap))),
            Told::News(news) => self.concerns(&news).then_some(Event::News(news)),
        }
    }

    fn concerns(&self, news: &News) -> bool {
        match news {
            News::Flushed { namespace } => **namespace == *self.namespace,
            News::Changed { key, .. } => {
                let (namespace, key) = space::split(key);
                namespace == self.namespace
                    && self.key.as_deref().is_none_or(|only| only == key)
                    && self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
            }
        }
    }
}
