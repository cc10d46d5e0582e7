//! Why a request has no reply, as callers need to know it: refused, certainly not done, maybe done.

use crate::lock::Lost;
use crate::wire::{Code, Fault};

/// What went wrong with a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The cluster said no; nothing was changed. [`Error::code`] says why.
    #[error("{} ({})", fault.message, fault.code)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Code, sentence and details, as the node sent them.
        fault: Box<Fault>,
    },
    /// No node could be asked before the time was over; certainly nothing was done.
    #[error("no node could be reached, and nothing was done: {why}")]
    Unreachable {
        /// What happened at the last try.
        why: String,
    },
    /// A node took the request, and no answer came before the time was over: it may have been done,
    /// or may still be.
    #[error("it may have been done: {why}")]
    OutcomeUnknown {
        /// What happened at the last try.
        why: String,
    },
    /// The lock is not held any more.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The request makes no sense as written; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The answer is not what this version of the client understands.
    #[error("the answer cannot be understood: {0}")]
    Unexpected(String),
}

impl Error {
    /// The code of a refusal; nothing for other errors, and for codes of later versions.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { fault, .. } => Code::parse(&fault.code),
            _ => None,
        }
    }

    /// Whether the cluster refused for this reason.
    pub fn is(&self, code: Code) -> bool {
        self.code() == Some(code)
    }

    pub(crate) fn refused(status: u16, fault: Fault) -> Self {
        Self::Refused { status, fault: Box::new(fault) }
    }
}
