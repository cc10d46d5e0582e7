//! Bodies in memory, bounded by bytes. The oldest message's go first.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What one body costs beside its bytes, roughly.
const OVERHEAD: usize = 64;

/// Bodies by message id.
pub(super) struct Cache {
    bodies: BTreeMap<u64, Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bodies: BTreeMap::new(), bytes: 0, bytes_max }
    }

    pub(super) fn get(&self, id: u64) -> Option<Bytes> {
        self.bodies.get(&id).cloned()
    }

    pub(super) fn insert(&mut self, id: u64, body: Bytes) {
        self.bytes += body.len() + OVERHEAD;
        if let Some(before) = self.bodies.insert(id, body) {
            self.bytes -= before.len() + OVERHEAD;
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.bodies.pop_first() else { return };
            self.bytes -= oldest.len() + OVERHEAD;
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(body) = self.bodies.remove(&id) {
            self.bytes -= body.len() + OVERHEAD;
        }
    }

    pub(super) fn clear(&mut self) {
        self.bodies.clear();
        self.bytes = 0;
    }
}
