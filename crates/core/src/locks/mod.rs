//! The lock machine: exclusive and shared holds under leases, and first-come waiters.
//!
//! A release and the grant that follows it are one step. It trusts no clock but log time, and it
//! does not protect anything by itself: what makes a lock safe is its token, checked where the
//! work lands.

mod acquire;
mod view;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::command::{Attempt, Effect, Grant, LockOp, Mode, Refusal, Reply};
use crate::context::Context;
use crate::deadlines::Deadlines;
use crate::dedup::WINDOW;
use crate::names::{LockName, Origin, Owner, Ticket, Token};
use crate::query::Outcome;
use crate::stamp::Millis;

/// Every lock that somebody holds. Others leave no trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    waiters_max: u32,
    locks: BTreeMap<LockName, Lock>,
    /// Which lock a live hold belongs to, by the number that its grant took.
    holds: BTreeMap<u64, (LockName, Owner)>,
    tickets: BTreeMap<Ticket, Fate>,
    due: Deadlines<Due>,
}

/// A held lock: at least one holder, all of one mode; waiters in the order of their tickets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lock {
    /// In the order of their owners.
    holders: Vec<Hold>,
    waiters: VecDeque<Waiter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    owner: Owner,
    mode: Mode,
    token: Token,
    /// Unique to this grant; shared holders may have one token, never one number.
    number: u64,
    ttl: Millis,
    until: Millis,
    /// Where it waited, as long as nothing has shown that the holder knows of its grant.
    undelivered: Option<(Ticket, Attempt)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiter {
    ticket: Ticket,
    owner: Owner,
    mode: Mode,
    ttl: Millis,
    until: Millis,
    attempt: Attempt,
}

/// What is known of a ticket. An unknown one was granted, and the hold is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fate {
    Waiting(LockName),
    Granted(u64),
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Due {
    Hold(u64),
    Wait(Ticket),
    Forget(Ticket),
}

impl Locks {
    /// No locks; at most `waiters_max` waiters for each.
    pub fn new(waiters_max: u32) -> Self {
        Self {
            waiters_max,
            locks: BTreeMap::new(),
            holds: BTreeMap::new(),
            tickets: BTreeMap::new(),
            due: Deadlines::default(),
        }
    }

    /// At most so many waiters for each lock from now on.
    pub fn set_max(&mut self, waiters_max: u32) {
        self.waiters_max = waiters_max;
    }

    /// Applies one command that was not applied before.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &LockOp) -> Reply {
        match op {
            LockOp::Acquire { name, owner, mode, ttl, wait, attempt } => {
                let want = acquire::Want { owner, mode: *mode, ttl: *ttl, wait: *wait, attempt: *attempt };
                self.acquire(ctx, name, &want)
            }
            LockOp::Release { name, owner, token } => self.release(ctx, name, owner, *token),
            LockOp::Renew { name, owner, token, ttl } => self.renew(ctx, name, owner, *token, *ttl),
            LockOp::Cancel { name, ticket, attempt } => self.cancel(ctx, name, *ticket, *attempt),
            LockOp::Check { name, token } => Reply::Checked(self.standing(name, *token, ctx.counter)),
        }
    }

    /// Answers a repeated acquire, whose first answer was `first`, from the present: still held,
    /// still waiting (this try now counts), or lost.
    pub fn again(&mut self, now: Millis, op: &LockOp, first: &Reply) -> Reply {
        let LockOp::Acquire { name, owner, attempt, .. } = op else { return first.clone() };
        match first {
            Reply::Granted(grant) => match self.hold(name, owner).filter(|hold| hold.token == grant.token) {
                Some(hold) => Reply::Granted(hold.grant(now)),
                None => Reply::Refused(Refusal::LockLost),
            },
            Reply::Waiting { ticket } => {
                self.attach(name, owner, *ticket, *attempt);
                match self.outcome(*ticket, now) {
                    Outcome::Waiting => Reply::Waiting { ticket: *ticket },
                    Outcome::Granted(grant) => Reply::Granted(grant),
                    Outcome::Refused(refusal) => Reply::Refused(refusal),
                }
            }
            other => other.clone(),
        }
    }

    /// What became of a ticket.
    pub fn outcome(&self, ticket: Ticket, now: Millis) -> Outcome {
        match self.tickets.get(&ticket) {
            Some(Fate::Waiting(_)) => Outcome::Waiting,
            Some(Fate::TimedOut) => Outcome::Refused(Refusal::WaitTimeout),
            Some(Fate::Granted(number)) => match self.numbered(*number) {
                Some(hold) => Outcome::Granted(Grant { ticket: Some(ticket), ..hold.grant(now) }),
                None => Outcome::Refused(Refusal::LockLost),
            },
            None => Outcome::Refused(Refusal::LockLost),
        }
    }

    /// Ends every lease and every wait that is due by log time, and grants what becomes free.
    pub fn expire(&mut self, ctx: &mut Context<'_>) {
        while let Some(due) = self.due.pop_due(ctx.now) {
            match due {
                Due::Hold(number) => {
                    if let Some((name, owner)) = self.holds.get(&number).cloned() {
                        self.end(ctx, &name, &owner);
                    }
                }
                Due::Wait(ticket) => self.time_out(ctx, ticket),
                Due::Forget(ticket) => {
                    self.tickets.remove(&ticket);
                }
            }
        }
    }

    /// When the next lease or wait ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.due.next()
    }

    /// A process has ended: nobody waits behind its tickets any more.
    pub fn cancel_origin(&mut self, ctx: &mut Context<'_>, origin: Origin) {
        let gone: Vec<_> = self
            .locks
            .iter()
            .flat_map(|(name, lock)| lock.waiters.iter().map(move |waiter| (name, waiter)))
            .filter(|(_, waiter)| waiter.attempt.origin == origin)
            .map(|(name, waiter)| (name.clone(), waiter.ticket))
            .collect();
        for (name, ticket) in gone {
            self.leave_queue(ctx, &name, ticket);
        }
    }

    fn release(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        owner: &Owner,
        token: Option<Token>,
    ) -> Reply {
        match self.held(name, owner, token) {
            Ok(_) => {
                self.end(ctx, name, owner);
                Reply::Released
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn renew(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        owner: &Owner,
        token: Token,
        ttl: Option<Millis>,
    ) -> Reply {
        match self.held(name, owner, Some(token)) {
            Ok(hold) => {
                hold.ttl = ttl.unwrap_or(hold.ttl);
                hold.until = ctx.now.plus(hold.ttl);
                let (grant, number, until) = (hold.grant(ctx.now), hold.number, hold.until);
                self.delivered(name, owner);
                self.due.set(Due::Hold(number), until);
                Reply::Granted(grant)
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn cancel(&mut self, ctx: &mut Context<'_>, name: &LockName, ticket: Ticket, attempt: Attempt) -> Reply {
        let Some(lock) = self.locks.get(name) else { return Reply::Cancelled };
        if lock.waiter(ticket).is_some_and(|waiter| waiter.attempt == attempt) {
            self.leave_queue(ctx, name, ticket);
        } else if let Some(hold) = lock.holders.iter().find(|h| h.undelivered == Some((ticket, attempt))) {
            let owner = hold.owner.clone();
            self.end(ctx, name, &owner);
        }
        Reply::Cancelled
    }

    /// The hold that `owner` means, or why there is none.
    fn held(&mut self, name: &LockName, owner: &Owner, token: Option<Token>) -> Result<&mut Hold, Refusal> {
        let lock = self.locks.get_mut(name).ok_or(Refusal::NotHeld)?;
        let hold = lock.hold_mut(owner).ok_or(Refusal::NotHolder)?;
        match token {
            Some(token) if token != hold.token => Err(Refusal::StaleToken { current: hold.token }),
            _ => Ok(hold),
        }
    }

    fn hold(&self, name: &LockName, owner: &Owner) -> Option<&Hold> {
        let lock = self.locks.get(name)?;
        lock.place(owner).ok().map(|place| &lock.holders[place])
    }

    fn numbered(&self, number: u64) -> Option<&Hold> {
        let (name, owner) = self.holds.get(&number)?;
        self.hold(name, owner)
    }

    /// The holder has shown that it knows of its grant: it can't be given back as undelivered.
    fn delivered(&mut self, name: &LockName, owner: &Owner) {
        let hold = self.locks.get_mut(name).and_then(|lock| lock.hold_mut(owner));
        if let Some((ticket, _)) = hold.and_then(|hold| hold.undelivered.take()) {
            self.tickets.remove(&ticket);
        }
    }

    /// Ends a hold and grants the next: one step.
    fn end(&mut self, ctx: &mut Context<'_>, name: &LockName, owner: &Owner) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        let Ok(place) = lock.place(owner) else { return };
        let hold = lock.holders.remove(place);
        self.holds.remove(&hold.number);
        self.due.remove(&Due::Hold(hold.number));
        if let Some((ticket, _)) = hold.undelivered {
            self.tickets.remove(&ticket);
            ctx.effects.push(Effect::WakeTicket(ticket));
        }
        self.promote(ctx, name);
    }

    fn time_out(&mut self, ctx: &mut Context<'_>, ticket: Ticket) {
        if let Some(Fate::Waiting(name)) = self.tickets.get(&ticket).cloned() {
            self.leave_queue(ctx, &name, ticket);
            self.tickets.insert(ticket, Fate::TimedOut);
            self.due.set(Due::Forget(ticket), ctx.now.plus(WINDOW));
        }
    }

    /// Whoever waited behind it may be able to join the present holders now.
    fn leave_queue(&mut self, ctx: &mut Context<'_>, name: &LockName, ticket: Ticket) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        if let Ok(place) = lock.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            lock.waiters.remove(place);
            self.tickets.remove(&ticket);
            self.due.remove(&Due::Wait(ticket));
            ctx.effects.push(Effect::WakeTicket(ticket));
            self.promote(ctx, name);
        }
    }
}

impl Lock {
    fn place(&self, owner: &Owner) -> Result<usize, usize> {
        self.holders.binary_search_by(|hold| hold.owner.cmp(owner))
    }

    fn hold_mut(&mut self, owner: &Owner) -> Option<&mut Hold> {
        self.place(owner).ok().map(|place| &mut self.holders[place])
    }

    fn waiter(&self, ticket: Ticket) -> Option<&Waiter> {
        let place = self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()?;
        self.waiters.get(place)
    }

    /// Whether a newcomer of this mode could hold it beside the present holders.
    fn admits(&self, mode: Mode) -> bool {
        match self.holders.first() {
            None => true,
            Some(holder) => mode == Mode::Shared && holder.mode == Mode::Shared,
        }
    }
}

impl Hold {
    fn grant(&self, now: Millis) -> Grant {
        let ticket = self.undelivered.map(|(ticket, _)| ticket);
        Grant { token: self.token, mode: self.mode, ttl: self.ttl, left: self.until.since(now), ticket }
    }
}
