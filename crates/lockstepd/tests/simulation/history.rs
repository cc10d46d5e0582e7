//! What happened, in order: every operation with its beginning and end in simulated time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Shared by all hosts of one run.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Event>>>);

#[derive(Clone, Debug, Hash)]
pub struct Event {
    pub node: u64,
    pub begun: Duration,
    pub ended: Duration,
    pub what: What,
}

#[derive(Clone, Debug, Hash)]
pub enum What {
    /// A lock was granted.
    Granted { lock: String, owner: String, token: u64 },
    /// A push was tried: acknowledged, or nobody knows.
    Pushed { payload: String, acknowledged: bool },
    /// A message was delivered.
    Received { payload: String, key: Option<String> },
    /// It was acknowledged, and the cluster said so.
    Acked { payload: String },
    /// A write of a cache key, with the version it got.
    Wrote { key: String, version: (u64, u64) },
    /// A conditional write, or one under a right to fill: nothing was written in between.
    Swapped { key: String, from: (u64, u64), to: (u64, u64) },
    /// An increment by one.
    Counted { key: String, version: (u64, u64), sum: i64 },
    /// A read of a cache key; `None` is a miss.
    Read { key: String, version: Option<(u64, u64)> },
    /// The default namespace was emptied.
    Flushed,
    /// A node has left as planned.
    Left,
    /// A shard's state at an index, as a hash.
    State { shard: u32, index: u64, hash: u64 },
    /// An operation without a result worth checking.
    Failed { op: &'static str, why: String },
}

impl History {
    pub fn add(&self, node: u64, begun: Duration, what: What) {
        let ended = turmoil::sim_elapsed().unwrap_or_default();
        self.0.lock().unwrap().push(Event { node, begun, ended, what });
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// How often a node has left as planned.
    pub fn left(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|event| matches!(event.what, What::Left)).count()
    }

    /// A hash of everything that happened, and when.
    pub fn trace(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.events().hash(&mut hasher);
        hasher.finish()
    }
}
