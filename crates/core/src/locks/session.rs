//! Sessions: one heartbeat keeps any number of holds; its end ends them all, and every wait, in one
//! step.
//!
//! It does not know what a holder does with its locks; a session that ended is simply not there.

use std::collections::BTreeSet;

use super::{Due, Locks, SESSIONS_MAX, Session};
use crate::command::{Lease, Refusal, Reply};
use crate::context::Context;
use crate::names::{Owner, SessionId};
use crate::query::EventKind;
use crate::stamp::Millis;

impl Locks {
    pub(super) fn open_session(&mut self, ctx: &mut Context<'_>, owner: &Owner, ttl: Millis) -> Reply {
        if ttl == Millis(0) {
            return Reply::Refused(Refusal::Invalid);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Reply::Refused(Refusal::TooManySessions);
        }
        let session = SessionId(ctx.counter.next());
        let until = ctx.now.plus(ttl);
        self.due.set(Due::Session(session), until);
        let fresh =
            Session { owner: owner.clone(), ttl, until, claims: BTreeSet::new(), tickets: BTreeSet::new() };
        self.sessions.insert(session, fresh);
        Reply::Opened(Lease { session, ttl, left: ttl })
    }

    pub(super) fn renew_session(&mut self, now: Millis, id: SessionId) -> Result<Lease, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::SessionExpired)?;
        session.until = now.plus(session.ttl);
        self.due.set(Due::Session(id), session.until);
        Ok(Lease { session: id, ttl: session.ttl, left: session.ttl })
    }

    /// Everything of the session ends first, and is granted to others afterwards: never to a waiter
    /// of the same session.
    pub(super) fn end_session(&mut self, ctx: &mut Context<'_>, id: SessionId, kind: EventKind) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.due.remove(&Due::Session(id));
        let mut touched = BTreeSet::new();
        for ticket in session.tickets {
            self.leave_queue(ctx, ticket, Some(Refusal::SessionExpired), &mut touched);
        }
        for number in session.claims {
            self.end_claim(ctx, number, kind, &mut touched);
        }
        self.promote(ctx, touched);
    }
}
