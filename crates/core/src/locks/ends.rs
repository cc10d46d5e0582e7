//! Sessions that have ended, as long as a queue shard does not know of it: each such shard is told
//! until it confirms.
//!
//! It sends nothing by itself: the coordination shard's leader carries the news over, and does so again
//! under its next leader. Telling twice is harmless.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::names::{SessionId, ShardId};

/// Ends that may wait for one shard: while there are as many, no session begins to receive from it
/// ([`crate::Refusal::TooManySessions`]).
pub const UNTOLD_MAX: usize = 1_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    untold: BTreeMap<ShardId, BTreeSet<SessionId>>,
}

impl Ends {
    /// These shards may hold receipts of the session, which has ended.
    pub(super) fn tell(&mut self, session: SessionId, shards: &BTreeSet<ShardId>) {
        for shard in shards {
            self.untold.entry(*shard).or_default().insert(session);
        }
    }

    /// The first that a shard is to be told, at most `max`.
    pub(super) fn untold(&self, shard: ShardId, max: usize) -> Vec<SessionId> {
        self.untold.get(&shard).into_iter().flatten().take(max).copied().collect()
    }

    /// Whether a shard that cannot be told leaves room for no more.
    pub(super) fn is_full(&self, shard: ShardId) -> bool {
        self.untold.get(&shard).is_some_and(|untold| untold.len() >= UNTOLD_MAX)
    }

    /// The shard knows of these.
    pub(super) fn confirm(&mut self, shard: ShardId, sessions: &[SessionId]) {
        let Some(untold) = self.untold.get_mut(&shard) else { return };
        for session in sessions {
            untold.remove(session);
        }
        if untold.is_empty() {
            self.untold.remove(&shard);
        }
    }

    /// Whether every shard knows that the session has ended.
    pub(super) fn is_known(&self, session: SessionId) -> bool {
        self.untold.values().all(|untold| !untold.contains(&session))
    }
}
