//! The Rust client of Lockstep: locks that know when they are lost, queue workers, the cache.
//!
//! ```no_run
//! # async fn example() -> Result<(), lockstep_client::Error> {
//! use lockstep_client::Client;
//!
//! let client = Client::new(["http://127.0.0.1:8001", "http://127.0.0.1:8002"])?;
//! let guard = client.lock("resA").acquire().await?;
//! println!("token {}", guard.token()?);
//! guard.release().await
//! # }
//! ```
//!
//! It also owns the wire contract: clients and servers build their JSON from [`wire`], so they cannot
//! drift apart. Nothing here knows how a server works inside.

mod backoff;
pub mod cache;
mod call;
mod client;
mod clock;
mod error;
pub mod lock;
pub mod near;
mod nodes;
pub mod queue;
mod sse;
mod transport;
pub mod wire;

pub use cache::Cache;
pub use client::{Builder, Client, Reply};
pub use error::Error;
pub use lock::{Hold, LockGuard, Lost};
pub use near::Near;
pub use queue::{Queue, Worker};
pub use wire::Code;
