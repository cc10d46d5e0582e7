//! A sorted map from numbers that mostly grow at its end: a full one costs hardly more than its
//! entries, where a B-tree filled in order leaves half of every node empty.
//!
//! It knows nothing of messages. Everything is O(log n), and a move within one chunk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Entries in one chunk: removing from its front moves the others.
const FULL: usize = 128;

/// From numbers to `V`, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunks<V> {
    /// By a number not above the first of each; none is empty.
    chunks: BTreeMap<u64, Vec<(u64, V)>>,
    len: u64,
}

/// A sorted set: eight bytes a number.
pub(super) type Ids = Chunks<()>;

impl<V> Default for Chunks<V> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), len: 0 }
    }
}

impl<V> Chunks<V> {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.chunks.values().next().and_then(|chunk| chunk.first()).map(|(id, _)| *id)
    }

    pub(super) fn get(&self, id: u64) -> Option<&V> {
        let (_, chunk) = self.chunks.range(..=id).next_back()?;
        let at = position(chunk, id).ok()?;
        Some(&chunk[at].1)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut V> {
        let (_, chunk) = self.chunks.range_mut(..=id).next_back()?;
        let at = position(chunk, id).ok()?;
        Some(&mut chunk[at].1)
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    /// From the number after `after` on, in order.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &V)> {
        let start = self.chunks.range(..=after).next_back().map_or(0, |(first, _)| *first);
        self.chunks.range(start..).flat_map(|(_, chunk)| chunk).map(|(id, v)| (*id, v)).skip_while(
            // At most one chunk is skipped through.
            move |(id, _)| *id <= after,
        )
    }

    /// Says whether `id` is new; if not, its value stays as it was.
    pub(super) fn insert(&mut self, id: u64, value: V) -> bool {
        let start = match self.chunks.range(..=id).next_back() {
            Some((start, _)) => *start,
            None => self.lower_first(id),
        };
        let chunk = self.chunks.entry(start).or_default();
        let Err(at) = position(chunk, id) else { return false };
        self.len += 1;
        if chunk.len() < FULL {
            chunk.insert(at, (id, value));
        } else if at == FULL {
            // In order: the full chunk stays full.
            self.chunks.insert(id, vec![(id, value)]);
        } else {
            chunk.insert(at, (id, value));
            let upper = chunk.split_off(FULL / 2);
            self.chunks.insert(upper[0].0, upper);
        }
        true
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<V> {
        let (start, chunk) = self.chunks.range_mut(..=id).next_back()?;
        let at = position(chunk, id).ok()?;
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            let start = *start;
            self.chunks.remove(&start);
        } else if chunk.len() * 4 < chunk.capacity() {
            chunk.shrink_to(chunk.len() * 2);
        }
        Some(value)
    }

    /// Makes the first chunk begin at `id`, which is below it.
    fn lower_first(&mut self, id: u64) -> u64 {
        if let Some((_, chunk)) = self.chunks.pop_first() {
            self.chunks.insert(id, chunk);
        }
        id
    }
}

fn position<V>(chunk: &[(u64, V)], id: u64) -> Result<usize, usize> {
    // Numbers come and go at the ends most of the time.
    match chunk.last() {
        Some((last, _)) if *last < id => Err(chunk.len()),
        _ => chunk.binary_search_by_key(&id, |(id, _)| *id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_b_tree_does(steps in prop::collection::vec((any::<bool>(), 0..600_u64), 0..2_000)) {
            let (mut chunks, mut tree) = (Chunks::default(), BTreeMap::new());
            for (insert, id) in steps {
                if insert {
                    prop_assert_eq!(chunks.insert(id, id), !tree.contains_key(&id));
                    tree.entry(id).or_insert(id);
                } else {
                    prop_assert_eq!(chunks.remove(id), tree.remove(&id));
                }
                prop_assert_eq!(chunks.first(), tree.keys().next().copied());
                prop_assert_eq!(chunks.len(), tree.len() as u64);
                prop_assert_eq!(chunks.get(id), tree.get(&id));
                let after: Vec<u64> = chunks.after(id).map(|(id, _)| id).collect();
                prop_assert_eq!(after, tree.range(id + 1..).map(|(id, _)| *id).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn numbers_in_order_fill_their_chunks() {
        let mut chunks = Ids::default();
        (0..100_000).for_each(|id| assert!(chunks.insert(3 * id, ())));
        assert_eq!(chunks.chunks.len(), 100_000_usize.div_ceil(FULL));
    }
}
