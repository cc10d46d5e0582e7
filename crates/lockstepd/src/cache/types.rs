//! What the cache is asked and what it answers.
//!
//! It holds no behaviour beside conversions to the core's words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::Millis;
use lockstep_core::cache::space::Spaces;
use lockstep_core::cache::{message, tenure};
use lockstep_core::command::Member;
use lockstep_core::names::{Incarnation, Origin};

pub use lockstep_core::cache::message::{Change, Write};
pub use lockstep_core::cache::space::DEFAULT;
pub use lockstep_core::cache::{Key, Version};

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value, opaque: JSON as the client sent it.
    pub value: Bytes,
    /// Larger for every later write of the key.
    pub version: Version,
    /// What is left of its time to live.
    pub left: Option<Millis>,
    /// The copy's coherence state here: `M`, `E`, `S` or `I`.
    pub state: char,
    /// Whether it was answered from this node's memory without asking its home.
    pub local: bool,
}

impl Entry {
    pub(super) fn new(held: message::Held, state: char, local: bool) -> Self {
        Self { value: held.value, version: held.version, left: held.left, state, local }
    }
}

/// Why the cache did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `if_version` or `if_absent` did not hold.
    #[error("version mismatch")]
    VersionMismatch {
        /// What is there.
        current: Option<Version>,
    },
    /// The key's home is dead, moving or cut off; certainly nothing was done.
    #[error("home unavailable")]
    HomeUnavailable,
    /// The write may have been done.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// Larger than a whole cache may be.
    #[error("value too large")]
    TooLarge,
    /// The same request id came with another write.
    #[error("request conflict")]
    RequestConflict,
    /// The guard does not hold.
    #[error("guard: {0}")]
    Guard(lockstep_core::Refusal),
    /// The right to fill is over.
    #[error("fill void")]
    FillVoid,
    /// The value is not a whole number.
    #[error("not a number")]
    NotANumber,
    /// The sum does not fit.
    #[error("out of range")]
    OutOfRange,
    /// The home holds as many bytes as it may; nothing was done.
    #[error("full")]
    Full,
    /// The home remembers as many requests as it may; nothing was done.
    #[error("memo full")]
    MemoFull,
    /// As many requests wait at the home as may; nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// As many watch at this node as may.
    #[error("too many watchers")]
    TooManyWatchers,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version written; for a delete that of the absence, `None` if nothing was there.
    pub version: Option<Version>,
    /// Of an addition.
    pub sum: Option<i64>,
}

/// The default of [`Limits::waiting_max`].
pub const WAITING_MAX: usize = 16_384;

/// The default of [`Limits::watchers_max`].
pub const WATCHERS_MAX: usize = 1_024;

/// How much memory the cache may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lines and directory of the keys whose home is this node.
    pub home_bytes: usize,
    /// Copies of other homes' lines.
    pub copy_bytes: usize,
    /// Copies in the processes of clients.
    pub near: lockstep_core::cache::near::Limits,
    /// Requests that wait at this home at once, of all nodes together; above it they are refused at
    /// once. Those that end a wait, or that nodes owe each other, are not counted. Loads are counted
    /// apart, and as many of them may wait beside the others.
    pub waiting_max: usize,
    /// Watchers at once.
    pub watchers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            home_bytes: 256 << 20,
            copy_bytes: 128 << 20,
            near: Default::default(),
            waiting_max: WAITING_MAX,
            watchers_max: WATCHERS_MAX,
        }
    }
}

/// The ring of live members as the log has it, and this process's place in it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// How often the set of live members has changed.
    pub ring_epoch: u64,
    /// This process as admitted, and the ring epoch at which it came in; `None` while it is not.
    pub me: Option<(Incarnation, u64)>,
    /// Every live member, this node included.
    pub members: Vec<Member>,
    /// The namespaces.
    pub spaces: Spaces,
    /// The end of this process's membership lease by this node's clock, counted from the send of
    /// the last acknowledged heartbeat and shortened by the drift.
    pub until: Duration,
}

impl View {
    pub(super) fn to_core(&self) -> tenure::View {
        let origin = |member: &Member| Origin { node: member.node, incarnation: member.incarnation };
        tenure::View {
            ring_epoch: self.ring_epoch,
            me: self.me,
            members: self.members.iter().map(origin).collect(),
            spaces: Arc::new(self.spaces.clone()),
            until: floor(self.until),
        }
    }
}

pub(super) fn floor(instant: Duration) -> Millis {
    Millis(u64::try_from(instant.as_millis()).unwrap_or(u64::MAX))
}
