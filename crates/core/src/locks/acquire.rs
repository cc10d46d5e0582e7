//! Taking locks: grant, re-enter, queue or refuse.
//!
//! Order is strict: a newcomer never passes anybody who waits, whatever its mode. The one exception
//! is an owner that already holds something for which a multi-lock waits: it would wait for itself.

use super::{Fate, Lock, Locks, NAMES_MAX, Waiter};
use crate::command::{Acquire, Attempt, Mode, Refusal, Reply};
use crate::context::Context;
use crate::names::{LockName, Ticket};
use crate::query::EventKind;
use crate::stamp::Millis;

impl Locks {
    pub(super) fn acquire(&mut self, ctx: &mut Context<'_>, want: &Acquire) -> Reply {
        if let Some(refusal) = self.unfit(want) {
            return Reply::Refused(refusal);
        }
        if let Some(reply) = self.acquire_again(ctx, want) {
            return reply;
        }
        if let Some(limit) = self.other_limit(want) {
            return Reply::Refused(Refusal::LimitMismatch { limit });
        }
        if self.is_grantable(want, None) {
            let reply = self.grant(ctx, want, None);
            self.let_pass(ctx, want);
            return reply;
        }
        if want.wait == Millis(0) {
            return Reply::Refused(self.busy(ctx.now, want));
        }
        self.wait(ctx, Waiter::new(want.clone(), false, ctx.now))
    }

    fn unfit(&self, want: &Acquire) -> Option<Refusal> {
        let sorted = want.names.windows(2).all(|pair| pair[0] < pair[1]);
        let counted = (want.mode == Mode::Permit) == (want.limit > 0);
        if !sorted || !counted || want.names.is_empty() || want.names.len() > NAMES_MAX {
            return Some(Refusal::Invalid);
        }
        match want.holder.session {
            Some(session) if !self.sessions.contains_key(&session) => Some(Refusal::SessionExpired),
            _ => None,
        }
    }

    /// The same owner asks for what it holds or awaits.
    fn acquire_again(&mut self, ctx: &mut Context<'_>, want: &Acquire) -> Option<Reply> {
        let held = want.names.iter().find_map(|name| self.hold(name, &want.holder));
        if let Some(hold) = held {
            return Some(self.re_enter(ctx, want, hold.claim));
        }
        let asking = |name| self.locks.get(name).and_then(|lock| lock.asking.get(&want.holder));
        let ticket = *want.names.iter().find_map(asking)?;
        let Some(Fate::Waiting(waiter)) = self.tickets.get(&ticket) else { return None };
        let mode = waiter.want.mode;
        Some(if mode != want.mode || waiter.want.names != want.names {
            Reply::Refused(Refusal::ModeConflict { mode })
        } else if waiter.want.limit != want.limit {
            Reply::Refused(Refusal::LimitMismatch { limit: waiter.want.limit })
        } else if want.wait == Millis(0) {
            Reply::Refused(self.busy(ctx.now, want))
        } else {
            self.attach(ticket, want.attempt);
            Reply::Waiting { ticket }
        })
    }

    /// The same token, and a lease anew that is never shorter than what was left.
    fn re_enter(&mut self, ctx: &mut Context<'_>, want: &Acquire, number: u64) -> Reply {
        let limit = want.names.first().and_then(|name| self.locks.get(name)).map_or(0, |lock| lock.limit);
        let Some(claim) = self.claims.get_mut(&number) else { return Reply::Refused(Refusal::NotHeld) };
        let all = want.names.iter().all(|name| claim.names.contains(name));
        if claim.mode != want.mode || !all {
            return Reply::Refused(Refusal::ModeConflict { mode: claim.mode });
        }
        if want.mode == Mode::Permit && limit != want.limit {
            return Reply::Refused(Refusal::LimitMismatch { limit });
        }
        // Whether anybody knows of the grant, only its first callers can tell.
        if let Some(undelivered) = &mut claim.undelivered {
            undelivered.callers.add(want.attempt);
        }
        if want.metadata.is_some() {
            claim.metadata.clone_from(&want.metadata);
        }
        claim.delay = want.delay;
        if claim.holder.session.is_none() {
            claim.ttl = want.ttl;
            claim.until = claim.until.max(ctx.now.plus(want.ttl));
            self.due.set(super::Due::Claim(number), claim.until);
        }
        self.told(ctx.now, number)
    }

    fn other_limit(&self, want: &Acquire) -> Option<u32> {
        let locks = want.names.iter().filter_map(|name| self.locks.get(name));
        let fixed = locks.filter(|lock| lock.permit_users > 0).map(|lock| lock.limit);
        fixed.filter(|limit| want.mode == Mode::Permit && *limit != want.limit).min()
    }

    /// Queues, unless that would exceed a limit or close a cycle of waits.
    pub(super) fn wait(&mut self, ctx: &mut Context<'_>, waiter: Waiter) -> Reply {
        let names = &waiter.want.names;
        let mut locks = names.iter().filter_map(|name| self.locks.get(name));
        if locks.any(|lock| lock.queue.len() >= self.waiters_max as usize) {
            return Reply::Refused(Refusal::TooManyWaiters);
        }
        let ticket = Ticket(ctx.counter.next());
        let (names, holder, mode) = (names.clone(), waiter.want.holder.clone(), waiter.want.mode);
        let careful = waiter.want.fail_on_deadlock;
        self.join_queue(ticket, waiter);
        if careful && let Some(cycle) = self.cycle(ticket) {
            self.take_out(ticket);
            names.iter().for_each(|name| self.tidy(name));
            return Reply::Refused(Refusal::Deadlock { cycle });
        }
        for name in &names {
            self.history.record(ctx, name, EventKind::Waiting, &holder, mode, None);
        }
        Reply::Waiting { ticket }
    }

    /// Why there is nothing to be had without waiting.
    fn busy(&self, now: Millis, want: &Acquire) -> Refusal {
        let busy = want.names.iter().filter_map(|name| self.locks.get(name));
        let mut refusals = busy.filter_map(|lock| self.in_the_way(now, lock, want));
        refusals.next().unwrap_or(Refusal::NotHeld)
    }

    fn in_the_way(&self, now: Millis, lock: &Lock, want: &Acquire) -> Option<Refusal> {
        if lock.admits(want.mode, want.limit)
            && self.ahead(lock, None, &want.holder).is_none()
            && lock.delayed_until.is_none()
        {
            return None;
        }
        if let Some(until) = lock.delayed_until {
            return Some(Refusal::LockDelayed { left: until.since(now) });
        }
        if let Some((holder, hold)) = lock.holders.first_key_value() {
            return Some(Refusal::Held { owner: holder.owner.clone(), left: self.left(now, hold.claim) });
        }
        let ahead = self.waiter(lock.queue.first()?.ticket())?;
        Some(Refusal::Held { owner: ahead.want.holder.owner.clone(), left: ahead.until.since(now) })
    }

    /// One more caller waits behind the ticket: a cancel of an earlier one alone does nothing any more.
    pub(super) fn attach(&mut self, ticket: Ticket, attempt: Attempt) {
        match self.tickets.get_mut(&ticket) {
            Some(Fate::Waiting(waiter)) => waiter.callers.add(attempt),
            Some(Fate::Granted(number)) => {
                let number = *number;
                self.heard_by(number, attempt);
            }
            Some(Fate::Over(_)) | None => {}
        }
    }

    /// One more caller is told of a grant that may be undelivered.
    pub(super) fn heard_by(&mut self, number: u64, attempt: Attempt) {
        if let Some(undelivered) = self.claims.get_mut(&number).and_then(|claim| claim.undelivered.as_mut()) {
            undelivered.callers.add(attempt);
        }
    }

    pub(super) fn waiter(&self, ticket: Ticket) -> Option<&Waiter> {
        match self.tickets.get(&ticket)? {
            Fate::Waiting(waiter) => Some(waiter),
            Fate::Granted(_) | Fate::Over(_) => None,
        }
    }
}

impl Lock {
    /// Whether a newcomer could hold it beside the present holders.
    pub(super) fn admits(&self, mode: Mode, limit: u32) -> bool {
        match (self.holders.values().next().map(|hold| hold.mode), mode) {
            (None, _) | (Some(Mode::Shared), Mode::Shared) => true,
            (Some(Mode::Permit), Mode::Permit) => self.holders.len() < limit as usize,
            _ => false,
        }
    }

    /// As many hold or await a permit as before, and `more`.
    pub(super) fn count_permits(&mut self, mode: Mode, limit: u32, more: i32) {
        if mode == Mode::Permit {
            self.permit_users = self.permit_users.saturating_add_signed(more);
            self.limit = if self.permit_users == 0 { 0 } else { limit.max(self.limit) };
        }
    }
}

impl Locks {
    pub(super) fn lock_mut(&mut self, name: &LockName) -> &mut Lock {
        // Looked up first: most often it is there, and a name is costlier to copy than to compare.
        if !self.locks.contains_key(name) {
            self.locks.insert(name.clone(), Lock::default());
        }
        self.locks.get_mut(name).expect("it was just put there")
    }
}
