//! Guards: what makes a lock safe where work lands. A write may name a lock and the fencing token
//! under which it is done; a place that has seen a larger token of that lock refuses it.
//!
//! [`Marks`] is kept by every place where guarded work lands: a queue shard, a cache home. It asks
//! nobody: whether a token was ever handed out, and whether the lock is still held, only the
//! coordination shard knows ([`crate::locks`]); the answer travels with the guard as its [`Proof`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::names::{LockName, Token};

/// How many locks one place remembers before it forgets the one with the smallest token.
pub const MARKS_MAX: usize = 65_536;

/// A claim to do something under a lock, with what the coordination shard said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The lock.
    pub lock: LockName,
    /// The token of the hold under which the work is done.
    pub token: Token,
    /// What is known of the token.
    pub proof: Proof,
}

/// What the coordination shard said of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// It was handed out, for all that is known. True for ever once it is true.
    Issued,
    /// The lock was held under it, alone or shared, after the request had arrived.
    Held,
    /// A permit of the lock was held under it, after the request had arrived. Others may hold
    /// permits with larger tokens, so it fences nobody.
    HeldPermit,
}

/// The largest token seen of each lock, for at most [`MARKS_MAX`] locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    by_lock: BTreeMap<LockName, Token>,
    by_token: BTreeSet<(Token, LockName)>,
    /// Every forgotten mark was at or below this.
    floor: Token,
    max: Option<usize>,
}

impl Marks {
    /// Remembers at most `max` locks instead of [`MARKS_MAX`].
    #[must_use]
    pub fn bounded(max: usize) -> Self {
        Self { max: Some(max), ..Self::default() }
    }

    /// Whether work under `guard` may be done here now; if so, smaller tokens of its lock may not
    /// any more. Errors: [`Refusal::Fenced`] where a larger token was seen;
    /// [`Refusal::GuardUnproven`] where nothing is remembered of so old a token: ask again with a
    /// [`Proof::Held`].
    pub fn check(&mut self, guard: &Guard) -> Result<(), Refusal> {
        self.look(guard)?;
        let is_mark = self.by_lock.get(&guard.lock) == Some(&guard.token);
        if guard.proof != Proof::HeldPermit && !is_mark {
            self.raise(&guard.lock, guard.token);
        }
        Ok(())
    }

    /// What [`Self::check`] would say, without doing anything.
    pub fn look(&self, guard: &Guard) -> Result<(), Refusal> {
        match self.by_lock.get(&guard.lock) {
            Some(mark) if *mark > guard.token => Err(Refusal::Fenced { seen: Some(*mark) }),
            None if guard.token <= self.floor && guard.proof == Proof::Issued => Err(Refusal::GuardUnproven),
            _ => Ok(()),
        }
    }

    fn raise(&mut self, lock: &LockName, token: Token) {
        if let Some(before) = self.by_lock.insert(lock.clone(), token) {
            self.by_token.remove(&(before, lock.clone()));
        }
        self.by_token.insert((token, lock.clone()));
        if self.by_lock.len() > self.max.unwrap_or(MARKS_MAX)
            && let Some((token, lock)) = self.by_token.pop_first()
        {
            self.by_lock.remove(&lock);
            self.floor = self.floor.max(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(lock: &str, token: u64, proof: Proof) -> Guard {
        Guard { lock: LockName(lock.into()), token: Token(token), proof }
    }

    #[test]
    fn a_larger_token_fences_every_smaller_one() {
        let mut marks = Marks::default();
        assert_eq!(marks.check(&guard("a", 5, Proof::Issued)), Ok(()));
        assert_eq!(marks.check(&guard("a", 5, Proof::Issued)), Ok(()));
        assert_eq!(marks.check(&guard("b", 3, Proof::Issued)), Ok(()), "another lock");
        assert_eq!(marks.check(&guard("a", 7, Proof::Issued)), Ok(()));
        let fenced = Err(Refusal::Fenced { seen: Some(Token(7)) });
        for proof in [Proof::Issued, Proof::Held, Proof::HeldPermit] {
            assert_eq!(marks.check(&guard("a", 5, proof)), fenced);
        }
    }

    #[test]
    fn a_permit_fences_no_other_permit() {
        let mut marks = Marks::default();
        for token in [9, 4, 9] {
            assert_eq!(marks.check(&guard("a", token, Proof::HeldPermit)), Ok(()));
        }
    }

    #[test]
    fn a_forgotten_mark_never_lets_an_old_token_pass_unproven() {
        let mut marks = Marks::bounded(2);
        for (lock, token) in [("a", 5), ("b", 6), ("c", 7)] {
            assert_eq!(marks.check(&guard(lock, token, Proof::Issued)), Ok(()));
        }
        for token in [1, 5] {
            assert_eq!(marks.check(&guard("a", token, Proof::Issued)), Err(Refusal::GuardUnproven));
        }
        assert_eq!(marks.check(&guard("a", 5, Proof::Held)), Ok(()), "still held, so nobody came after");
        assert_eq!(marks.check(&guard("a", 8, Proof::Issued)), Ok(()), "newer than all that was forgotten");
    }
}
