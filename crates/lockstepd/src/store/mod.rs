//! What a node keeps on disk: one write-ahead log for all shards, their snapshots, and message bodies.
//!
//! It stores bytes under shard numbers and knows nothing of what they mean.

pub mod bodies;
pub mod snapshots;
pub mod wal;
