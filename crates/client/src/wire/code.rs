//! Error codes: what happened, and what to do about it.
//!
//! A code never changes its meaning. Which HTTP status goes with it is the server's business.

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The request is malformed: a field is unknown, missing, of the wrong type or out of range.
    BadRequest,
    /// There is no such route.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The request took too long to arrive.
    RequestTimeout,
    /// The body or a payload is larger than allowed.
    PayloadTooLarge,
    /// The same `request_id` came before with another body.
    RequestConflict,
    /// Somebody else holds the lock.
    Held,
    /// The wait ended without a grant.
    WaitTimeout,
    /// The lock was granted to this request, and is lost since.
    LockLost,
    /// The token is not the current one.
    StaleToken,
    /// Somebody else holds the lock.
    NotHolder,
    /// Nobody holds the lock.
    NotHeld,
    /// The same owner holds or awaits it in another mode.
    ModeConflict,
    /// The lock has another number of permits.
    LimitMismatch,
    /// The last holder lost the lock, and asked that nobody gets it for a while.
    LockDelayed,
    /// Waiting would close a cycle of waits.
    Deadlock,
    /// Another shared holder already waits to become exclusive.
    UpgradeConflict,
    /// The session has ended.
    SessionExpired,
    /// Too many sessions are open already.
    TooManySessions,
    /// Too many already wait for this lock.
    TooManyWaiters,
    /// A guard's lock has been granted anew, or is not held any more.
    Fenced,
    /// A guard of a permit must be strict.
    GuardNeedsStrict,
    /// A guard's token was never handed out.
    UnknownToken,
    /// The receipt cannot be read.
    BadReceipt,
    /// The receipt is not the latest of a message that still awaits one.
    StaleReceipt,
    /// The queue is full.
    QueueFull,
    /// The same dedup id came before with another payload.
    DedupConflict,
    /// There are too many queues.
    TooManyQueues,
    /// A disk is nearly full.
    StorageFull,
    /// There is no value.
    Miss,
    /// The condition on the version did not hold.
    VersionMismatch,
    /// There is no such namespace.
    NoNamespace,
    /// The right to fill a value in is over.
    FillVoid,
    /// Somebody else fills the value in.
    Loading,
    /// The value is no whole number.
    NotANumber,
    /// The sum does not fit into 64 bits.
    OutOfRange,
    /// The key's home holds as much as it may for now.
    CacheFull,
    /// There are as many namespaces as there may be.
    TooManyNamespaces,
    /// This node has as many near caches as it may.
    TooManyNearCaches,
    /// As many watch the cache at this node as may.
    TooManyWatchers,
    /// The near cache is not known here, or no longer.
    NearClosed,
    /// The key's home is dead, moving or cut off.
    HomeUnavailable,
    /// No leader can be reached.
    NoLeader,
    /// The store behind the cluster cannot be used now.
    StoreAway,
    /// Too many requests wait already.
    Overloaded,
    /// Too many requests are remembered already.
    MemoFull,
    /// The node is stopping.
    Draining,
    /// The cluster is not formed yet.
    Forming,
    /// It may have been done.
    OutcomeUnknown,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 49] = [
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::RequestConflict,
        Self::Held,
        Self::WaitTimeout,
        Self::LockLost,
        Self::StaleToken,
        Self::NotHolder,
        Self::NotHeld,
        Self::ModeConflict,
        Self::LimitMismatch,
        Self::LockDelayed,
        Self::Deadlock,
        Self::UpgradeConflict,
        Self::SessionExpired,
        Self::TooManySessions,
        Self::TooManyWaiters,
        Self::Fenced,
        Self::GuardNeedsStrict,
        Self::UnknownToken,
        Self::BadReceipt,
        Self::StaleReceipt,
        Self::QueueFull,
        Self::DedupConflict,
        Self::TooManyQueues,
        Self::StorageFull,
        Self::Miss,
        Self::VersionMismatch,
        Self::NoNamespace,
        Self::FillVoid,
        Self::Loading,
        Self::NotANumber,
        Self::OutOfRange,
        Self::CacheFull,
        Self::TooManyNamespaces,
        Self::TooManyNearCaches,
        Self::TooManyWatchers,
        Self::NearClosed,
        Self::HomeUnavailable,
        Self::NoLeader,
        Self::StoreAway,
        Self::Overloaded,
        Self::MemoFull,
        Self::Draining,
        Self::Forming,
        Self::OutcomeUnknown,
    ];

    /// The code that stands in `error.code`; nothing if it is of a later version.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// As it stands in `error.code`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::RequestConflict => "request_conflict",
            Self::Held => "held",
            Self::WaitTimeout => "wait_timeout",
            Self::LockLost => "lock_lost",
            Self::StaleToken => "stale_token",
            Self::NotHolder => "not_holder",
            Self::NotHeld => "not_held",
            Self::ModeConflict => "mode_conflict",
            Self::LimitMismatch => "limit_mismatch",
            Self::LockDelayed => "lock_delayed",
            Self::Deadlock => "deadlock",
            Self::UpgradeConflict => "upgrade_conflict",
            Self::SessionExpired => "session_expired",
            Self::TooManySessions => "too_many_sessions",
            Self::TooManyWaiters => "too_many_waiters",
            Self::Fenced => "fenced",
            Self::GuardNeedsStrict => "guard_needs_strict",
            Self::UnknownToken => "unknown_token",
            Self::BadReceipt => "bad_receipt",
            Self::StaleReceipt => "stale_receipt",
            Self::QueueFull => "queue_full",
            Self::DedupConflict => "dedup_conflict",
            Self::TooManyQueues => "too_many_queues",
            Self::StorageFull => "storage_full",
            Self::Miss => "miss",
            Self::VersionMismatch => "version_mismatch",
            Self::NoNamespace => "no_namespace",
            Self::FillVoid => "fill_void",
            Self::Loading => "loading",
            Self::NotANumber => "not_a_number",
            Self::OutOfRange => "out_of_range",
            Self::CacheFull => "cache_full",
            Self::TooManyNamespaces => "too_many_namespaces",
            Self::TooManyNearCaches => "too_many_near_caches",
            Self::TooManyWatchers => "too_many_watchers",
            Self::NearClosed => "near_closed",
            Self::HomeUnavailable => "home_unavailable",
            Self::NoLeader => "no_leader",
            Self::StoreAway => "store_away",
            Self::Overloaded => "overloaded",
            Self::MemoFull => "memo_full",
            Self::Draining => "draining",
            Self::Forming => "forming",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}
