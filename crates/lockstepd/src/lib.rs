//! The Lockstep daemon as a library: everything that moves bytes around the pure core.
//!
//! It is a library only so that tests can run a whole cluster inside one process. It makes no
//! promise of stability: users talk HTTP, or use `lockstep-client`.

mod blocking;
pub mod cache;
pub mod clock;
pub mod config;
pub mod engine;
pub mod forming;
pub mod http;
pub mod identity;
pub mod log;
pub mod membership;
pub mod metrics;
pub mod moving;
pub mod node;
pub mod peer;
pub mod rates;
pub mod replica;
pub mod router;
pub mod space;
pub mod state;
pub mod store;
mod turn;
pub mod waiters;
