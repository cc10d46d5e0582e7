//! Models that are slow, short and obviously right.

mod locks;
mod queue;

pub use locks::Locks;
pub use queue::{MAX_ATTEMPTS, Queue};
