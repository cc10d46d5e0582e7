//! The lock machine: exclusive, shared and permit holds under leases or sessions, and first-come
//! waiters.
//!
//! A release and the grant that follows it are one step. It trusts no clock but log time, and it
//! does not protect anything by itself: what makes a lock safe is its token, checked where the
//! work lands ([`crate::guards`]).

mod acquire;
mod callers;
mod convert;
mod deadlock;
mod ends;
mod grant;
mod history;
mod hold;
mod session;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Attempt, Effect, Holder, LockOp, Mode, Refusal, Reply, SessionOp};
use crate::context::Context;
use crate::deadlines::Deadlines;
use crate::names::{LockName, Origin, Owner, SessionId, ShardId, Ticket, Token};
use crate::query::{EventKind, Outcome};
use crate::stamp::Millis;

use callers::Callers;
pub use ends::UNTOLD_MAX;
pub use history::{AUDIT_MAX, HISTORY_MAX};

/// How many locks one request may take together.
pub const NAMES_MAX: usize = 64;
/// How many sessions may be open at once ([`Refusal::TooManySessions`]).
pub const SESSIONS_MAX: usize = 1_000_000;

/// Every lock that somebody holds or awaits, and the sessions. Others leave no trace but history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    waiters_max: u32,
    locks: BTreeMap<LockName, Lock>,
    /// What was taken by one request and not yet given back, by the number that its grant took.
    claims: BTreeMap<u64, Claim>,
    tickets: BTreeMap<Ticket, Fate>,
    people: BTreeMap<Holder, Person>,
    sessions: BTreeMap<SessionId, Session>,
    ends: ends::Ends,
    due: Deadlines<Due>,
    history: history::History,
}

/// A lock with holders of one mode, waiters, or a delay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lock {
    holders: BTreeMap<Holder, Hold>,
    queue: BTreeSet<Place>,
    /// Who has which ticket in the queue: one each.
    asking: BTreeMap<Holder, Ticket>,
    /// The number of permits, and how many hold or await one: it is fixed as long as anybody does.
    limit: u32,
    permit_users: u32,
    delayed_until: Option<Millis>,
}

/// Those who become exclusive go ahead of all others; else first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Place {
    Upgrade(Ticket),
    Usual(Ticket),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    claim: u64,
    token: Token,
    mode: Mode,
}

/// What one request was granted: one lock, or several together under one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    holder: Holder,
    names: Vec<LockName>,
    mode: Mode,
    token: Token,
    /// Counts without a session only, like `until`.
    ttl: Millis,
    until: Millis,
    delay: Millis,
    metadata: Option<Arc<str>>,
    /// What a cancel names, and who may cancel, as long as nothing has shown that the holder knows
    /// of its grant.
    undelivered: Option<Undelivered>,
    /// The token of the shared hold that it was before, for an upgrade that nobody knows of.
    upgraded_from: Option<Token>,
}

/// A grant of which its holder may not know yet. What was granted without a wait was in no queue: its
/// ticket is the claim's own number, and leaves no trace among the tickets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Undelivered {
    ticket: Ticket,
    callers: Callers,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiter {
    want: crate::command::Acquire,
    callers: Callers,
    upgrade: bool,
    until: Millis,
}

/// What is known of a ticket. An unknown one was granted, and the hold is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fate {
    Waiting(Box<Waiter>),
    Granted(u64),
    Over(Refusal),
}

/// How much a holder holds, and what it waits for. Whoever does neither leaves no trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Person {
    claims: u32,
    tickets: BTreeSet<Ticket>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    owner: Owner,
    ttl: Millis,
    until: Millis,
    claims: BTreeSet<u64>,
    tickets: BTreeSet<Ticket>,
    /// Where it may hold receipts of messages.
    shards: BTreeSet<ShardId>,
}

/// What falls due. At one instant leases end before delays do, and delays before waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Due {
    Claim(u64),
    Session(SessionId),
    Delay(LockName),
    Wait(Ticket),
    Forget(Ticket),
}

impl Locks {
    /// No locks; at most `waiters_max` waiters for each.
    pub fn new(waiters_max: u32) -> Self {
        Self {
            waiters_max,
            locks: BTreeMap::new(),
            claims: BTreeMap::new(),
            tickets: BTreeMap::new(),
            people: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ends: ends::Ends::default(),
            due: Deadlines::default(),
            history: history::History::default(),
        }
    }

    /// At most so many waiters for each lock from now on.
    pub fn set_max(&mut self, waiters_max: u32) {
        self.waiters_max = waiters_max;
    }

    /// Applies one command that was not applied before.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &LockOp) -> Reply {
        let done = match op {
            LockOp::Acquire(want) => return self.acquire(ctx, want),
            LockOp::Cancel { ticket, attempt } => return self.cancel(ctx, *ticket, *attempt),
            LockOp::Check { name, token } => Ok(Reply::Checked(self.standing(name, *token, ctx.counter))),
            LockOp::Release { names, by } => self.release(ctx, names, by),
            LockOp::Renew { names, by, ttl } => self.renew(ctx, names, by, *ttl),
            LockOp::Upgrade { name, by, wait, fail_on_deadlock, attempt } => {
                let how =
                    convert::Patience { wait: *wait, fail_on_deadlock: *fail_on_deadlock, attempt: *attempt };
                self.upgrade(ctx, name, by, how)
            }
            LockOp::Downgrade { name, by } => self.downgrade(ctx, name, by),
            LockOp::Break { name, token, reason, by, asked_at } => {
                let note = history::Note { reason, by, asked_at: *asked_at };
                self.break_hold(ctx, name, *token, note)
            }
        };
        done.unwrap_or_else(Reply::Refused)
    }

    /// Applies one command about sessions that was not applied before.
    pub fn apply_session(&mut self, ctx: &mut Context<'_>, op: &SessionOp) -> Reply {
        match op {
            SessionOp::Open { owner, ttl } => self.open_session(ctx, owner, *ttl),
            SessionOp::Renew { sessions } => {
                Reply::Renewed(sessions.iter().map(|id| self.renew_session(ctx.now, *id)).collect())
            }
            SessionOp::Close { session } => self.close_session(ctx, *session),
            SessionOp::Enlist { session, shard } => self.enlist(ctx.now, *session, *shard),
            SessionOp::Told { shard, sessions } => {
                self.ends.confirm(*shard, sessions);
                ctx.effects.push(Effect::WakeOutbox);
                Reply::Confirmed
            }
        }
    }

    /// Answers a repeated request, whose first answer was `first`, from the present: still held,
    /// still waiting (this try's caller may be told, too), or lost.
    pub fn again(&mut self, now: Millis, op: &LockOp, first: &Reply) -> Reply {
        let attempt = match op {
            LockOp::Acquire(want) => want.attempt,
            LockOp::Upgrade { attempt, .. } => *attempt,
            _ => return first.clone(),
        };
        let outcome = match first {
            Reply::Granted(grant) => return self.still_held(now, op, grant.token, attempt),
            Reply::Waiting { ticket } => {
                self.attach(*ticket, attempt);
                self.outcome(*ticket, now)
            }
            other => return other.clone(),
        };
        match (outcome, first) {
            (Outcome::Waiting, waiting) => waiting.clone(),
            (Outcome::Granted(grant), _) => Reply::Granted(grant),
            (Outcome::Refused(refusal), _) => Reply::Refused(refusal),
        }
    }

    fn still_held(&mut self, now: Millis, op: &LockOp, token: Token, attempt: Attempt) -> Reply {
        let held = match op {
            LockOp::Acquire(want) => {
                let hold = want.names.first().and_then(|name| self.hold(name, &want.holder));
                hold.map(|hold| hold.claim)
            }
            LockOp::Upgrade { name, by, .. } => {
                let by = crate::command::Claimant { token: Some(token), ..by.clone() };
                self.find(name, &by).ok().map(|(_, hold)| hold.claim)
            }
            _ => None,
        };
        match held.filter(|number| self.claims.get(number).is_some_and(|claim| claim.token == token)) {
            Some(number) => {
                self.heard_by(number, attempt);
                self.told(now, number)
            }
            None => Reply::Refused(Refusal::LockLost),
        }
    }

    /// What became of a ticket.
    pub fn outcome(&self, ticket: Ticket, now: Millis) -> Outcome {
        match self.tickets.get(&ticket) {
            Some(Fate::Waiting(_)) => Outcome::Waiting,
            Some(Fate::Over(refusal)) => Outcome::Refused(refusal.clone()),
            Some(Fate::Granted(number)) => match self.told(now, *number) {
                Reply::Granted(grant) => {
                    Outcome::Granted(crate::command::Grant { ticket: Some(ticket), ..grant })
                }
                _ => Outcome::Refused(Refusal::LockLost),
            },
            None => Outcome::Refused(Refusal::LockLost),
        }
    }

    /// Ends every lease and every wait that is due by log time, and grants what becomes free.
    pub fn expire(&mut self, ctx: &mut Context<'_>) {
        while let Some(due) = self.due.pop_due(ctx.now) {
            match due {
                Due::Claim(number) => {
                    let mut touched = BTreeSet::new();
                    self.end_claim(ctx, number, EventKind::Expired, &mut touched);
                    self.promote(ctx, touched);
                }
                Due::Session(id) => self.end_session(ctx, id, EventKind::Expired),
                Due::Delay(name) => {
                    if let Some(lock) = self.locks.get_mut(&name) {
                        lock.delayed_until = None;
                    }
                    self.promote(ctx, BTreeSet::from([name]));
                }
                Due::Wait(ticket) => {
                    let mut touched = BTreeSet::new();
                    self.leave_queue(ctx, ticket, Some(Refusal::WaitTimeout), &mut touched);
                    self.promote(ctx, touched);
                }
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
        let mut gone = Vec::new();
        for (ticket, fate) in &mut self.tickets {
            if let Fate::Waiting(waiter) = fate
                && waiter.callers.leave_all(origin)
            {
                gone.push(*ticket);
            }
        }
        let mut touched = BTreeSet::new();
        for ticket in gone {
            self.leave_queue(ctx, ticket, None, &mut touched);
        }
        self.promote(ctx, touched);
    }
}

impl Place {
    const fn ticket(self) -> Ticket {
        match self {
            Self::Upgrade(ticket) | Self::Usual(ticket) => ticket,
        }
    }
}

impl Waiter {
    fn new(want: crate::command::Acquire, upgrade: bool, now: Millis) -> Self {
        let (callers, until) = (Callers::new(want.attempt), now.plus(want.wait));
        Self { want, callers, upgrade, until }
    }

    const fn place(&self, ticket: Ticket) -> Place {
        if self.upgrade { Place::Upgrade(ticket) } else { Place::Usual(ticket) }
    }
}
