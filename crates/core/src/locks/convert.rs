//! From shared to exclusive and back, without letting anybody in between.
//!
//! It never ends a hold: an upgrade that fails leaves the shared hold and its token as they were.

use std::collections::BTreeSet;

use super::{Claim, Hold, Locks, Place, Undelivered, Waiter};
use crate::command::{Acquire, Attempt, Claimant, Mode, Refusal, Reply};
use crate::context::Context;
use crate::names::{LockName, Token};
use crate::query::EventKind;
use crate::stamp::Millis;

/// How an upgrade waits.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) wait: Millis,
    pub(super) fail_on_deadlock: bool,
    pub(super) attempt: Attempt,
}

impl Locks {
    pub(super) fn upgrade(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        by: &Claimant,
        how: Patience,
    ) -> Result<Reply, Refusal> {
        let (holder, hold) = self.find(name, by)?;
        self.delivered(hold.claim);
        match hold.mode {
            Mode::Exclusive => return Ok(self.told(ctx.now, hold.claim)),
            Mode::Permit => return Err(Refusal::ModeConflict { mode: Mode::Permit }),
            Mode::Shared => {}
        }
        let (Some(lock), Some(claim)) = (self.locks.get(name), self.claims.get(&hold.claim)) else {
            return Err(Refusal::NotHeld);
        };
        if let Some(Place::Upgrade(ticket)) = lock.queue.first() {
            let ticket = *ticket;
            if lock.asking.get(&holder) != Some(&ticket) {
                return Err(Refusal::UpgradeConflict);
            }
            self.attach(ticket, how.attempt);
            return Ok(Reply::Waiting { ticket });
        }
        let want = Acquire {
            names: vec![name.clone()],
            holder: holder.clone(),
            mode: Mode::Exclusive,
            limit: 0,
            ttl: claim.ttl,
            wait: how.wait,
            delay: claim.delay,
            metadata: claim.metadata.clone(),
            fail_on_deadlock: how.fail_on_deadlock,
            attempt: how.attempt,
        };
        if lock.holders.len() == 1 && lock.delayed_until.is_none() {
            return Ok(self.convert(ctx, &want, None));
        }
        if how.wait == Millis(0) {
            let other = lock.holders.iter().find(|(other, _)| **other != holder);
            return Err(match (other, lock.delayed_until) {
                (Some((other, hold)), _) => {
                    Refusal::Held { owner: other.owner.clone(), left: self.left(ctx.now, hold.claim) }
                }
                (None, until) => Refusal::LockDelayed { left: until.unwrap_or_default().since(ctx.now) },
            });
        }
        Ok(self.wait(ctx, Waiter::new(want, true, ctx.now)))
    }

    /// Makes a shared hold exclusive under a new token; its lease is never shorter than before.
    pub(super) fn convert(
        &mut self,
        ctx: &mut Context<'_>,
        want: &Acquire,
        waited: Option<Undelivered>,
    ) -> Reply {
        let Some(name) = want.names.first() else { return Reply::Refused(Refusal::Invalid) };
        let Some((hold, before)) = self.detach(ctx, name, &want.holder) else {
            return Reply::Refused(Refusal::LockLost);
        };
        let number = ctx.counter.next();
        let claim = Claim {
            names: want.names.clone(),
            mode: Mode::Exclusive,
            token: Token(number),
            until: before.until.max(ctx.now.plus(before.ttl)),
            undelivered: Some(waited.unwrap_or_else(|| Undelivered::at_once(number, want.attempt))),
            upgraded_from: Some(hold.token),
            ..before
        };
        self.move_to(ctx, name, number, claim)
    }

    pub(super) fn downgrade(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        by: &Claimant,
    ) -> Result<Reply, Refusal> {
        let (holder, hold) = self.find(name, by)?;
        self.delivered(hold.claim);
        match hold.mode {
            Mode::Shared => return Ok(self.told(ctx.now, hold.claim)),
            Mode::Permit => return Err(Refusal::ModeConflict { mode: Mode::Permit }),
            Mode::Exclusive => {}
        }
        let (_, before) = self.detach(ctx, name, &holder).ok_or(Refusal::NotHeld)?;
        let claim = Claim {
            names: vec![name.clone()],
            mode: Mode::Shared,
            token: hold.token,
            upgraded_from: None,
            ..before
        };
        let number = ctx.counter.next();
        let reply = self.move_to(ctx, name, number, claim);
        self.promote(ctx, BTreeSet::from([name.clone()]));
        Ok(reply)
    }

    /// The hold belongs to this claim from now on.
    fn move_to(&mut self, ctx: &mut Context<'_>, name: &LockName, number: u64, claim: Claim) -> Reply {
        let hold = Hold { claim: number, token: claim.token, mode: claim.mode };
        if let Some(lock) = self.locks.get_mut(name) {
            lock.holders.insert(claim.holder.clone(), hold);
        }
        self.history.record(ctx, name, EventKind::Granted, &claim.holder, claim.mode, Some(claim.token));
        self.install(number, claim);
        self.told(ctx.now, number)
    }
}
