//! Who gets a lock next: granting, queueing, and what follows when a hold or a wait ends.
//!
//! It decides nothing about leases; [`super::hold`] ends holds and says which locks that touched.

use std::collections::BTreeSet;

use super::{Claim, Due, Fate, Hold, Locks, Place, Undelivered, Waiter};
use crate::command::{Acquire, Effect, Holder, Mode, Refusal, Reply};
use crate::context::Context;
use crate::dedup::WINDOW;
use crate::names::{LockName, Ticket, Token};
use crate::query::EventKind;

impl Locks {
    /// Whether all of `want` can be had now: from `place` in the queues, or as a newcomer.
    pub(super) fn is_grantable(&self, want: &Acquire, place: Option<Place>) -> bool {
        want.names.iter().all(|name| match self.locks.get(name) {
            None => true,
            Some(lock) if lock.delayed_until.is_some() => false,
            Some(lock) if matches!(place, Some(Place::Upgrade(_))) => lock.holders.len() == 1,
            Some(lock) => {
                lock.admits(want.mode, want.limit) && self.ahead(lock, place, &want.holder).is_none()
            }
        })
    }

    /// The last waiter before `place` that the holder may not pass.
    pub(super) fn ahead(&self, lock: &super::Lock, place: Option<Place>, holder: &Holder) -> Option<Ticket> {
        let before = match place {
            Some(place) => lock.queue.range(..place),
            None => lock.queue.range(..),
        };
        before.rev().map(|place| place.ticket()).find(|ticket| !self.may_pass(*ticket, holder))
    }

    /// A multi-lock that waits for something which `holder` holds would make it wait for itself.
    fn may_pass(&self, ticket: Ticket, holder: &Holder) -> bool {
        let holds_some = self.people.get(holder).is_some_and(|person| person.claims > 0);
        holds_some
            && self.waiter(ticket).is_some_and(|waiter| {
                waiter.want.names.len() > 1
                    && waiter.want.names.iter().any(|name| self.hold(name, holder).is_some())
            })
    }

    /// `waited`: the ticket under which it did, and who may still hear of it.
    pub(super) fn grant(
        &mut self,
        ctx: &mut Context<'_>,
        want: &Acquire,
        waited: Option<Undelivered>,
    ) -> Reply {
        let number = ctx.counter.next();
        let mut token = Token(number);
        for name in &want.names {
            let lock = self.lock_mut(name);
            // Overlapping shared holders are one period under one token: none of them fences another.
            let own = match lock.holders.values().next() {
                Some(first) if want.mode == Mode::Shared => first.token,
                _ => Token(number),
            };
            lock.holders.insert(want.holder.clone(), Hold { claim: number, token: own, mode: want.mode });
            lock.count_permits(want.mode, want.limit, 1);
            token = if want.names.len() == 1 { own } else { token };
            self.history.record(ctx, name, EventKind::Granted, &want.holder, want.mode, Some(own));
        }
        let claim = Claim {
            holder: want.holder.clone(),
            names: want.names.clone(),
            mode: want.mode,
            token,
            ttl: want.ttl,
            until: ctx.now.plus(want.ttl),
            delay: want.delay,
            metadata: want.metadata.clone(),
            undelivered: Some(waited.unwrap_or_else(|| Undelivered::at_once(number, want.attempt))),
            upgraded_from: None,
        };
        self.install(number, claim);
        self.told(ctx.now, number)
    }

    /// A claim begins.
    pub(super) fn install(&mut self, number: u64, claim: Claim) {
        match claim.holder.session.and_then(|id| self.sessions.get_mut(&id)) {
            Some(session) => {
                session.claims.insert(number);
            }
            None => self.due.set(Due::Claim(number), claim.until),
        }
        if let Some(ticket) = claim.waited(number) {
            self.tickets.insert(ticket, Fate::Granted(number));
        }
        self.people.entry(claim.holder.clone()).or_default().claims += 1;
        self.claims.insert(number, claim);
    }

    /// Grants to those in front for as long as they fit beside the holders; unused locks go.
    pub(super) fn promote(&mut self, ctx: &mut Context<'_>, mut touched: BTreeSet<LockName>) {
        while let Some(name) = touched.pop_first() {
            while let Some(ticket) = self.next_grantable(&name) {
                let Some(waiter) = self.take_out(ticket) else { break };
                let waited = Some(Undelivered { ticket, callers: waiter.callers });
                if waiter.upgrade {
                    self.convert(ctx, &waiter.want, waited);
                } else {
                    self.grant(ctx, &waiter.want, waited);
                }
                ctx.effects.push(Effect::WakeTicket(ticket));
                touched.extend(waiter.want.names.into_iter().filter(|other| *other != name));
                touched.extend(self.awaited_by(&waiter.want.holder));
            }
            self.tidy(&name);
        }
    }

    /// Whoever just got something may pass multi-locks that wait for it.
    pub(super) fn let_pass(&mut self, ctx: &mut Context<'_>, want: &Acquire) {
        let touched: BTreeSet<_> = self.awaited_by(&want.holder).collect();
        if !touched.is_empty() {
            self.promote(ctx, touched);
        }
    }

    fn awaited_by(&self, holder: &Holder) -> impl Iterator<Item = LockName> + use<> {
        let tickets = self.people.get(holder).map(|person| person.tickets.clone()).unwrap_or_default();
        let names: Vec<_> =
            tickets.iter().filter_map(|t| self.waiter(*t)).flat_map(|w| w.want.names.clone()).collect();
        names.into_iter()
    }

    fn next_grantable(&self, name: &LockName) -> Option<Ticket> {
        let lock = self.locks.get(name)?;
        let front = *lock.queue.first()?;
        let first = self.waiter(front.ticket())?;
        if self.is_grantable(&first.want, Some(front)) {
            return Some(front.ticket());
        }
        // A multi-lock in front may be passed by those who hold what it waits for.
        let blocked = if first.want.names.len() > 1 { first.want.names.as_slice() } else { &[] };
        let holders =
            blocked.iter().filter_map(|name| self.locks.get(name)).flat_map(|lock| lock.holders.keys());
        let passing = holders.filter_map(|holder| lock.asking.get(holder)).filter(|ticket| {
            self.waiter(**ticket).is_some_and(|w| self.is_grantable(&w.want, Some(w.place(**ticket))))
        });
        passing.min().copied()
    }

    pub(super) fn join_queue(&mut self, ticket: Ticket, waiter: Waiter) {
        let want = &waiter.want;
        for name in &want.names {
            let lock = self.lock_mut(name);
            lock.queue.insert(waiter.place(ticket));
            lock.asking.insert(want.holder.clone(), ticket);
            lock.count_permits(want.mode, want.limit, 1);
        }
        self.people.entry(want.holder.clone()).or_default().tickets.insert(ticket);
        if let Some(session) = want.holder.session.and_then(|id| self.sessions.get_mut(&id)) {
            session.tickets.insert(ticket);
        }
        self.due.set(Due::Wait(ticket), waiter.until);
        self.tickets.insert(ticket, Fate::Waiting(Box::new(waiter)));
    }

    /// Out of every queue, without a trace; what becomes of the ticket is for the caller to write down.
    pub(super) fn take_out(&mut self, ticket: Ticket) -> Option<Waiter> {
        self.waiter(ticket)?;
        let Some(Fate::Waiting(waiter)) = self.tickets.remove(&ticket) else { return None };
        let want = &waiter.want;
        for name in &want.names {
            if let Some(lock) = self.locks.get_mut(name) {
                lock.queue.remove(&waiter.place(ticket));
                lock.asking.remove(&want.holder);
                lock.count_permits(want.mode, want.limit, -1);
            }
        }
        self.forget_person(&want.holder, |person| {
            person.tickets.remove(&ticket);
        });
        if let Some(session) = want.holder.session.and_then(|id| self.sessions.get_mut(&id)) {
            session.tickets.remove(&ticket);
        }
        self.due.remove(&Due::Wait(ticket));
        Some(*waiter)
    }

    /// A wait ends without a grant. Whoever waited behind it may be able to go on now.
    pub(super) fn leave_queue(
        &mut self,
        ctx: &mut Context<'_>,
        ticket: Ticket,
        why: Option<Refusal>,
        touched: &mut BTreeSet<LockName>,
    ) {
        let Some(waiter) = self.take_out(ticket) else { return };
        if let Some(refusal) = why {
            self.tickets.insert(ticket, Fate::Over(refusal));
            self.due.set(Due::Forget(ticket), ctx.now.plus(WINDOW));
        }
        ctx.effects.push(Effect::WakeTicket(ticket));
        let Acquire { names, holder, mode, .. } = waiter.want;
        for name in names {
            self.history.record(ctx, &name, EventKind::Left, &holder, mode, None);
            touched.insert(name);
        }
    }

    pub(super) fn forget_person(&mut self, holder: &Holder, change: impl FnOnce(&mut super::Person)) {
        if let Some(person) = self.people.get_mut(holder) {
            change(person);
            if person.claims == 0 && person.tickets.is_empty() {
                self.people.remove(holder);
            }
        }
    }

    /// A lock that nobody holds, awaits or delays leaves no trace.
    pub(super) fn tidy(&mut self, name: &LockName) {
        let unused = |lock: &super::Lock| {
            lock.holders.is_empty() && lock.queue.is_empty() && lock.delayed_until.is_none()
        };
        if self.locks.get(name).is_some_and(unused) {
            self.locks.remove(name);
        }
    }
}
