//! Clusters of real processes for tests: start, kill, pause, cut off, restart, and wait for what
//! should then be true.
//!
//! Everything here is as real as a test can have it: the released binary, real directories, real
//! sockets; only the links between nodes pass through this process, so that they can be cut. It
//! asserts nothing about Lockstep itself.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the kit")]

mod cluster;
pub mod counter;
mod events;
mod http;
pub mod linear;
mod links;
pub mod lock_model;
mod node;
mod ports;
#[path = "../../src/log/redis/testing.rs"]
mod redis;
pub mod register;
mod wait;

pub use cluster::{Cluster, Settings};
pub use events::{Event, Events};
pub use http::{Answer, Http, HttpError, parse as parse_answer};
pub use links::Links;
pub use node::{Node, run_to_end, serve_command};
pub use ports::{free_base_port, free_port};
pub use redis::RedisServer;
pub use wait::{eventually, within};
