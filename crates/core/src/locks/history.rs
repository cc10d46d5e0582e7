//! What happened to locks lately, and for longer, who broke which.
//!
//! Part of the replicated state, so that a watcher goes on at any node where it stopped at another.
//! Both are bounded, and say so instead of showing gaps.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Effect, Holder, Mode};
use crate::context::Context;
use crate::names::{LockName, Token};
use crate::query::{AuditView, Event, EventKind, HistoryView};

/// Events of all locks together that are remembered.
pub const HISTORY_MAX: usize = 16_384;
/// Entries of the audit log that are remembered.
pub const AUDIT_MAX: usize = 1_024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    last: u64,
    events: VecDeque<Event>,
    last_audit: u64,
    audit: VecDeque<AuditView>,
}

/// Why a lock was broken.
pub(super) struct Note<'a> {
    pub(super) reason: &'a Arc<str>,
    pub(super) by: &'a Arc<str>,
    pub(super) asked_at: u64,
}

impl History {
    pub(super) fn record(
        &mut self,
        ctx: &mut Context<'_>,
        name: &LockName,
        kind: EventKind,
        holder: &Holder,
        mode: Mode,
        token: Option<Token>,
    ) {
        self.last += 1;
        if self.events.len() == HISTORY_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            id: self.last,
            at: ctx.now,
            name: name.clone(),
            kind,
            holder: holder.clone(),
            mode,
            token,
        });
        ctx.effects.push(Effect::WakeLock(name.clone()));
    }

    pub(super) fn audit(&mut self, name: &LockName, holders: &[(Holder, Token)], note: Note<'_>) {
        self.last_audit += 1;
        if self.audit.len() == AUDIT_MAX {
            self.audit.pop_front();
        }
        self.audit.push_back(AuditView {
            id: self.last_audit,
            name: name.clone(),
            holders: holders.to_vec(),
            reason: Arc::clone(note.reason),
            by: Arc::clone(note.by),
            asked_at: note.asked_at,
        });
    }

    /// What happened to `name` after event `after`: cut at `limit` events.
    pub(super) fn since(&self, name: &LockName, after: u64, limit: u32) -> HistoryView {
        let before_first = self.last - self.events.len() as u64;
        let skip = usize::try_from(after.saturating_sub(before_first)).unwrap_or(usize::MAX);
        let new = self.events.iter().skip(skip).filter(|event| event.name == *name);
        let events: Vec<_> = new.take(limit as usize).cloned().collect();
        HistoryView { whole: (before_first..=self.last).contains(&after), events, last: self.last }
    }

    pub(super) fn audited(&self, name: Option<&LockName>, after: u64, limit: u32) -> Vec<AuditView> {
        let new = self.audit.iter().filter(|entry| entry.id > after);
        let of_name = new.filter(|entry| name.is_none_or(|name| entry.name == *name));
        of_name.take(limit as usize).cloned().collect()
    }
}
