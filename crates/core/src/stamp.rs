//! Where and when a command was ordered: the only notion of position and time that the core has.
//!
//! It deliberately knows nothing of wall clocks: log time is a duration that leaders add up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A position in a shard's log. Dense, starts at 1; 0 means "nothing applied yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

/// The leader's reign under which an entry was ordered (raft's term, a Redis stream's major id).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Milliseconds: an instant of log time, or a span of it, as the name of the field says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// The instant `span` after this one; stays at the end of time instead of overflowing.
    #[must_use]
    pub const fn plus(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span from `earlier` to this instant, or zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// What ordering adds to a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The entry's position in the log. Several commands of one pack share it.
    pub index: Index,
    /// The leader's reign.
    pub epoch: Epoch,
    /// Log time as the leader proposed it. The shard clamps it: its own time never goes back.
    pub now: Millis,
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
