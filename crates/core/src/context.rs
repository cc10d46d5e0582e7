//! What a machine may use while it applies a command: log time, the shard's one counter, and a
//! place for hints. Nothing else of the outside reaches a machine.

use serde::{Deserialize, Serialize};

use crate::command::Effect;
use crate::stamp::Millis;

/// The shard's one source of tokens, tickets, receipts and message ids. It only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter(u64);

/// Tokens travel as JSON numbers, which are exact only below this.
const MAX: u64 = 1 << 53;

impl Counter {
    /// A number that was never returned before.
    ///
    /// # Panics
    /// When 2^53 is reached: after that, tokens could repeat. A shard that issues a million a second
    /// gets there after 285 years.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 += 1;
        assert!(self.0 < MAX, "the counter of this shard is used up");
        self.0
    }

    /// The number returned last, or skipped to.
    pub fn last(self) -> u64 {
        self.0
    }

    /// Skips `by` numbers, and everything up to `at_least`, so that a history that forked here cannot
    /// hand out the same ones. Never skips the last of all numbers.
    pub fn raise(&mut self, by: u64, at_least: u64) {
        self.0 = self.0.saturating_add(by).max(at_least.min(MAX - 1));
    }
}

/// Handed to a machine with each command.
pub struct Context<'a> {
    /// Log time: never goes back.
    pub now: Millis,
    /// Where numbers come from.
    pub counter: &'a mut Counter,
    /// Hints for the leader.
    pub effects: &'a mut Vec<Effect>,
}
