//! What falls due when, in log time: an ordered index that machines share.
//!
//! It knows no clock: whoever applies a command says what time it is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::stamp::Millis;

/// At most one deadline for each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines<T: Ord> {
    by_time: BTreeSet<(Millis, T)>,
    by_key: BTreeMap<T, Millis>,
}

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Deadlines<T> {
    /// `key` is due at `at`, whatever was said of it before.
    pub fn set(&mut self, key: T, at: Millis) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// `key` is no longer due.
    pub fn remove(&mut self, key: &T) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    /// When `key` is due.
    pub fn at(&self, key: &T) -> Option<Millis> {
        self.by_key.get(key).copied()
    }

    /// When the first is due.
    pub fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the first that is due by `now`; ties in the order of their keys.
    pub fn pop_due(&mut self, now: Millis) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_deadline_is_due_once_at_its_new_time() {
        let mut deadlines = Deadlines::default();
        deadlines.set("a", Millis(10));
        deadlines.set("a", Millis(30));
        deadlines.set("b", Millis(20));
        assert_eq!(deadlines.pop_due(Millis(15)), None);
        assert_eq!(deadlines.pop_due(Millis(30)), Some("b"));
        assert_eq!(deadlines.pop_due(Millis(30)), Some("a"));
        assert_eq!(deadlines.pop_due(Millis(99)), None);
    }
}
