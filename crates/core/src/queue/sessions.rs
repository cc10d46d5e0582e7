//! Receipts that sessions of consumers keep: one heartbeat extends all of a session's, and its end
//! returns its messages at once.
//!
//! It does not know which sessions are alive: the coordination shard does, and tells each shard in which
//! a session may hold receipts of its end. Until then their own time-outs count, from the last heartbeat.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Queues;
use crate::command::{InSession, Refusal, Reply};
use crate::context::Context;
use crate::names::SessionId;
use crate::stamp::Millis;

/// How many ended sessions a shard remembers before it forgets the oldest one.
pub const ENDED_MAX: usize = 65_536;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions {
    /// Those that hold receipts here.
    holding: BTreeMap<SessionId, Holding>,
    ended: BTreeSet<SessionId>,
    /// Every forgotten one was at or below this.
    floor: SessionId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holding {
    /// When its last heartbeat came here.
    renewed: Millis,
    /// The messages.
    flights: BTreeSet<u64>,
}

impl Sessions {
    /// Whether a receive may be done in the session. Errors: [`Refusal::SessionExpired`] once its end is
    /// known here; [`Refusal::SessionUnproven`] where nothing is remembered of so old a session.
    pub(super) fn check(&self, of: InSession) -> Result<(), Refusal> {
        let InSession { session, proven } = of;
        if self.ended.contains(&session) {
            return Err(Refusal::SessionExpired);
        }
        if session <= self.floor && !proven && !self.holding.contains_key(&session) {
            return Err(Refusal::SessionUnproven);
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, session: SessionId, message: u64, now: Millis) {
        let fresh = || Holding { renewed: now, flights: BTreeSet::new() };
        self.holding.entry(session).or_insert_with(fresh).flights.insert(message);
    }

    pub(super) fn let_go(&mut self, session: SessionId, message: u64) {
        let Some(holding) = self.holding.get_mut(&session) else { return };
        holding.flights.remove(&message);
        if holding.flights.is_empty() {
            self.holding.remove(&session);
        }
    }

    /// When its last heartbeat came here.
    pub(super) fn renewed(&self, session: SessionId) -> Option<Millis> {
        self.holding.get(&session).map(|holding| holding.renewed)
    }

    /// How many receipts are extended by this.
    fn renew(&mut self, session: SessionId, now: Millis) -> u32 {
        let Some(holding) = self.holding.get_mut(&session) else { return 0 };
        holding.renewed = now;
        u32::try_from(holding.flights.len()).unwrap_or(u32::MAX)
    }

    /// Refuses the session from now on. Answers the messages that it holds.
    fn end(&mut self, session: SessionId) -> BTreeSet<u64> {
        self.ended.insert(session);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_first()
        {
            self.floor = self.floor.max(oldest);
        }
        self.holding.remove(&session).map(|holding| holding.flights).unwrap_or_default()
    }
}

impl Queues {
    /// Whether any of these sessions holds receipts here: its heartbeat is of no use otherwise.
    pub fn hold_receipts(&self, sessions: &[SessionId]) -> bool {
        sessions.iter().any(|session| self.sessions.holding.contains_key(session))
    }

    /// A heartbeat of each. What it extends is looked at when the receipt would end: a heartbeat costs
    /// the same however many receipts the session has.
    pub(super) fn renew_sessions(&mut self, now: Millis, sessions: &[SessionId]) -> Reply {
        Reply::Kept(sessions.iter().map(|session| self.sessions.renew(*session, now)).collect())
    }

    /// The sessions are over: their messages are back in their places, and it is nobody's failure.
    pub(super) fn end_sessions(&mut self, ctx: &mut Context<'_>, sessions: &[SessionId]) -> Reply {
        let mut returned = 0_u32;
        for session in sessions {
            for message in self.sessions.end(*session) {
                self.land(ctx, message, Millis(0), false);
                returned = returned.saturating_add(1);
            }
        }
        Reply::Ended { returned }
    }

    /// Until when the last heartbeat of its session keeps a message in flight.
    pub(super) fn kept_until(&self, message: u64) -> Option<Millis> {
        let flight = self.flights.get(&message)?;
        Some(self.sessions.renewed(flight.session?)?.plus(flight.visibility))
    }
}
