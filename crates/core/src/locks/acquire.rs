//! Taking a lock: grant, queue or refuse, and the grants that follow when a hold ends.
//!
//! Order is strict: a newcomer never passes anybody who waits, whatever its mode.

use super::{Due, Fate, Hold, Lock, Locks, Waiter};
use crate::command::{Attempt, Effect, Mode, Refusal, Reply};
use crate::context::Context;
use crate::names::{LockName, Owner, Ticket, Token};
use crate::stamp::Millis;

/// What an acquire asks for.
pub(super) struct Want<'a> {
    pub(super) owner: &'a Owner,
    pub(super) mode: Mode,
    pub(super) ttl: Millis,
    pub(super) wait: Millis,
    pub(super) attempt: Attempt,
}

impl Locks {
    pub(super) fn acquire(&mut self, ctx: &mut Context<'_>, name: &LockName, want: &Want<'_>) -> Reply {
        let Some(lock) = self.locks.get(name) else {
            self.locks.insert(name.clone(), Lock::default());
            return self.grant(ctx, name, want, None);
        };
        if lock.place(want.owner).is_ok() {
            return self.re_enter(ctx, name, want);
        }
        if let Some(waiter) = lock.waiters.iter().find(|waiter| waiter.owner == *want.owner) {
            let (ticket, mode) = (waiter.ticket, waiter.mode);
            return self.join_own_ticket(ctx.now, name, want, ticket, mode);
        }
        if lock.waiters.is_empty() && lock.admits(want.mode) {
            return self.grant(ctx, name, want, None);
        }
        self.wait(ctx, name, want)
    }

    /// This try now stands for the ticket: a cancel of an earlier one does nothing any more.
    pub(super) fn attach(&mut self, name: &LockName, owner: &Owner, ticket: Ticket, attempt: Attempt) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        if let Some(waiter) = lock.waiters.iter_mut().find(|waiter| waiter.ticket == ticket) {
            raise(&mut waiter.attempt, attempt);
        } else if let Some(hold) = lock.hold_mut(owner)
            && let Some((of, attached)) = &mut hold.undelivered
            && *of == ticket
        {
            raise(attached, attempt);
        }
    }

    /// Grants to those in front for as long as they fit beside the holders; an unused lock goes.
    pub(super) fn promote(&mut self, ctx: &mut Context<'_>, name: &LockName) {
        while let Some(lock) = self.locks.get_mut(name) {
            match lock.waiters.front() {
                Some(waiter) if lock.admits(waiter.mode) => {}
                None if lock.holders.is_empty() => {
                    self.locks.remove(name);
                    return;
                }
                _ => return,
            }
            let Some(next) = lock.waiters.pop_front() else { return };
            self.due.remove(&Due::Wait(next.ticket));
            let want = Want {
                owner: &next.owner,
                mode: next.mode,
                ttl: next.ttl,
                wait: Millis(0),
                attempt: next.attempt,
            };
            self.grant(ctx, name, &want, Some(next.ticket));
            ctx.effects.push(Effect::WakeTicket(next.ticket));
        }
    }

    fn grant(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        want: &Want<'_>,
        ticket: Option<Ticket>,
    ) -> Reply {
        let Some(lock) = self.locks.get_mut(name) else { return Reply::Refused(Refusal::NotHeld) };
        let number = ctx.counter.next();
        // Overlapping shared holders are one period under one token: none of them fences another.
        let token = lock.holders.first().map_or(Token(number), |first| first.token);
        let hold = Hold {
            owner: want.owner.clone(),
            mode: want.mode,
            token,
            number,
            ttl: want.ttl,
            until: ctx.now.plus(want.ttl),
            undelivered: ticket.map(|ticket| (ticket, want.attempt)),
        };
        self.due.set(Due::Hold(number), hold.until);
        self.holds.insert(number, (name.clone(), want.owner.clone()));
        if let Some(ticket) = ticket {
            self.tickets.insert(ticket, Fate::Granted(number));
        }
        let reply = Reply::Granted(hold.grant(ctx.now));
        let place = lock.place(want.owner).unwrap_or_else(|place| place);
        lock.holders.insert(place, hold);
        reply
    }

    /// The same token, and a lease anew that is never shorter than what was left.
    fn re_enter(&mut self, ctx: &mut Context<'_>, name: &LockName, want: &Want<'_>) -> Reply {
        self.delivered(name, want.owner);
        let Some(hold) = self.locks.get_mut(name).and_then(|lock| lock.hold_mut(want.owner)) else {
            return Reply::Refused(Refusal::NotHeld);
        };
        if hold.mode != want.mode {
            return Reply::Refused(Refusal::ModeConflict { mode: hold.mode });
        }
        hold.ttl = want.ttl;
        hold.until = hold.until.max(ctx.now.plus(want.ttl));
        self.due.set(Due::Hold(hold.number), hold.until);
        Reply::Granted(hold.grant(ctx.now))
    }

    fn join_own_ticket(
        &mut self,
        now: Millis,
        name: &LockName,
        want: &Want<'_>,
        ticket: Ticket,
        mode: Mode,
    ) -> Reply {
        if mode != want.mode {
            return Reply::Refused(Refusal::ModeConflict { mode });
        }
        if want.wait == Millis(0) {
            return self.refuse_held(now, name);
        }
        self.attach(name, want.owner, ticket, want.attempt);
        Reply::Waiting { ticket }
    }

    fn wait(&mut self, ctx: &mut Context<'_>, name: &LockName, want: &Want<'_>) -> Reply {
        if want.wait == Millis(0) {
            return self.refuse_held(ctx.now, name);
        }
        let Some(lock) = self.locks.get_mut(name) else { return Reply::Refused(Refusal::NotHeld) };
        if lock.waiters.len() >= self.waiters_max as usize {
            return Reply::Refused(Refusal::TooManyWaiters);
        }
        let ticket = Ticket(ctx.counter.next());
        let until = ctx.now.plus(want.wait);
        lock.waiters.push_back(Waiter {
            ticket,
            owner: want.owner.clone(),
            mode: want.mode,
            ttl: want.ttl,
            until,
            attempt: want.attempt,
        });
        self.tickets.insert(ticket, Fate::Waiting(name.clone()));
        self.due.set(Due::Wait(ticket), until);
        Reply::Waiting { ticket }
    }

    fn refuse_held(&self, now: Millis, name: &LockName) -> Reply {
        let first = self.locks.get(name).and_then(|lock| lock.holders.first());
        Reply::Refused(match first {
            Some(hold) => Refusal::Held { owner: hold.owner.clone(), left: hold.until.since(now) },
            None => Refusal::NotHeld,
        })
    }
}

/// Tries of one process are counted; a try at another process is a later one.
fn raise(attached: &mut Attempt, attempt: Attempt) {
    if attached.origin != attempt.origin || attached.number < attempt.number {
        *attached = attempt;
    }
}
