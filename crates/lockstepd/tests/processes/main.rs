//! What a cluster of real processes must survive: crashes, cut links, pauses, mistakes.
//!
//! Each test starts its own cluster. They check what clients were told against what clients then
//! see; what happens inside a node is the business of the tests below this level.

#[path = "../kit/mod.rs"]
mod kit;

mod bad_input;
mod bodies;
mod cache;
mod cache_history;
mod cache_leave;
mod cache_watch;
mod client;
mod clocks;
mod consumer_sessions;
mod consumers;
mod crashes;
mod hang_ups;
mod leases;
mod load;
mod lock_clients;
mod lock_events;
mod lock_history;
mod lock_run;
mod lock_watch;
mod locks;
mod moving;
mod near;
mod on_redis;
mod partitions;
mod pauses;
mod queue_cli;
mod queues;
mod receive_and_ack;
mod refusals;
mod retries;
mod seven_lines;
mod the_kit;
mod waiting;
