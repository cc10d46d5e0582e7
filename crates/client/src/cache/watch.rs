//! Watching the cache: what changes, for programs that keep values by their own means.
//!
//! No write waits for a watcher, so a value that is kept beside it may be old for as long as an event
//! is under way: milliseconds, as a rule. [`crate::near`] keeps the cache's promise instead.

use std::time::Duration;

use super::Cache;
use crate::error::Error;
use crate::lock::form;
use crate::sse::{Follower, Next, Said};
use crate::wire;

/// A node says something at least every 5 seconds; one that is silent for longer is left.
const SILENT_AT_MOST: Duration = Duration::from_secs(12);

/// Something that a watcher of the cache is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A key has another value, or none: drop what is kept of it.
    Key(wire::CacheEvent),
    /// The namespace was emptied at one of its homes: drop everything.
    Flush,
    /// The beginning, or changes may have been missed: drop everything.
    Reset {
        /// Why; `start` at the beginning.
        reason: String,
    },
    /// Nothing is heard any more: whatever is kept may be old from now on, until another event comes.
    Away,
}

/// One watcher of a namespace, or of some of its keys. It never ends by itself.
pub struct CacheWatch {
    cache: Cache,
    key: Option<String>,
    prefix: Option<String>,
    after: Option<String>,
    follower: Option<Follower>,
}

impl Cache {
    /// Watches the namespace from now on: it begins with [`Changed::Reset`].
    pub fn watch(&self) -> CacheWatch {
        CacheWatch { cache: self.clone(), key: None, prefix: None, after: None, follower: None }
    }
}

impl CacheWatch {
    /// Only this key.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Only keys that begin so.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: Some(prefix.into()), ..self }
    }

    /// Goes on behind this event, which another watch has shown. At another node than that one's, it
    /// begins with a reset.
    #[must_use]
    pub fn after(self, id: impl Into<String>) -> Self {
        Self { after: Some(id.into()), ..self }
    }

    /// The last event that was seen, by which another watch can go on.
    pub fn last_event_id(&self) -> Option<&str> {
        self.follower.as_ref().and_then(Follower::last).or(self.after.as_deref())
    }

    /// What comes next; waits for as long as it takes. Dropping the future misses nothing. A value that
    /// was being read when its key's event came may be older than the event: keep it only if no event
    /// of its key came since it was asked for. Errors: the cluster refuses to tell.
    pub async fn next(&mut self) -> Result<Changed, Error> {
        let follower = match &mut self.follower {
            Some(follower) => follower,
            none => none.insert(begin(&self.cache, &self.key, &self.prefix, &self.after)),
        };
        match follower.next().await? {
            Next::Said(said) => changed(&said),
            Next::Broke => Ok(Changed::Away),
        }
    }
}

fn begin(cache: &Cache, key: &Option<String>, prefix: &Option<String>, after: &Option<String>) -> Follower {
    let namespace = cache.namespace_name();
    let fields = [("k", key), ("prefix", prefix), ("namespace", &namespace)];
    let given = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let target = format!("/cache/watch?{}", form(&given.collect::<Vec<_>>()));
    let mut follower = Follower::new(cache.client().clone(), target, SILENT_AT_MOST);
    after.iter().for_each(|id| follower.after(id.clone()));
    follower
}

fn changed(said: &Said) -> Result<Changed, Error> {
    let event: wire::CacheEvent = said.read()?;
    Ok(match event.event.as_str() {
        "invalidate" => Changed::Key(event),
        "flush" => Changed::Flush,
        _ => Changed::Reset { reason: event.reason.unwrap_or_default() },
    })
}
