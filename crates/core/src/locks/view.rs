//! Locks as people see them: holders and waiters. Changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use super::{Hold, Lock, Locks, Waiter};
use crate::command::Standing;
use crate::context::Counter;
use crate::names::{LockName, Token};
use crate::query::{HolderView, LockView, WaiterView};
use crate::stamp::Millis;

impl Locks {
    /// One lock, if anybody holds it.
    pub fn view(&self, name: &LockName, now: Millis) -> Option<LockView> {
        self.locks.get(name).map(|lock| lock.view(name, now))
    }

    /// What is known of a token of `name`. Free locks leave no trace: for them every number that was
    /// handed out for anything may have been theirs.
    pub fn standing(&self, name: &LockName, token: Token, counter: &Counter) -> Standing {
        let holders = self.locks.get(name).map(|lock| lock.holders.as_slice()).unwrap_or_default();
        let largest = holders.iter().map(|hold| hold.token.0).max().unwrap_or(counter.last());
        if holders.iter().any(|hold| hold.token == token) {
            Standing::Held
        } else if token.0 > largest {
            Standing::NeverIssued
        } else {
            Standing::Over
        }
    }

    /// At most `limit` locks whose names start with `prefix`, after `after`.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: u32, now: Millis) -> Vec<LockView> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(LockName(Arc::from(after))),
            _ => Bound::Included(LockName(Arc::from(prefix))),
        };
        self.locks
            .range((from, Bound::Unbounded))
            .take_while(|(name, _)| name.0.starts_with(prefix))
            .take(limit as usize)
            .map(|(name, lock)| lock.view(name, now))
            .collect()
    }
}

impl Lock {
    fn view(&self, name: &LockName, now: Millis) -> LockView {
        LockView {
            name: name.clone(),
            holders: self.holders.iter().map(|hold| hold.view(now)).collect(),
            waiters: self.waiters.iter().map(|waiter| waiter.view(now)).collect(),
        }
    }
}

impl Hold {
    fn view(&self, now: Millis) -> HolderView {
        HolderView {
            owner: self.owner.clone(),
            mode: self.mode,
            token: self.token,
            ttl: self.ttl,
            left: self.until.since(now),
        }
    }
}

impl Waiter {
    fn view(&self, now: Millis) -> WaiterView {
        WaiterView {
            owner: self.owner.clone(),
            mode: self.mode,
            ticket: self.ticket,
            left: self.until.since(now),
        }
    }
}
