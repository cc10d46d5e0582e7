//! Errors as clients see them: the one place that knows HTTP's status codes.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockstep_client::wire::{self, Code};
use lockstep_core::Refusal;
use lockstep_core::names::{LockName, Owner};
use serde_json::{Map, Value, json};

use crate::cache;
use crate::router::Error;

/// A request that was not done, and why.
#[derive(Debug)]
pub(super) struct Fault {
    code: Code,
    message: String,
    details: Map<String, Value>,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Map::new() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }

    /// As one item of a batch.
    pub(super) fn into_wire(self) -> wire::Failure {
        let Self { code, message, details } = self;
        wire::Failure { error: wire::Fault { code: code.as_str().into(), message, details } }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let code = self.code;
        let body = serde_json::to_vec(&self.into_wire()).expect("our shapes always serialize");
        let mut response = super::fresh(body);
        *response.status_mut() = status(code);
        if matches!(
            code,
            Code::QueueFull
                | Code::StorageFull
                | Code::TooManyQueues
                | Code::TooManyNearCaches
                | Code::TooManyWatchers
                | Code::CacheFull
                | Code::Overloaded
                | Code::TooManyWaiters
                | Code::TooManySessions
                | Code::MemoFull
        ) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::BadReceipt | Code::GuardNeedsStrict => StatusCode::BAD_REQUEST,
        Code::NotFound | Code::NotHeld | Code::Miss | Code::NoNamespace => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RequestConflict | Code::DedupConflict | Code::NotANumber | Code::OutOfRange => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Code::VersionMismatch | Code::Fenced | Code::UnknownToken => StatusCode::PRECONDITION_FAILED,
        Code::Held
        | Code::WaitTimeout
        | Code::LockLost
        | Code::StaleToken
        | Code::NotHolder
        | Code::ModeConflict
        | Code::LimitMismatch
        | Code::LockDelayed
        | Code::Deadlock
        | Code::UpgradeConflict
        | Code::FillVoid
        | Code::Loading
        | Code::StaleReceipt => StatusCode::CONFLICT,
        Code::SessionExpired | Code::NearClosed => StatusCode::GONE,
        Code::TooManyWaiters
        | Code::TooManySessions
        | Code::QueueFull
        | Code::StorageFull
        | Code::CacheFull
        | Code::TooManyNamespaces
        | Code::TooManyNearCaches
        | Code::TooManyWatchers
        | Code::TooManyQueues => StatusCode::TOO_MANY_REQUESTS,
        Code::HomeUnavailable
        | Code::NoLeader
        | Code::StoreAway
        | Code::Overloaded
        | Code::MemoFull
        | Code::Draining
        | Code::Forming => StatusCode::SERVICE_UNAVAILABLE,
        Code::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The status that says "not now" where a body of its own goes with it.
pub(super) fn not_ready(body: Response) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// The status that says "you have it already".
pub(super) fn not_modified(etag: HeaderValue) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    (StatusCode::NOT_MODIFIED, [(header::ETAG, etag), (header::CACHE_CONTROL, no_store)]).into_response()
}

const UNKNOWN: &str = "It may have been done. Ask again with the same request_id: it gets the first answer.";

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NoLeader { shard } => Self::new(
                Code::NoLeader,
                "No leader could be reached, and nothing was done. Ask again in a moment, or ask another node.",
            )
            .with("shard", shard.0),
            Error::StoreAway { shard } => Self::new(
                Code::StoreAway,
                "The store behind the cluster cannot be reached or takes no writes, and nothing was done. Ask again \
                 in a moment; GET /ready says what is in the way.",
            )
            .with("shard", shard.0),
            Error::OutcomeUnknown => Self::new(Code::OutcomeUnknown, UNKNOWN),
            Error::Overloaded => Self::new(
                Code::Overloaded,
                "Too many requests wait already, and nothing was done. Ask again after a pause.",
            ),
            Error::StorageFull => Self::new(
                Code::StorageFull,
                "A disk of the cluster, or the memory of its Redis, is nearly full, and nothing was pushed. Consume messages, or give it more space.",
            ),
            Error::Draining => {
                Self::new(Code::Draining, "This node is stopping, and nothing was done. Ask another node.")
            }
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Held { owner, left } => Self::new(
                Code::Held,
                format!("{} holds the lock. Ask again later, or wait in its queue with wait_ms.", owner.0),
            )
            .with("owner", &*owner.0)
            .with("expires_in_ms", left.0),
            Refusal::WaitTimeout => {
                Self::new(Code::WaitTimeout, "The lock was not free within wait_ms. Ask again, or wait longer.")
            }
            Refusal::LockLost => Self::new(
                Code::LockLost,
                "This request was granted the lock once, and the lease is over. Stop the work, and acquire anew under another request_id.",
            ),
            Refusal::StaleToken { current } => Self::new(
                Code::StaleToken,
                "This token is not the current one: the lease it came with is over. Stop the work that relies on it.",
            )
            .with("current_token", current.0),
            Refusal::NotHolder => {
                Self::new(Code::NotHolder, "Another owner holds the lock. Use the owner that acquired it.")
            }
            Refusal::NotHeld => Self::new(Code::NotHeld, "Nobody holds the lock: its lease is over, or it was released."),
            Refusal::ModeConflict { mode } => Self::new(
                Code::ModeConflict,
                "This owner already holds or awaits the lock in another mode. Release it first.",
            )
            .with("mode", json!(super::locks::mode(mode))),
            Refusal::LimitMismatch { limit } => Self::new(
                Code::LimitMismatch,
                format!("The lock has {limit} permits as long as anybody holds or awaits one. Use the same limit everywhere."),
            )
            .with("limit", limit),
            Refusal::LockDelayed { left } => Self::new(
                Code::LockDelayed,
                "The last holder lost the lock, and asked that nobody gets it for a while. Ask again later, or wait in its queue with wait_ms.",
            )
            .with("expires_in_ms", left.0),
            Refusal::Deadlock { cycle } => {
                let wait = |(owner, name): (Owner, LockName)| json!({"owner": &*owner.0, "waits_for": &*name.0});
                Self::new(
                    Code::Deadlock,
                    "Waiting would close a cycle of waits. Release what you hold and start over, or take all locks together with names.",
                )
                .with("cycle", cycle.into_iter().map(wait).collect::<Vec<_>>())
            }
            Refusal::UpgradeConflict => Self::new(
                Code::UpgradeConflict,
                "Another shared holder already waits to become exclusive, and needs you to leave. Release the lock, and acquire it exclusively.",
            ),
            Refusal::SessionExpired => Self::new(
                Code::SessionExpired,
                "The session was closed, or was not renewed in time. Stop the work, and open another one.",
            ),
            Refusal::TooManySessions => {
                Self::new(Code::TooManySessions, "Too many sessions are open already. Close some, or ask again after a pause.")
            }
            Refusal::TooManyWaiters => {
                Self::new(Code::TooManyWaiters, "Too many already wait for this lock. Ask again after a pause.")
            }
            Refusal::Fenced { seen } => Self::new(
                Code::Fenced,
                match seen {
                    Some(_) => "A newer token of the guard's lock was seen here: the lock is lost. Stop the work that relies on it; nothing was done.",
                    None => "The guard's lock is not held under this token any more. Stop the work that relies on it; nothing was done.",
                },
            )
            .with("seen_token", seen.map(|token| token.0)),
            Refusal::GuardNeedsStrict => Self::new(
                Code::GuardNeedsStrict,
                "Permits of one lock overlap, so their tokens fence nobody. Send the guard with \"strict\":true.",
            ),
            Refusal::UnknownToken => Self::new(
                Code::UnknownToken,
                "The guard's token was never handed out for its lock. Send the token that the grant showed.",
            ),
            Refusal::StaleReceipt => Self::new(
                Code::StaleReceipt,
                "This receipt is not current: its time-out has passed, or the message is done. Nothing was changed.",
            ),
            Refusal::QueueFull => {
                Self::new(Code::QueueFull, "The queue is full, and nothing was pushed. Consume, or ask again after a pause.")
            }
            Refusal::DedupConflict => Self::new(
                Code::DedupConflict,
                "This dedup_id came before with another payload, and this one was not pushed. Give each message an id of its own.",
            ),
            Refusal::TooManyQueues => Self::new(
                Code::TooManyQueues,
                "There are too many queues, and nothing was done. Use one queue with keys; a queue that stays empty is forgotten after ten minutes.",
            ),
            Refusal::RequestConflict => Self::new(
                Code::RequestConflict,
                "This request_id came before with another body. Give each request an id of its own.",
            ),
            Refusal::MemoFull => Self::new(
                Code::MemoFull,
                "Too many request ids are remembered already, and nothing was done. Ask again after a pause.",
            ),
            Refusal::TooManyNamespaces => Self::new(
                Code::TooManyNamespaces,
                "There are as many namespaces as there may be. Use one that exists, or put what tells them apart into the keys.",
            ),
            Refusal::TooLate | Refusal::Settled | Refusal::GuardUnproven | Refusal::SessionUnproven => Self::new(Code::OutcomeUnknown, UNKNOWN),
            Refusal::FormerIncarnation { .. }
            | Refusal::IncarnationOver
            | Refusal::WrongShard
            | Refusal::Invalid => Self::bad("The cluster could not make sense of the request."),
        }
    }
}

impl From<cache::NearRefusal> for Fault {
    fn from(refusal: cache::NearRefusal) -> Self {
        match refusal {
            cache::NearRefusal::TooManyClients => Self::new(
                Code::TooManyNearCaches,
                "This node has as many near caches as it may. Open it at another node, or go without.",
            ),
            cache::NearRefusal::Unknown => Self::new(
                Code::NearClosed,
                "This near cache is not known here, or no longer. Drop what it holds, and open another one.",
            ),
        }
    }
}

impl From<cache::Error> for Fault {
    fn from(error: cache::Error) -> Self {
        match error {
            cache::Error::VersionMismatch { current } => Self::new(
                Code::VersionMismatch,
                "The condition does not hold. Read the key, decide again, and write with the version that you read.",
            )
            .with("current_version", current.map(|version| version.to_string())),
            cache::Error::HomeUnavailable => Self::new(
                Code::HomeUnavailable,
                "The node that serves this key cannot be reached, and nothing was done. Ask again within seconds.",
            ),
            cache::Error::TooManyWatchers => Self::new(
                Code::TooManyWatchers,
                "As many watch the cache at this node as may. Watch at another node, or let one watcher hear for several.",
            ),
            cache::Error::OutcomeUnknown => Self::new(Code::OutcomeUnknown, UNKNOWN),
            cache::Error::TooLarge => {
                Self::new(Code::PayloadTooLarge, "The value is larger than the cache may be.")
            }
            cache::Error::RequestConflict => Refusal::RequestConflict.into(),
            cache::Error::Guard(refusal) => refusal.into(),
            cache::Error::FillVoid => Self::new(
                Code::FillVoid,
                "Another write, a flush or a move came first, or the lease is over. Load the key again.",
            ),
            cache::Error::NotANumber => {
                Self::new(Code::NotANumber, "The value is no whole number, and nothing was changed. Set a number first.")
            }
            cache::Error::OutOfRange => {
                Self::new(Code::OutOfRange, "The sum does not fit into 64 bits, and nothing was changed.")
            }
            cache::Error::Overloaded => Self::new(
                Code::Overloaded,
                "As many requests wait at this key's home as may, and nothing was done. Ask again after a pause.",
            ),
            cache::Error::MemoFull => lockstep_core::Refusal::MemoFull.into(),
            cache::Error::Full => Self::new(
                Code::CacheFull,
                "The key's home holds as much as it may until others have forgotten what it evicts. Ask again after a pause.",
            ),
        }
    }
}
