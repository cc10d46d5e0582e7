//! Sessions: one heartbeat keeps any number of holds; its end ends them all, and every wait, in one
//! step. A queue shard in which it may hold receipts is told of its end.
//!
//! It does not know what a holder does with its locks; a session that ended is simply not there.

use std::collections::BTreeSet;

use super::{Due, Locks, SESSIONS_MAX, Session};
use crate::command::{Effect, Lease, Refusal, Renewal, Reply};
use crate::context::Context;
use crate::names::{Owner, SessionId, ShardId};
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
        let fresh = Session {
            owner: owner.clone(),
            ttl,
            until,
            claims: BTreeSet::new(),
            tickets: BTreeSet::new(),
            shards: BTreeSet::new(),
        };
        self.sessions.insert(session, fresh);
        Reply::Opened(Lease { session, ttl, left: ttl })
    }

    pub(super) fn renew_session(&mut self, now: Millis, id: SessionId) -> Result<Renewal, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::SessionExpired)?;
        session.until = now.plus(session.ttl);
        self.due.set(Due::Session(id), session.until);
        let lease = Lease { session: id, ttl: session.ttl, left: session.ttl };
        Ok(Renewal { lease, shards: session.shards.iter().copied().collect() })
    }

    pub(super) fn close_session(&mut self, ctx: &mut Context<'_>, id: SessionId) -> Reply {
        let Some(session) = self.sessions.get(&id) else { return Reply::Refused(Refusal::SessionExpired) };
        let shards = session.shards.iter().copied().collect();
        self.end_session(ctx, id, EventKind::Released);
        Reply::Closed { shards }
    }

    /// From now on a queue shard may hold receipts of the session, and is told of its end.
    pub(super) fn enlist(&mut self, now: Millis, id: SessionId, shard: ShardId) -> Reply {
        if shard == ShardId::COORDINATION {
            return Reply::Refused(Refusal::Invalid);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Reply::Refused(Refusal::SessionExpired);
        };
        if self.ends.is_full(shard) {
            return Reply::Refused(Refusal::TooManySessions);
        }
        session.shards.insert(shard);
        self.session(id, now).map_or(Reply::Refused(Refusal::SessionExpired), Reply::Enlisted)
    }

    /// A session that is alive.
    pub fn session(&self, id: SessionId, now: Millis) -> Option<Lease> {
        let session = self.sessions.get(&id)?;
        Some(Lease { session: id, ttl: session.ttl, left: Millis(session.until.0.saturating_sub(now.0)) })
    }

    /// Sessions of whose end a queue shard is to be told, at most `max`.
    pub fn untold(&self, shard: ShardId, max: usize) -> Vec<SessionId> {
        self.ends.untold(shard, max)
    }

    /// Whether every queue shard that has to do with it knows that the session has ended.
    pub fn end_is_known(&self, id: SessionId) -> bool {
        !self.sessions.contains_key(&id) && self.ends.is_known(id)
    }

    /// Everything of the session ends first, and is granted to others afterwards: never to a waiter
    /// of the same session.
    pub(super) fn end_session(&mut self, ctx: &mut Context<'_>, id: SessionId, kind: EventKind) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.due.remove(&Due::Session(id));
        if !session.shards.is_empty() {
            self.ends.tell(id, &session.shards);
            ctx.effects.push(Effect::WakeOutbox);
        }
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
