//! What concerns whole namespaces, or shows what the protocol sees: loads, places.
//!
//! Who may configure namespaces, and where that is kept, is the router's affair.

use std::time::Duration;

use futures::future::join_all;
use lockstep_core::Millis;
use lockstep_core::cache::message::{Answer, Load, Place, Refusal, Request};
use lockstep_core::cache::{Key, Version};
use lockstep_core::names::{NodeId, Origin};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::drive::millis;
use super::stats::count;
use super::{Cache, Entry, Error, RETRY, Route, serve};

/// How long one member may take to say what it knows.
const PLACE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a load comes back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There is a value.
    Hit(Entry),
    /// There is none, and this caller alone may fill it in.
    Fill {
        /// Goes into the write.
        token: Version,
        /// How long it lasts.
        left: Millis,
    },
    /// There is none, and somebody else fills it in.
    Loading {
        /// What is left of that right.
        left: Millis,
    },
}

/// What every member knows of a key.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who is its home now.
    pub home: Option<Origin>,
    /// Under this ring.
    pub ring_epoch: u64,
    /// Every member, with what it said, if it did.
    pub places: Vec<(NodeId, Option<Place>)>,
}

impl Cache {
    /// Whether this node has heard of the namespace.
    pub fn knows(&self, namespace: &str) -> bool {
        namespace == super::DEFAULT || self.lock().home.spaces().get(namespace).is_some()
    }

    /// Waits until this node has heard of the namespace; `false` if it has not in time.
    pub async fn learn(&self, namespace: &str, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut pause = RETRY;
        while !self.knows(namespace) {
            if self.wait_for_change(deadline, &mut pause).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits until every member knows this revision of the namespaces.
    pub async fn spread(&self, revision: u64, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let mut pause = RETRY;
        loop {
            let line = self.line("").await;
            let knows = |place: &Option<Place>| place.as_ref().is_some_and(|p| p.spaces >= revision);
            if line.places.iter().all(|(_, place)| knows(place)) {
                return Ok(());
            }
            self.wait_for_change(deadline, &mut pause).await?;
        }
    }

    /// What the protocol knows of a key, everywhere.
    pub async fn line(&self, key: &str) -> Line {
        let now = self.now();
        let (home, ring_epoch, here, members) = {
            let state = self.lock();
            let members: Vec<NodeId> = state.home.tenure().origins().map(|origin| origin.node).collect();
            let here = serve::place(&state, key, now);
            (state.home.home_of(key), state.home.tenure().ring_epoch(), here, members)
        };
        let request = Request::Inspect { key: key.into() };
        let ask = |node: NodeId| {
            let (request, here) = (&request, &here);
            async move {
                if node == self.node {
                    return (node, Some(here.clone()));
                }
                match self.call(node, request, PLACE_TIMEOUT).await {
                    Ok(Answer::Place(place)) => (node, Some(place)),
                    _ => (node, None),
                }
            }
        };
        Line { home, ring_epoch, places: join_all(members.into_iter().map(ask)).await }
    }

    /// The value, or the right to fill it in for `lease`; waits up to `wait` for somebody else who does.
    pub async fn load(
        &self,
        key: Key,
        lease: Millis,
        wait: Duration,
        timeout: Duration,
    ) -> Result<Loaded, Error> {
        let began = Instant::now();
        let deadline = began + wait + timeout;
        if let Some(entry) = self.get_local(&key) {
            count(&self.counts.local_hits);
            return Ok(Loaded::Hit(entry));
        }
        let mut pause = RETRY;
        loop {
            let wait = millis(wait.saturating_sub(began.elapsed()));
            let load = Load { key: key.clone(), lease, wait };
            match self.load_once(load, deadline).await {
                Some(Answer::Value(value)) => {
                    if let Some(held) = value.held {
                        count(&self.counts.home_reads);
                        return Ok(Loaded::Hit(Entry::new(held, 'I', false)));
                    }
                }
                Some(Answer::Fill { token, left }) => {
                    count(&self.counts.misses);
                    return Ok(Loaded::Fill { token, left });
                }
                Some(Answer::Loading { left }) => {
                    count(&self.counts.misses);
                    return Ok(Loaded::Loading { left });
                }
                Some(Answer::Refused(Refusal::Overloaded)) => return Err(Error::Overloaded),
                Some(Answer::Refused(Refusal::Full)) => return Err(Error::Full),
                _ => {}
            }
            self.wait_for_change(deadline, &mut pause).await?;
        }
    }

    fn load_here(&self, load: Load) -> oneshot::Receiver<Answer> {
        let now = self.now();
        let mut state = self.lock();
        let (tag, answer) = match state.parked.loader(load.key.clone()) {
            Ok(parked) => parked,
            Err(refused) => return refused,
        };
        let outputs = state.home.load(tag, None, load, now);
        self.carry_out_home(&mut state, outputs);
        self.due.notify_one();
        answer
    }

    async fn load_once(&self, load: Load, deadline: Instant) -> Option<Answer> {
        let now = self.now();
        let route = self.lock().route(&load.key, self.node, now);
        match route {
            Route::Own => {
                let answer = self.load_here(load);
                timeout_at(deadline, answer).await.ok()?.ok()
            }
            Route::Remote(home) => {
                let request = Request::Load { to: self.addressee(home), load };
                let left = deadline.saturating_duration_since(Instant::now());
                self.call(home.node, &request, left).await.ok()
            }
            Route::Nobody => None,
        }
    }
}
