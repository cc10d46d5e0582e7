//! The lines of one home, and how many bytes they and the directory take, by namespace.
//!
//! It keeps books; what may happen to a line is decided in [`super`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::line::Line;
use crate::cache::{Key, space};

/// Lines that one sweep looks at.
const SWEEP: usize = 512;
/// Lines that one eviction spares because they were read; the next one goes, read or not.
const SPARED_MAX: usize = 16;

/// The books of one namespace.
#[derive(Clone, Debug, Default)]
struct Space {
    bytes: usize,
    /// Of these, bytes that are on their way out.
    evicting: usize,
    /// Idle lines, those first that were longest neither written nor spared.
    idle: BTreeMap<u64, Key>,
    /// How often it was flushed.
    generation: u64,
    /// Keys that may have a note.
    noted: BTreeSet<Key>,
}

/// All lines of a home.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    by_key: BTreeMap<Key, Line>,
    spaces: BTreeMap<Arc<str>, Space>,
    next_age: u64,
    bytes: usize,
    evicting: usize,
    /// Where the sweep for flushed lines goes on.
    sweep: Option<Key>,
}

impl Lines {
    /// The line of `key` as it was left; a flush since may have emptied it: [`Self::is_flushed`].
    pub(super) fn get(&self, key: &str) -> Option<&Line> {
        self.by_key.get(key)
    }

    /// Whether the namespace of `key` was flushed since `line` was last touched.
    pub(super) fn is_flushed(&self, key: &str, line: &Line) -> bool {
        line.generation != self.generation(key)
    }

    fn generation(&self, key: &str) -> u64 {
        self.spaces.get(space::of(key)).map_or(0, |space| space.generation)
    }

    /// The line of `key`, emptied if a flush has come by.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Line> {
        let generation = self.generation(key);
        let line = self.by_key.get_mut(key)?;
        line.refresh(generation);
        Some(line)
    }

    /// The line of `key`, made if need be. Call [`Self::settle`] when done with it.
    pub(super) fn entry(&mut self, key: &Key) -> &mut Line {
        let generation = self.generation(key);
        let line = self.by_key.entry(key.clone()).or_insert_with(|| Line { generation, ..Line::default() });
        line.refresh(generation);
        line
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_key.keys().cloned().collect()
    }

    pub(super) fn into_lines(self) -> impl Iterator<Item = Line> {
        self.by_key.into_values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that stay once everything on its way out is gone: of all, and of one namespace.
    pub(super) fn staying(&self, namespace: Option<&str>) -> usize {
        match namespace {
            None => self.bytes.saturating_sub(self.evicting),
            Some(name) => self.spaces.get(name).map_or(0, |space| space.bytes.saturating_sub(space.evicting)),
        }
    }

    /// So many bytes of `key` are on their way out, or no longer.
    pub(super) fn evicting(&mut self, key: &str, cost: usize, begins: bool) {
        let space = self.spaces.entry(space::of(key).into()).or_default();
        for evicting in [&mut self.evicting, &mut space.evicting] {
            *evicting = if begins { *evicting + cost } else { evicting.saturating_sub(cost) };
        }
    }

    /// Empties every line of a namespace at once.
    pub(super) fn flush(&mut self, namespace: &str) {
        self.spaces.entry(namespace.into()).or_default().generation += 1;
        self.sweep = self.by_key.keys().next().cloned();
    }

    /// Drops some of the lines that a flush has emptied.
    pub(super) fn sweep(&mut self) {
        let Some(from) = self.sweep.take() else { return };
        let keys: Vec<Key> = self.by_key.range(from..).take(SWEEP + 1).map(|(key, _)| key.clone()).collect();
        self.sweep = keys.get(SWEEP).cloned();
        for key in keys.iter().take(SWEEP) {
            if self.by_key.get(key).is_some_and(|line| self.is_flushed(key, line)) {
                self.get_mut(key);
                self.settle(key, false);
            }
        }
    }

    /// Whether the sweep has more to look at.
    pub(super) fn is_swept(&self) -> bool {
        self.sweep.is_none()
    }

    /// Books what became of a line: counts its bytes, drops it if it says nothing, and lists it as
    /// idle, `fresh` ones last, if nothing happens to it.
    pub(super) fn settle(&mut self, key: &Key, fresh: bool) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        if line.says_nothing() {
            self.remove(key);
            return;
        }
        let space = match self.spaces.get_mut(space::of(key)) {
            Some(space) => space,
            None => self.spaces.entry(space::of(key).into()).or_default(),
        };
        let cost = line.measure(key);
        self.bytes = self.bytes + cost - line.cost;
        space.bytes = space.bytes + cost - line.cost;
        line.cost = cost;
        if !line.is_idle() {
            space.idle.remove(&line.age);
        } else if fresh || !space.idle.contains_key(&line.age) {
            space.idle.remove(&line.age);
            self.next_age += 1;
            line.age = self.next_age;
            space.idle.insert(line.age, key.clone());
        }
    }

    /// Attaches a note to a value.
    pub(super) fn note(&mut self, key: &Key, note: Bytes) {
        if let Some(line) = self.get_mut(key) {
            line.note = Some(note);
            self.settle(key, false);
            if let Some(space) = self.spaces.get_mut(space::of(key)) {
                space.noted.insert(key.clone());
            }
        }
    }

    /// Drops a note, of one namespace or of any, before a value has to go; whether there may have been one.
    pub(super) fn drop_note(&mut self, namespace: Option<&str>) -> bool {
        let noted = match namespace {
            Some(name) => self.spaces.get_mut(name).map(|space| &mut space.noted),
            None => self.spaces.values_mut().map(|space| &mut space.noted).find(|noted| !noted.is_empty()),
        };
        let Some(key) = noted.and_then(BTreeSet::pop_first) else { return false };
        if let Some(line) = self.by_key.get_mut(&key) {
            line.note = None;
            self.settle(&key, false);
        }
        true
    }

    /// Drops a line and all that is known of it.
    pub(super) fn remove(&mut self, key: &str) -> Option<Line> {
        let line = self.by_key.remove(key)?;
        self.bytes -= line.cost;
        if let Some(space) = self.spaces.get_mut(space::of(key)) {
            space.noted.remove(key);
            space.idle.remove(&line.age);
            space.bytes -= line.cost;
        }
        Some(line)
    }

    /// The idle line that goes next, of all or of one namespace: the one that was not written for the
    /// longest time, except that those that were read since they were last considered get another turn,
    /// and so does `new`, for which room is made.
    pub(super) fn victim(&mut self, namespace: Option<&str>, new: &str) -> Option<Key> {
        for _ in 0..SPARED_MAX {
            let oldest = self.oldest(namespace)?;
            let was_read = self.by_key.get_mut(&oldest).is_some_and(|line| line.touched.take());
            if !was_read && &*oldest != new {
                return Some(oldest);
            }
            self.settle(&oldest, true);
        }
        self.oldest(namespace)
    }

    fn oldest(&self, namespace: Option<&str>) -> Option<Key> {
        let first = |space: &Space| space.idle.first_key_value().map(|(age, key)| (*age, key.clone()));
        let oldest = match namespace {
            Some(name) => first(self.spaces.get(name)?),
            None => self.spaces.values().filter_map(first).min(),
        };
        oldest.map(|(_, key)| key)
    }
}
