//! What a near cache keeps, and the reads that are under way.
//!
//! A read that misses leaves a placeholder; its answer is kept only if the placeholder is still there,
//! because an order to forget that came first has removed it. It knows no nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Kept;
use super::lease::{Stretch, nanos};
use crate::clock;

/// What a copy costs beside its key and value.
const COPY_BYTES: u64 = 200;
/// What a value is expected to take; it only decides how large the map is at first.
const EXPECTED_BYTES: u64 = 1_024;

/// A copy, or a known absence.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) kept: Option<Arc<Kept<T>>>,
    pub(super) stretch: Arc<Stretch>,
    pub(super) expires: Option<Duration>,
    pub(super) bytes: usize,
}

/// Names a read that is under way.
pub(super) type Flight = u64;

type Copies<T> = Cache<Arc<str>, Arc<Slot<T>>, Weigh>;

/// All copies, within a bound on their bytes.
pub(super) struct Table<T> {
    copies: Copies<T>,
    /// The read whose answer may be kept, for each key. Whoever adds a copy, or removes one because it
    /// was told to, holds this.
    placeholders: Mutex<(Flight, HashMap<Arc<str>, Flight>)>,
}

#[derive(Clone)]
struct Weigh;

impl<T> Weighter<Arc<str>, Arc<Slot<T>>> for Weigh {
    fn weight(&self, key: &Arc<str>, slot: &Arc<Slot<T>>) -> u64 {
        (key.len() + slot.bytes) as u64 + COPY_BYTES
    }
}

impl<T> Table<T> {
    pub(super) fn new(bytes_max: u64) -> Self {
        let items = usize::try_from(bytes_max / EXPECTED_BYTES).unwrap_or(usize::MAX).max(16);
        Self { copies: Cache::with_weighter(items, bytes_max, Weigh), placeholders: Mutex::default() }
    }

    /// The copy, if it may be read now: first it is looked for, then the lease is looked at.
    pub(super) fn peek(&self, key: &str) -> Option<Option<Arc<Kept<T>>>> {
        let slot = self.copies.get(key)?;
        let now = clock::now();
        let is_live = slot.stretch.lasts(nanos(now)) && slot.expires.is_none_or(|end| now < end);
        is_live.then(|| slot.kept.clone())
    }

    /// A read begins.
    pub(super) fn take_off(&self, key: &str) -> Flight {
        let mut placeholders = self.placeholders();
        placeholders.0 += 1;
        let flight = placeholders.0;
        placeholders.1.insert(key.into(), flight);
        flight
    }

    /// A read ended without an answer.
    pub(super) fn call_off(&self, key: &str, flight: Flight) {
        self.land(key, flight, None);
    }

    /// A read has its answer; whether it is kept.
    pub(super) fn land(&self, key: &str, flight: Flight, slot: Option<Slot<T>>) -> bool {
        let mut placeholders = self.placeholders();
        if placeholders.1.get(key) != Some(&flight) {
            return false;
        }
        let key = placeholders.1.remove_entry(key).map(|(key, _)| key);
        match (key, slot) {
            (Some(key), Some(slot)) => {
                self.copies.insert(key, Arc::new(slot));
                true
            }
            _ => false,
        }
    }

    /// When this returns, nobody can begin to read what was here, nor keep what is on its way.
    pub(super) fn forget(&self, key: &str) {
        let mut placeholders = self.placeholders();
        placeholders.1.remove(key);
        self.copies.remove(key);
    }

    /// [`Self::forget`] of everything.
    pub(super) fn forget_all(&self) {
        let mut placeholders = self.placeholders();
        placeholders.1.clear();
        self.copies.clear();
    }

    pub(super) fn len(&self) -> u64 {
        self.copies.len() as u64
    }

    fn placeholders(&self) -> MutexGuard<'_, (Flight, HashMap<Arc<str>, Flight>)> {
        self.placeholders.lock().expect("nothing panics while it holds this")
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::Leases;
    use super::*;
    use crate::wire::NearLease;

    fn slot(value: &str, ms: u64) -> Option<Slot<String>> {
        let lease = NearLease { of: "1.1".into(), ms };
        let stretch = Leases::default().extend(&lease, clock::now());
        let kept = Kept { value: value.to_owned(), version: "1.1".into() };
        Some(Slot { kept: Some(Arc::new(kept)), stretch, expires: None, bytes: value.len() })
    }

    fn seen(table: &Table<String>) -> Option<String> {
        table.peek("k").map(|found| found.map_or("absent".into(), |kept| kept.value.clone()))
    }

    #[test]
    fn a_late_fill_after_an_order_to_forget_is_not_kept() {
        let table = Table::new(1 << 20);
        let before = table.take_off("k");
        table.forget("k");
        let after = table.take_off("k");
        assert!(!table.land("k", before, slot("old", 60_000)));
        assert_eq!(seen(&table), None);
        assert!(table.land("k", after, slot("new", 60_000)));
        assert_eq!(seen(&table).as_deref(), Some("new"));
        table.forget_all();
        assert_eq!(seen(&table), None);
    }

    #[test]
    fn a_copy_is_read_only_while_its_stretch_lasts_and_its_time_to_live() {
        let table = Table::new(1 << 20);
        assert!(table.land("k", table.take_off("k"), slot("a", 0)));
        assert_eq!(seen(&table), None, "the lease is over");
        let expired = slot("a", 60_000).map(|slot| Slot { expires: Some(Duration::ZERO), ..slot });
        assert!(table.land("k", table.take_off("k"), expired));
        assert_eq!(seen(&table), None, "its time is over");
        let absent = slot("", 60_000).map(|slot| Slot { kept: None, ..slot });
        assert!(table.land("k", table.take_off("k"), absent));
        assert_eq!(seen(&table).as_deref(), Some("absent"));
    }

    #[test]
    fn copies_stay_within_their_bytes() {
        let table = Table::new(20_000);
        for n in 0..1_000 {
            let key = format!("k{n}");
            table.land(&key, table.take_off(&key), slot("value", 60_000));
        }
        assert!((10..100).contains(&table.len()), "{}", table.len());
    }
}
