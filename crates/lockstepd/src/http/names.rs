//! Checks of what clients name and count. Each error says which field, and what would be right.

use std::sync::Arc;

use lockstep_client::wire;
use lockstep_core::Millis;
use lockstep_core::names::{LockName, SessionId, Token};

use super::error::Fault;
use super::limits::{NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX, TOKEN_MAX};
use crate::router::Claim;

/// A name, owner, queue or key.
pub(super) fn name(field: &str, text: &str) -> Result<Arc<str>, Fault> {
    if text.is_empty() {
        return Err(Fault::bad(format!("{field} must not be empty.")));
    }
    if text.len() > NAME_BYTES_MAX {
        let length = text.len();
        return Err(Fault::bad(format!("{field} has {length} bytes; at most {NAME_BYTES_MAX} are allowed.")));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::bad(format!("{field} must not contain control characters.")));
    }
    Ok(text.into())
}

/// Words for people, such as a reason.
pub(super) fn text(field: &str, text: &str, max: usize) -> Result<Arc<str>, Fault> {
    if text.is_empty() || text.len() > max {
        return Err(Fault::bad(format!("{field} must have 1 to {max} bytes.")));
    }
    Ok(text.into())
}

/// A session, as its opening showed it.
pub(super) fn session(text: &str) -> Result<SessionId, Fault> {
    let number = text.strip_prefix('s').and_then(|number| number.parse().ok());
    let id = number.map(SessionId).filter(|id| session_id(*id) == text);
    id.ok_or_else(|| Fault::bad("session must be the id that /session/open answered, such as \"s17\"."))
}

/// A session as clients see it.
pub(super) fn session_id(id: SessionId) -> String {
    format!("s{}", id.0)
}

/// A client's own id of a request.
pub(super) fn request_id(text: &str) -> Result<(), Fault> {
    if text.is_empty() || text.len() > REQUEST_ID_BYTES_MAX {
        return Err(Fault::bad(format!("request_id must have 1 to {REQUEST_ID_BYTES_MAX} bytes.")));
    }
    Ok(())
}

/// The lock under which a request is done.
pub(super) fn guard(guard: Option<wire::Guard>) -> Result<Option<Claim>, Fault> {
    let claim = |guard: wire::Guard| {
        let lock = LockName(name("guard.lock", &guard.lock)?);
        let token = within("guard.token", guard.token, 1, TOKEN_MAX)?;
        Ok(Claim { lock, token: Token(token.0), strict: guard.strict })
    };
    guard.map(claim).transpose()
}

/// A number within bounds.
pub(super) fn within(field: &str, value: u64, min: u64, max: u64) -> Result<Millis, Fault> {
    if value < min || value > max {
        return Err(Fault::bad(format!("{field} is {value}; it must lie between {min} and {max}.")));
    }
    Ok(Millis(value))
}
