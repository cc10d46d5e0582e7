//! What a node keeps on disk: one write-ahead log for all shards, and their snapshots.
//!
//! It stores bytes under shard numbers and knows nothing of what they mean.

pub mod snapshots;
pub mod wal;
