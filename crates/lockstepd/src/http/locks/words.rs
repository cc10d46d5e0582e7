//! The core's answers about locks in the words of the contract. Decides nothing.

use std::sync::Arc;

use lockstep_client::wire;
use lockstep_core::command::{Grant, Holder, Mode};
use lockstep_core::names::Token;
use lockstep_core::query::{AuditView, Event, EventKind, HolderView, LockView, WaiterView};

use crate::http::names::session_id;

/// What of a request its answer repeats.
pub(super) struct Said {
    pub(super) name: String,
    pub(super) names: Vec<String>,
    pub(super) owner: String,
    pub(super) session: Option<String>,
}

impl Said {
    pub(super) fn acquired(self, grant: &Grant) -> wire::Acquired {
        wire::Acquired {
            acquired: true,
            name: self.name,
            names: self.names,
            owner: self.owner,
            session: self.session,
            mode: mode(grant.mode),
            token: grant.token.0,
            tokens: grant.tokens.iter().map(|(name, token)| (name.0.to_string(), token.0)).collect(),
            ttl_ms: grant.ttl.0,
            expires_in_ms: grant.left.0,
        }
    }
}

pub(in crate::http) fn mode(mode: Mode) -> wire::Mode {
    match mode {
        Mode::Exclusive => wire::Mode::Exclusive,
        Mode::Shared => wire::Mode::Shared,
        Mode::Permit => wire::Mode::Permit,
    }
}

pub(super) fn core_mode(mode: wire::Mode) -> Mode {
    match mode {
        wire::Mode::Exclusive => Mode::Exclusive,
        wire::Mode::Shared => Mode::Shared,
        wire::Mode::Permit => Mode::Permit,
    }
}

/// A lock that nobody holds, awaits or delays is shown as free.
pub(super) fn lock(name: String, found: Option<LockView>) -> wire::Lock {
    let free = wire::Lock { name, limit: None, delayed_ms: None, holders: Vec::new(), waiters: Vec::new() };
    found.map_or(free, view)
}

pub(super) fn view(lock: LockView) -> wire::Lock {
    wire::Lock {
        name: lock.name.0.to_string(),
        limit: lock.limit,
        delayed_ms: lock.delayed.map(|left| left.0),
        holders: lock.holders.into_iter().map(holder).collect(),
        waiters: lock.waiters.into_iter().map(waiter).collect(),
    }
}

fn holder(view: HolderView) -> wire::Holder {
    wire::Holder {
        owner: view.holder.owner.0.to_string(),
        session: view.holder.session.map(session_id),
        mode: mode(view.mode),
        token: view.token.0,
        ttl_ms: view.ttl.0,
        expires_in_ms: view.left.0,
        metadata: metadata(view.metadata),
    }
}

fn waiter(view: WaiterView) -> wire::Waiter {
    wire::Waiter {
        owner: view.holder.owner.0.to_string(),
        session: view.holder.session.map(session_id),
        mode: mode(view.mode),
        upgrade: view.upgrade,
        waits_ms: view.left.0,
        waits_for: view.names.iter().map(|name| name.0.to_string()).collect(),
        blocked_by: view.blocked_by.iter().map(|owner| owner.0.to_string()).collect(),
        metadata: metadata(view.metadata),
    }
}

fn metadata(text: Option<Arc<str>>) -> Option<serde_json::Value> {
    text.and_then(|text| serde_json::from_str(&text).ok())
}

pub(super) fn losers(holders: Vec<(Holder, Token)>) -> Vec<wire::Loser> {
    let loser = |(holder, token): (Holder, Token)| wire::Loser {
        owner: holder.owner.0.to_string(),
        session: holder.session.map(session_id),
        token: token.0,
    };
    holders.into_iter().map(loser).collect()
}

pub(super) fn entry(view: AuditView) -> wire::AuditEntry {
    wire::AuditEntry {
        id: view.id,
        name: view.name.0.to_string(),
        holders: losers(view.holders),
        reason: view.reason.to_string(),
        by: view.by.to_string(),
        at_ms: view.asked_at,
    }
}

pub(super) fn event(event: &Event) -> wire::LockEvent {
    wire::LockEvent {
        event: kind(event.kind).into(),
        name: event.name.0.to_string(),
        owner: event.holder.owner.0.to_string(),
        session: event.holder.session.map(session_id),
        mode: mode(event.mode),
        token: event.token.map(|token| token.0),
    }
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Granted => "granted",
        EventKind::Released => "released",
        EventKind::Expired => "expired",
        EventKind::Broken => "broken",
        EventKind::Waiting => "waiting",
        EventKind::Left => "left",
    }
}
