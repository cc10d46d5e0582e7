//! Consistent hashing: which shard a key belongs to, and which node a shard or a cache line.
