//! Watching a lock: what happens to it, one event after another, over any number of connections.
//!
//! A stream that ends or falls silent is opened again at another node, after the last event that was
//! seen. What the cluster no longer remembers comes as a reset.

use std::time::Duration;

use super::form;
use crate::client::Client;
use crate::error::Error;
use crate::sse::{Follower, Next, Said};
use crate::wire;

/// A node says something at least every 15 seconds; one that is silent for longer is left.
const SILENT_AT_MOST: Duration = Duration::from_secs(40);

/// Something that a watcher of a lock is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The beginning: who holds and who waits.
    State(wire::Lock),
    /// Events were missed that the cluster no longer remembers; from here on it is so.
    Reset(wire::Lock),
    /// Something happened.
    Event(wire::LockEvent),
}

/// One watcher of one lock. It never ends by itself.
pub struct LockWatch(Follower);

impl Client {
    /// Watches the lock `name` from now on: it begins with [`Watched::State`].
    pub fn watch_lock(&self, name: impl Into<String>) -> LockWatch {
        let target = format!("/lock/watch?{}", form(&[("name", &name.into())]));
        LockWatch(Follower::new(self.clone(), target, SILENT_AT_MOST))
    }
}

impl LockWatch {
    /// Goes on after this event instead, which another watch of the lock has shown.
    #[must_use]
    pub fn after(mut self, id: u64) -> Self {
        self.0.after(id.to_string());
        self
    }

    /// The last event that was seen, by which another watch can go on.
    pub fn last_event_id(&self) -> Option<u64> {
        self.0.last()?.parse().ok()
    }

    /// What comes next; waits for as long as it takes, and asks one node after another while none
    /// answers. Dropping the future misses nothing. Errors: the cluster refuses to show the lock.
    pub async fn next(&mut self) -> Result<Watched, Error> {
        loop {
            if let Next::Said(said) = self.0.next().await? {
                return watched(&said);
            }
        }
    }
}

fn watched(said: &Said) -> Result<Watched, Error> {
    Ok(match said.event.as_str() {
        "state" => Watched::State(said.read()?),
        "reset" => Watched::Reset(said.read()?),
        _ => Watched::Event(said.read()?),
    })
}
