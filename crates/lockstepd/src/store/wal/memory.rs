//! The log in memory, for simulations. Durable at once, and lost with the last handle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use lockstep_core::names::ShardId;

use super::{Record, Recovered};

/// What a simulated node's disk holds; clone the handle to keep it over a simulated crash.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<ShardId, Recovered>>>);

impl MemoryDisk {
    pub(super) fn append(&self, shard: ShardId, records: Vec<Record>) {
        let mut disk = self.lock();
        let part = disk.entry(shard).or_default();
        records.into_iter().for_each(|record| part.apply(record));
    }

    pub(super) fn recover(&self) -> BTreeMap<ShardId, Recovered> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Recovered>> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}
