//! Locks as people see them: holders, waiters and what each waits for, history. Changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use super::{Lock, Locks, Place};
use crate::command::{Holder, Mode, Standing};
use crate::context::Counter;
use crate::names::{LockName, Owner, Ticket, Token};
use crate::query::{AuditView, HistoryView, HolderView, LockView, WaiterView};
use crate::stamp::Millis;

/// How many of those that block a waiter are shown.
const BLOCKERS_MAX: usize = 8;

impl Locks {
    /// One lock, if anybody holds or awaits it.
    pub fn view(&self, name: &LockName, now: Millis) -> Option<LockView> {
        self.locks.get(name).map(|lock| self.view_of(name, lock, now))
    }

    /// What is known of a token of `name`. Free locks leave no trace: for them every number that was
    /// handed out for anything may have been theirs.
    pub fn standing(&self, name: &LockName, token: Token, counter: &Counter) -> Standing {
        let holds = || self.locks.get(name).into_iter().flat_map(|lock| lock.holders.values());
        let permits = holds().any(|hold| hold.mode == Mode::Permit);
        let largest = holds().map(|hold| hold.token.0).max().unwrap_or(counter.last());
        match holds().any(|hold| hold.token == token) {
            true if permits => Standing::HeldPermit,
            true => Standing::Held,
            false if token.0 > largest => Standing::NeverIssued,
            false if permits => Standing::OtherPermits,
            false => Standing::Over,
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
            .map(|(name, lock)| self.view_of(name, lock, now))
            .collect()
    }

    /// What happened to one lock after an event.
    pub fn history(&self, name: &LockName, after: u64, limit: u32) -> HistoryView {
        self.history.since(name, after, limit)
    }

    /// Which locks were broken after an entry of the audit log, oldest first.
    pub fn audit(&self, name: Option<&LockName>, after: u64, limit: u32) -> Vec<AuditView> {
        self.history.audited(name, after, limit)
    }

    fn view_of(&self, name: &LockName, lock: &Lock, now: Millis) -> LockView {
        LockView {
            name: name.clone(),
            limit: (lock.permit_users > 0).then_some(lock.limit),
            delayed: lock.delayed_until.map(|until| until.since(now)),
            holders: lock.holders.keys().filter_map(|holder| self.holder_view(lock, holder, now)).collect(),
            waiters: lock.queue.iter().filter_map(|place| self.waiter_view(*place, now)).collect(),
        }
    }

    fn holder_view(&self, lock: &Lock, holder: &Holder, now: Millis) -> Option<HolderView> {
        let hold = lock.holders.get(holder)?;
        let claim = self.claims.get(&hold.claim)?;
        Some(HolderView {
            holder: holder.clone(),
            mode: hold.mode,
            token: hold.token,
            ttl: self.ttl(claim),
            left: self.left(now, hold.claim),
            metadata: claim.metadata.clone(),
        })
    }

    fn waiter_view(&self, place: Place, now: Millis) -> Option<WaiterView> {
        let ticket: Ticket = place.ticket();
        let waiter = self.waiter(ticket)?;
        let want = &waiter.want;
        let mut blocked_by: Vec<Owner> = Vec::new();
        for lock in want.names.iter().filter_map(|name| self.locks.get(name)) {
            let in_the_way = |holder: &&Holder| **holder != want.holder;
            if waiter.upgrade || !lock.admits(want.mode, want.limit) {
                let others = lock.holders.keys().filter(in_the_way);
                blocked_by.extend(others.take(BLOCKERS_MAX).map(|holder| holder.owner.clone()));
            }
            let ahead = self.ahead(lock, Some(place), &want.holder).and_then(|ahead| self.waiter(ahead));
            blocked_by.extend(ahead.map(|ahead| ahead.want.holder.owner.clone()));
        }
        blocked_by.sort();
        blocked_by.dedup();
        blocked_by.truncate(BLOCKERS_MAX);
        Some(WaiterView {
            holder: want.holder.clone(),
            mode: want.mode,
            upgrade: waiter.upgrade,
            ticket,
            left: waiter.until.since(now),
            names: want.names.clone(),
            blocked_by,
            metadata: want.metadata.clone(),
        })
    }
}
