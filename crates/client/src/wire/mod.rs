//! The wire contract: JSON shapes and error codes, as servers and clients see them.
//!
//! It holds shapes only: no checks beyond types, no transport.

mod cache;
mod cluster;
mod code;
mod locks;
mod near;
mod queue_admin;
mod queues;
mod sessions;

pub use cache::*;
pub use cluster::*;
pub use code::Code;
pub use locks::*;
pub use near::*;
pub use queue_admin::*;
pub use queues::*;
pub use sessions::*;

use serde::{Deserialize, Serialize};

/// The body of every reply that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub error: Fault,
}

/// One error, of a whole request or of one item in a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// A code of [`Code`].
    pub code: String,
    /// One sentence that says what to do.
    pub message: String,
    /// Whatever else is known: who holds a lock, which version is current.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// The reply to a batch: one result for each item, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results<T> {
    /// Each a reply, or an error.
    pub results: Vec<OneResult<T>>,
}

/// One item's reply, or its error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneResult<T> {
    /// It failed; nothing changed for it.
    Failed(Failure),
    /// It was done.
    Done(T),
}
