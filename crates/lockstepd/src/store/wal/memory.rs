//! The log in memory, for simulations. Durable at once, and lost with the last handle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lockstep_core::names::ShardId;

use super::{Record, Recovered};

/// What a simulated node's disk holds; clone the handle to keep it over a simulated crash.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<ShardId, Recovered<Bytes>>>>);

impl MemoryDisk {
    pub(super) fn append(&self, shard: ShardId, records: Vec<Record>) {
        let mut disk = self.lock();
        let part = disk.entry(shard).or_default();
        records.iter().for_each(|record| part.apply(record, Bytes::clone));
    }

    pub(super) fn recover(&self) -> BTreeMap<ShardId, Recovered> {
        self.lock().iter().map(|(shard, part)| (*shard, part.outline())).collect()
    }

    pub(super) fn read(&self, shard: ShardId, (from, to): (u64, u64), bytes_max: usize) -> Vec<(u64, Bytes)> {
        let disk = self.lock();
        let Some(part) = disk.get(&shard).filter(|_| from < to) else { return Vec::new() };
        let mut bytes = 0;
        let some = part.entries.range(from..to).take_while(|(_, entry)| {
            let take = bytes == 0 || bytes < bytes_max;
            bytes += entry.len();
            take
        });
        some.map(|(index, entry)| (*index, entry.clone())).collect()
    }

    /// The first index that is still in the log of `shard`; 0 when none is.
    pub fn first_index(&self, shard: ShardId) -> u64 {
        let disk = self.lock();
        disk.get(&shard).and_then(|part| part.entries.first_key_value()).map_or(0, |(index, _)| *index)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Recovered<Bytes>>> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}
