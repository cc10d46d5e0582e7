//! Which bodies a segment file holds, where, and which of them are still needed.
//!
//! Eight bytes a message: five million waiting messages must fit into memory. Ids only grow along a
//! file, so a sorted list is all that is needed.

use serde::{Deserialize, Serialize};

use super::record::HEAD;

/// Marks an entry whose body nobody needs any more.
const DEAD: u32 = 1 << 31;
/// A segment never grows beyond this, so that offsets fit beside the mark.
pub(super) const BYTES_MAX: u32 = 1 << 30;

/// The bodies of one segment file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    base: u64,
    entries: Vec<Entry>,
    end: u32,
    live: u32,
    live_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u32,
    offset: u32,
}

/// An index as it is written down: distances between ids, and lengths.
#[derive(Serialize, Deserialize)]
pub(super) struct Written {
    base: u64,
    entries: Vec<(u32, u32)>,
}

impl Written {
    /// Bytes of the file that the index speaks of.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|(_, bytes)| u64::from(*bytes)).sum()
    }
}

/// Where a body is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) offset: u32,
    /// Its record's, head included.
    pub(super) bytes: u32,
}

impl Index {
    /// Whether a body of `length` bytes under `id` can be appended.
    pub(super) fn takes(&self, id: u64, length: usize) -> bool {
        let room = u64::from(BYTES_MAX - self.end);
        let near = self.entries.is_empty() || id.saturating_sub(self.base) <= u64::from(u32::MAX);
        near && (length + HEAD) as u64 <= room
    }

    /// Notes a body behind all others. `id` must be larger than theirs.
    pub(super) fn push(&mut self, id: u64, length: usize) {
        if self.entries.is_empty() {
            self.base = id;
        }
        let bytes = u32::try_from(length + HEAD).expect("asked before: it fits");
        let id = u32::try_from(id - self.base).expect("asked before: it is near");
        self.entries.push(Entry { id, offset: self.end });
        self.end += bytes;
        self.live += 1;
        self.live_bytes += u64::from(bytes);
    }

    /// Where the body of `id` is, if it is here and still needed.
    pub(super) fn find(&self, id: u64) -> Option<Spot> {
        let at = self.position(id)?;
        (self.entries[at].offset & DEAD == 0).then(|| self.spot(at))
    }

    /// Nobody needs the body of `id` any more. Says whether it was here and needed until now.
    pub(super) fn kill(&mut self, id: u64) -> bool {
        let Some(at) = self.position(id).filter(|at| self.entries[*at].offset & DEAD == 0) else {
            return false;
        };
        self.live -= 1;
        self.live_bytes -= u64::from(self.spot(at).bytes);
        self.entries[at].offset |= DEAD;
        true
    }

    /// The smallest id that was ever here.
    pub(super) fn first(&self) -> u64 {
        self.base
    }

    /// The largest id that was ever here.
    pub(super) fn last(&self) -> u64 {
        self.base + self.entries.last().map_or(0, |entry| u64::from(entry.id))
    }

    /// Bytes of the file that the index speaks of.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// How many bodies are still needed.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Bytes of their records.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Those that are still needed, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Spot)> {
        let live = |at: &usize| self.entries[*at].offset & DEAD == 0;
        let entry = |at: usize| (self.base + u64::from(self.entries[at].id), self.spot(at));
        (0..self.entries.len()).filter(live).map(entry)
    }

    /// As it is written down. Bodies that nobody needs keep their place, not their mark: who needs
    /// what follows from the state.
    pub(super) fn written(&self) -> Written {
        let mut before = 0;
        let entries = self.entries.iter().enumerate().map(|(at, entry)| {
            let distance = entry.id - before;
            before = entry.id;
            (distance, self.spot(at).bytes)
        });
        Written { base: self.base, entries: entries.collect() }
    }

    /// What [`Self::written`] wrote; `None` where it makes no sense. `needed` says which bodies are.
    pub(super) fn read(written: &Written, needed: impl Fn(u64) -> bool) -> Option<Self> {
        let mut index = Self { base: written.base, ..Self::default() };
        index.entries.reserve_exact(written.entries.len());
        let mut id: u32 = 0;
        for (distance, bytes) in &written.entries {
            id = id.checked_add(*distance)?;
            let length = usize::try_from(*bytes).ok()?.checked_sub(HEAD)?;
            if !index.takes(written.base + u64::from(id), length) {
                return None;
            }
            let dead = if needed(written.base + u64::from(id)) { 0 } else { DEAD };
            index.entries.push(Entry { id, offset: index.end | dead });
            index.end += bytes;
            if dead == 0 {
                index.live += 1;
                index.live_bytes += u64::from(*bytes);
            }
        }
        Some(index)
    }

    fn position(&self, id: u64) -> Option<usize> {
        let id = u32::try_from(id.checked_sub(self.base)?).ok()?;
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    fn spot(&self, at: usize) -> Spot {
        let offset = self.entries[at].offset & !DEAD;
        let next = self.entries.get(at + 1).map_or(self.end, |next| next.offset & !DEAD);
        Spot { offset, bytes: next - offset }
    }
}
