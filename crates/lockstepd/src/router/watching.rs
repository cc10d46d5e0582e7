//! Watching a lock: follows the history that this node's replica of the coordination shard applies.
//!
//! What it shows is committed. It asks the leader once, at the beginning, so that a watch never
//! starts from a state that is older than the request.

use std::sync::Arc;
use std::time::Duration;

use lockstep_core::names::{LockName, ShardId};
use lockstep_core::query::{Answer, Event, HistoryView, LockView, Query};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Error, Router};
use crate::replica::Replica;
use crate::turn::{Turn, turn};

/// How often a quiet watch says how far it has come.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Events that are read at once.
const EVENTS_MAX: u32 = 256;
/// Between two looks of a node that has yet to apply what the leader had.
const BEHIND: Duration = Duration::from_millis(2);

/// What a watcher is told.
#[derive(Debug)]
pub enum Change {
    /// The beginning.
    State {
        /// The lock, if anybody holds or awaits it.
        view: Option<LockView>,
        /// The last event of any lock that is part of it.
        last: u64,
    },
    /// Events are no longer remembered that the watcher has not seen: it begins anew from here.
    Reset {
        /// The lock, if anybody holds or awaits it.
        view: Option<LockView>,
        /// The last event of any lock that is part of it.
        last: u64,
    },
    /// Something happened.
    Event(Event),
    /// Nothing happened to this lock up to here.
    Alive {
        /// The last event of any lock.
        last: u64,
    },
}

/// One watcher of one lock.
pub struct Watch {
    replica: Arc<Replica>,
    name: LockName,
    /// The last event that the watcher knows; `None` before the beginning.
    after: Option<u64>,
    bell: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
}

impl Router {
    /// Watches a lock from now on, or from after an event. Errors: [`Error::NoLeader`] where the
    /// coordination shard cannot be read.
    pub async fn watch_lock(
        &self,
        name: LockName,
        after: Option<u64>,
        timeout: Duration,
    ) -> Result<Watch, Error> {
        const SHARD: ShardId = ShardId::COORDINATION;
        let deadline = self.deadline(timeout);
        let replica = self.replica(SHARD).ok_or(Error::NoLeader { shard: SHARD })?;
        let question = Query::History { name: name.clone(), after: u64::MAX, limit: 0 };
        let Answer::History(view) = self.query(SHARD, question, timeout).await? else {
            return Err(Error::NoLeader { shard: SHARD });
        };
        let bell = replica.state().waiters().lock(&name);
        let watch = Watch { replica, name, after, bell, stopping: self.stopping() };
        let left = deadline.saturating_sub(self.clock.now());
        match tokio::time::timeout(left, watch.catch_up(view.last)).await {
            Ok(()) => Ok(watch),
            Err(_) => Err(Error::NoLeader { shard: SHARD }),
        }
    }
}

impl Watch {
    /// What happened since the last call, as soon as anything has. `None`: the node is stopping.
    pub async fn next(&mut self) -> Option<Vec<Change>> {
        // What others hear of rings as well, and must not put off the word that this one lives.
        let quiet_at = Instant::now() + ALIVE_EVERY;
        loop {
            if *self.stopping.borrow() {
                return None;
            }
            self.bell.borrow_and_update();
            let changes = self.look();
            if !changes.is_empty() {
                return Some(changes);
            }
            match turn(&mut self.bell, &mut self.stopping, quiet_at).await {
                Turn::Rung => {}
                Turn::Stopping => return None,
                Turn::Quiet => return Some(vec![Change::Alive { last: self.after.unwrap_or_default() }]),
            }
        }
    }

    fn look(&mut self) -> Vec<Change> {
        let (history, view) = self.read();
        let last = history.last;
        let Some(_) = self.after else {
            self.after = Some(last);
            return vec![Change::State { view, last }];
        };
        if !history.whole {
            self.after = Some(last);
            return vec![Change::Reset { view, last }];
        }
        let cut = history.events.len() == EVENTS_MAX as usize;
        self.after = if cut { history.events.last().map(|event| event.id) } else { Some(last) };
        history.events.into_iter().map(Change::Event).collect()
    }

    /// History and state of one instant.
    fn read(&self) -> (HistoryView, Option<LockView>) {
        let after = self.after.unwrap_or(u64::MAX);
        self.replica.state().read(|shard| {
            let question = Query::History { name: self.name.clone(), after, limit: EVENTS_MAX };
            let Answer::History(history) = shard.query(&question) else { unreachable!("shard 0 has one") };
            let begins = self.after.is_none() || !history.whole;
            let view = match begins.then(|| shard.query(&Query::Lock { name: self.name.clone() })) {
                Some(Answer::Lock(view)) => view,
                _ => None,
            };
            (history, view)
        })
    }

    /// Waits until this node has applied what the leader had.
    async fn catch_up(&self, last: u64) {
        // Nothing rings for every entry; a follower is behind by a message.
        while self.read().0.last < last {
            tokio::time::sleep(BEHIND).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let waiters = Arc::clone(self.replica.state().waiters());
        waiters.forget_lock(&self.name);
    }
}
