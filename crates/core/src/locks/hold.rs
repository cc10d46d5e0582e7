//! What becomes of a hold: found, renewed, released, broken, given back or over.
//!
//! Every end of a hold says which locks it touched; granting what is free then is
//! [`super::grant`]'s work, in the same step.

use std::collections::BTreeSet;

use super::callers::Callers;
use super::{Claim, Due, Fate, Hold, Locks, Undelivered, history};
use crate::command::{Attempt, Claimant, Effect, Grant, Holder, Mode, Refusal, Reply};
use crate::context::Context;
use crate::names::{LockName, Ticket, Token};
use crate::query::EventKind;
use crate::stamp::Millis;

impl Locks {
    pub(super) fn hold(&self, name: &LockName, holder: &Holder) -> Option<Hold> {
        self.locks.get(name)?.holders.get(holder).copied()
    }

    /// The hold that is meant, or why there is none.
    pub(super) fn find(&self, name: &LockName, by: &Claimant) -> Result<(Holder, Hold), Refusal> {
        if by.session.is_some_and(|id| !self.sessions.contains_key(&id)) {
            return Err(Refusal::SessionExpired);
        }
        let lock = self.locks.get(name).filter(|lock| !lock.holders.is_empty()).ok_or(Refusal::NotHeld)?;
        let first = Holder { owner: by.owner.clone(), session: by.session };
        let of_owner = lock.holders.range(&first..).take_while(|(holder, _)| holder.owner == by.owner);
        let mut fitting = of_owner.filter(|(holder, _)| by.session.is_none() || holder.session == by.session);
        let is_meant = |hold: &Hold| match by.token {
            None => true,
            Some(token) => {
                token == hold.token || self.claims.get(&hold.claim).is_some_and(|c| c.token == token)
            }
        };
        let current = fitting.clone().next().ok_or(Refusal::NotHolder)?.1.token;
        match fitting.find(|(_, hold)| is_meant(hold)) {
            Some((holder, hold)) => Ok((holder.clone(), *hold)),
            None => Err(Refusal::StaleToken { current }),
        }
    }

    fn find_all(&self, names: &[LockName], by: &Claimant) -> Result<Vec<(LockName, Holder, Hold)>, Refusal> {
        if names.is_empty() {
            return Err(Refusal::Invalid);
        }
        let find = |name: &LockName| self.find(name, by).map(|(holder, hold)| (name.clone(), holder, hold));
        names.iter().map(find).collect()
    }

    pub(super) fn release(
        &mut self,
        ctx: &mut Context<'_>,
        names: &[LockName],
        by: &Claimant,
    ) -> Result<Reply, Refusal> {
        let mut touched = BTreeSet::new();
        for (name, holder, _) in self.find_all(names, by)? {
            self.end_hold(ctx, &name, &holder, EventKind::Released, &mut touched);
        }
        self.promote(ctx, touched);
        Ok(Reply::Released)
    }

    /// A hold of a session is kept by the session: renewing it only says what is left.
    pub(super) fn renew(
        &mut self,
        ctx: &mut Context<'_>,
        names: &[LockName],
        by: &Claimant,
        ttl: Option<Millis>,
    ) -> Result<Reply, Refusal> {
        let found = self.find_all(names, by)?;
        for (_, _, hold) in &found {
            self.delivered(hold.claim);
            if let Some(claim) = self.claims.get_mut(&hold.claim)
                && claim.holder.session.is_none()
            {
                claim.ttl = ttl.unwrap_or(claim.ttl);
                claim.until = ctx.now.plus(claim.ttl);
                self.due.set(Due::Claim(hold.claim), claim.until);
            }
        }
        Ok(self.told(ctx.now, found[0].2.claim))
    }

    pub(super) fn break_hold(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        token: Option<Token>,
        note: history::Note<'_>,
    ) -> Result<Reply, Refusal> {
        let lock = self.locks.get(name).filter(|lock| !lock.holders.is_empty()).ok_or(Refusal::NotHeld)?;
        let is_meant = |hold: &Hold| token.is_none_or(|token| token == hold.token);
        let broken: Vec<_> = lock
            .holders
            .iter()
            .filter(|(_, hold)| is_meant(hold))
            .map(|(holder, hold)| (holder.clone(), hold.token))
            .collect();
        if broken.is_empty() {
            let current = lock.holders.values().map(|hold| hold.token).max().unwrap_or_default();
            return Err(Refusal::StaleToken { current });
        }
        let mut touched = BTreeSet::new();
        for (holder, _) in &broken {
            self.end_hold(ctx, name, holder, EventKind::Broken, &mut touched);
        }
        self.history.audit(name, &broken, note);
        self.promote(ctx, touched);
        Ok(Reply::Broken(broken))
    }

    /// The caller behind this try is gone.
    pub(super) fn cancel(&mut self, ctx: &mut Context<'_>, ticket: Ticket, attempt: Attempt) -> Reply {
        let mut touched = BTreeSet::new();
        match self.tickets.get_mut(&ticket) {
            Some(Fate::Waiting(waiter)) => {
                if waiter.callers.leave(attempt) {
                    self.leave_queue(ctx, ticket, None, &mut touched);
                }
            }
            Some(Fate::Granted(number)) => {
                let number = *number;
                self.unheard(ctx, number, ticket, attempt, &mut touched);
            }
            Some(Fate::Over(_)) => {}
            None => self.unheard(ctx, ticket.0, ticket, attempt, &mut touched),
        }
        self.promote(ctx, touched);
        Reply::Cancelled
    }

    /// One who might have heard of this grant will not. The last gives it back.
    fn unheard(
        &mut self,
        ctx: &mut Context<'_>,
        number: u64,
        ticket: Ticket,
        attempt: Attempt,
        touched: &mut BTreeSet<LockName>,
    ) {
        let undelivered = self.claims.get_mut(&number).and_then(|claim| claim.undelivered.as_mut());
        if undelivered.is_some_and(|it| it.ticket == ticket && it.callers.leave(attempt)) {
            self.give_back(ctx, number, touched);
        }
    }

    /// Nobody knows of this grant: it is as if it had not been. An upgrade is a shared hold again,
    /// under the token that its holder knows.
    fn give_back(&mut self, ctx: &mut Context<'_>, number: u64, touched: &mut BTreeSet<LockName>) {
        let Some(claim) = self.claims.get_mut(&number) else { return };
        let Some(before) = claim.upgraded_from else {
            return self.end_claim(ctx, number, EventKind::Released, touched);
        };
        (claim.mode, claim.token, claim.upgraded_from) = (Mode::Shared, before, None);
        let (names, holder) = (claim.names.clone(), claim.holder.clone());
        self.delivered(number);
        for name in names {
            if let Some(hold) = self.locks.get_mut(&name).and_then(|lock| lock.holders.get_mut(&holder)) {
                (hold.mode, hold.token) = (Mode::Shared, before);
            }
            self.history.record(ctx, &name, EventKind::Granted, &holder, Mode::Shared, Some(before));
            touched.insert(name);
        }
    }

    /// The holder has shown that it knows of its grant: it can't be given back as undelivered.
    pub(super) fn delivered(&mut self, number: u64) {
        let Some(claim) = self.claims.get_mut(&number) else { return };
        if let Some(ticket) = claim.waited(number) {
            self.tickets.remove(&ticket);
        }
        claim.undelivered = None;
    }

    /// Ends everything that one request was granted.
    pub(super) fn end_claim(
        &mut self,
        ctx: &mut Context<'_>,
        number: u64,
        kind: EventKind,
        touched: &mut BTreeSet<LockName>,
    ) {
        let Some(claim) = self.claims.get(&number) else { return };
        let (names, holder) = (claim.names.clone(), claim.holder.clone());
        for name in names {
            self.end_hold(ctx, &name, &holder, kind, touched);
        }
    }

    /// Ends one hold. Whoever waited to make it exclusive has lost it.
    pub(super) fn end_hold(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        holder: &Holder,
        kind: EventKind,
        touched: &mut BTreeSet<LockName>,
    ) {
        let Some((hold, claim)) = self.detach(ctx, name, holder) else { return };
        let Some(lock) = self.locks.get_mut(name) else { return };
        lock.holders.remove(holder);
        lock.count_permits(hold.mode, lock.limit, -1);
        if kind == EventKind::Expired && claim.delay > Millis(0) {
            let until = ctx.now.plus(claim.delay).max(lock.delayed_until.unwrap_or_default());
            lock.delayed_until = Some(until);
            self.due.set(Due::Delay(name.clone()), until);
        }
        let upgrade = lock.asking.get(holder).copied();
        self.history.record(ctx, name, kind, holder, hold.mode, Some(hold.token));
        if let Some(ticket) = upgrade {
            self.leave_queue(ctx, ticket, Some(Refusal::LockLost), touched);
        }
        touched.insert(name.clone());
    }

    /// Takes one lock out of its claim, which ends with the last; what the claim was.
    pub(super) fn detach(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        holder: &Holder,
    ) -> Option<(Hold, Claim)> {
        let hold = self.hold(name, holder)?;
        let claim = self.claims.get_mut(&hold.claim)?;
        let whole = claim.clone();
        claim.names.retain(|other| other != name);
        if claim.names.is_empty() {
            self.claims.remove(&hold.claim);
            self.due.remove(&Due::Claim(hold.claim));
            self.forget_person(holder, |person| person.claims = person.claims.saturating_sub(1));
            if let Some(session) = holder.session.and_then(|id| self.sessions.get_mut(&id)) {
                session.claims.remove(&hold.claim);
            }
            if let Some(ticket) = whole.waited(hold.claim) {
                self.tickets.remove(&ticket);
                ctx.effects.push(Effect::WakeTicket(ticket));
            }
        }
        Some((hold, whole))
    }

    /// A claim as its holder is told of it.
    pub(super) fn told(&self, now: Millis, number: u64) -> Reply {
        let Some(claim) = self.claims.get(&number) else { return Reply::Refused(Refusal::LockLost) };
        let token_of =
            |name: &LockName| self.hold(name, &claim.holder).map(|hold| (name.clone(), hold.token));
        let tokens: Vec<_> = if claim.names.len() > 1 {
            claim.names.iter().filter_map(token_of).collect()
        } else {
            Vec::new()
        };
        Reply::Granted(Grant {
            token: claim.token,
            tokens,
            mode: claim.mode,
            ttl: self.ttl(claim),
            left: self.left(now, number),
            ticket: claim.undelivered.as_ref().map(|undelivered| undelivered.ticket),
        })
    }

    pub(super) fn ttl(&self, claim: &Claim) -> Millis {
        claim.holder.session.and_then(|id| self.sessions.get(&id)).map_or(claim.ttl, |session| session.ttl)
    }

    pub(super) fn left(&self, now: Millis, number: u64) -> Millis {
        let Some(claim) = self.claims.get(&number) else { return Millis(0) };
        let session = claim.holder.session.and_then(|id| self.sessions.get(&id));
        session.map_or(claim.until, |session| session.until).since(now)
    }
}

impl Claim {
    /// The ticket under which it waited, as long as its holder may not know of its grant.
    pub(super) fn waited(&self, number: u64) -> Option<Ticket> {
        self.undelivered.as_ref().map(|it| it.ticket).filter(|ticket| ticket.0 != number)
    }
}

impl Undelivered {
    /// Granted without a wait.
    pub(super) fn at_once(number: u64, attempt: Attempt) -> Self {
        Self { ticket: Ticket(number), callers: Callers::new(attempt) }
    }
}
