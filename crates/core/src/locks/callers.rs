//! Who may still hear of a ticket or of a grant: when the last of them has hung up, the place in the
//! queue is left, or the grant is given back.
//!
//! One request may have several callers: a client that asks again under its request id, an owner that
//! asks twice. It does not know whether any of them has been told; each says itself that it is gone.

use serde::{Deserialize, Serialize};

use crate::command::Attempt;
use crate::names::Origin;

/// Beyond so many nobody is left out: the wait or the lease ends it.
const CALLERS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Callers {
    known: Vec<Attempt>,
    /// There were more than are known.
    many: bool,
}

impl Callers {
    pub(super) fn new(attempt: Attempt) -> Self {
        Self { known: vec![attempt], many: false }
    }

    /// One more, unless it is known already.
    pub(super) fn add(&mut self, attempt: Attempt) {
        match self.known.contains(&attempt) {
            true => {}
            false if self.known.len() < CALLERS_MAX => self.known.push(attempt),
            false => self.many = true,
        }
    }

    /// One has hung up. Whether it was the last; one that is not known changes nothing.
    pub(super) fn leave(&mut self, attempt: Attempt) -> bool {
        self.drop_those(|known| *known == attempt)
    }

    /// A process has ended, and all of its callers with it. Whether they were the last.
    pub(super) fn leave_all(&mut self, origin: Origin) -> bool {
        self.drop_those(|known| known.origin == origin)
    }

    fn drop_those(&mut self, gone: impl Fn(&Attempt) -> bool) -> bool {
        let before = self.known.len();
        self.known.retain(|known| !gone(known));
        self.known.len() < before && self.known.is_empty() && !self.many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u64) -> Attempt {
        Attempt { origin: Origin::default(), number }
    }

    #[test]
    fn only_the_last_to_leave_is_the_last() {
        let mut callers = Callers::new(attempt(1));
        callers.add(attempt(2));
        callers.add(attempt(2));
        assert!(!callers.leave(attempt(1)));
        assert!(!callers.leave(attempt(1)), "gone already");
        assert!(callers.leave(attempt(2)));
        assert!(!callers.leave(attempt(2)), "nobody leaves twice");
    }

    #[test]
    fn more_than_can_be_remembered_never_all_leave() {
        let mut callers = Callers::new(attempt(0));
        (1..=16).for_each(|number| callers.add(attempt(number)));
        assert!((0..=16).all(|number| !callers.leave(attempt(number))));
    }
}
