//! This process's requests to one shard: numbers them, and knows which are settled.
//!
//! The shard forgets an answer as soon as every earlier request is settled, so its memory of this
//! node is as small as what is in flight.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use lockstep_core::command::RequestKey;
use lockstep_core::names::Origin;

/// Numbers the requests of one origin to one shard.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    last: u64,
    in_flight: BTreeSet<u64>,
}

/// A request in flight; dropping it settles the request.
pub struct Entry {
    ledger: Ledger,
    seq: u64,
}

impl Ledger {
    /// Opens a request.
    pub fn open(&self) -> Entry {
        let mut open = self.lock();
        open.last += 1;
        let seq = open.last;
        open.in_flight.insert(seq);
        drop(open);
        Entry { ledger: self.clone(), seq }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}

impl Entry {
    /// The key under which the shard remembers this request.
    pub fn key(&self, origin: Origin) -> RequestKey {
        let open = self.ledger.lock();
        let settled_below = open.in_flight.first().copied().unwrap_or(self.seq);
        RequestKey::Node { origin, seq: self.seq, settled_below }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.lock().in_flight.remove(&self.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled_below(entry: &Entry) -> u64 {
        match entry.key(Origin::default()) {
            RequestKey::Node { settled_below, .. } => settled_below,
            RequestKey::Named { .. } => unreachable!("a ledger makes no names"),
        }
    }

    #[test]
    fn the_oldest_request_in_flight_holds_the_mark_back() {
        let ledger = Ledger::default();
        let first = ledger.open();
        let second = ledger.open();
        assert_eq!(settled_below(&second), 1);
        drop(first);
        assert_eq!(settled_below(&second), 2);
    }
}
