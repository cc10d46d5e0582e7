//! Message bodies outside memory: append-only segment files beside the log, one set for each shard.
//!
//! The log is what makes a body durable: these files are synced only before the log behind them is
//! purged, and a restart replays what they lack. It never decides whether a body is needed: that
//! follows from the state on every replica. No file that a snapshot on disk names is removed before
//! another snapshot is durable, so a snapshot and the log behind it are always whole.

mod adopt;
mod arrive;
mod cache;
mod compact;
mod disk;
mod image;
mod index;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lockstep_core::names::MessageId;

pub use arrive::Arriving;
pub use compact::Swap;
pub use disk::{Disk, ELSEWHERE, Elsewhere, MemoryFiles};
pub use image::{Image, Manifest};

use cache::Cache;
use disk::File;
use index::Index;

/// Bodies are written out once so many bytes wait.
const WRITE_BYTES: usize = 256 * 1024;
/// Consumers take messages in order: what lies behind a body that is read from disk is read with it.
const READ_BYTES: u32 = 256 * 1024;
/// Memory for what was read ahead, for each shard.
const AHEAD_BYTES: usize = 1024 * 1024;

/// How bodies use disk and memory.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A segment file is closed once it has this size.
    pub segment_bytes: u64,
    /// Memory for the bodies that were pushed last, for each shard.
    pub cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, cache_bytes: 16 * 1024 * 1024 }
    }
}

/// Where one shard's bodies are kept, and how. Clones share its numbering.
#[derive(Clone)]
pub struct Directory {
    disk: Disk,
    settings: Settings,
    next: Arc<AtomicU64>,
}

impl Directory {
    /// Numbers go on behind the files that are there.
    pub fn open(disk: Disk, settings: Settings) -> io::Result<Self> {
        let next = disk.list()?.last().map_or(1, |last| last + 1);
        Ok(Self { disk, settings, next: Arc::new(AtomicU64::new(next)) })
    }

    /// Whether it has no threads to be spared.
    pub fn is_memory(&self) -> bool {
        self.disk.is_memory()
    }

    fn create(&self) -> io::Result<Segment> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Segment { number, file: self.disk.create(number)?, index: Arc::default() })
    }
}

/// One segment file and what is in it. Clones share both; a change of the index copies it first.
#[derive(Clone)]
struct Segment {
    number: u64,
    file: Arc<File>,
    index: Arc<Index>,
}

/// The bodies of one shard.
pub struct Bodies {
    directory: Directory,
    /// In the order of their ids. The last one may take more.
    segments: Vec<Segment>,
    open: bool,
    /// The end of the last segment, which is not in its file yet.
    buffer: Vec<u8>,
    /// The largest id that was ever put.
    last: u64,
    recent: Cache,
    ahead: Cache,
    /// Files that nobody needs but the snapshot on disk, with their bytes.
    condemned: Vec<(u64, u64)>,
}

/// Where a body was found.
pub enum Found {
    /// In memory.
    Here(Bytes),
    /// In a file: [`Place::read`] may wait for the disk.
    There(Place),
    /// Nowhere: nobody needed it any more, or it never was.
    Gone,
}

/// A body in a file. The file stays readable for as long as this lives.
pub struct Place {
    file: Arc<File>,
    id: u64,
    offset: u32,
    bytes: u32,
    ahead: u32,
}

/// A body that is not what was written. It is never served.
#[derive(Debug, thiserror::Error)]
#[error("the body of message {id} in {path} at offset {offset} is damaged: {why}")]
pub struct Damaged {
    /// Which.
    pub id: u64,
    /// Where.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// A checksum, or what the system said.
    pub why: String,
}

impl Place {
    /// The body, and those behind it that came with it. Errors: what is there is not what was written.
    pub fn read(&self) -> Result<Vec<(u64, Bytes)>, Damaged> {
        let damaged = |why: String| Damaged {
            id: self.id,
            path: self.file.path().to_owned(),
            offset: u64::from(self.offset),
            why,
        };
        let bytes = self.file.read(u64::from(self.offset), (self.bytes + self.ahead) as usize);
        let bytes = bytes.map_err(|error| damaged(error.to_string()))?;
        let records = record::read_all(&bytes.into());
        match records.first() {
            Some((id, _)) if *id == self.id => Ok(records),
            _ => Err(damaged("its checksum is wrong".into())),
        }
    }
}

impl Bodies {
    /// None yet. What the directory holds is left alone: a snapshot may name it.
    pub fn empty(directory: Directory) -> Self {
        let recent = Cache::new(directory.settings.cache_bytes);
        Self {
            directory,
            segments: Vec::new(),
            open: false,
            buffer: Vec::new(),
            last: 0,
            recent,
            ahead: Cache::new(AHEAD_BYTES),
            condemned: Vec::new(),
        }
    }

    /// Where they are kept.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Keeps a body. Ids come from a counter that only grows: a smaller one was put before.
    pub fn put(&mut self, id: MessageId, body: Bytes) {
        let id = id.0;
        if id <= self.last {
            return;
        }
        self.last = id;
        if !self.open || !self.tail().is_some_and(|tail| tail.index.takes(id, body.len())) {
            self.begin_segment();
        }
        record::write(&mut self.buffer, id, &body);
        if let Some(tail) = self.segments.last_mut() {
            Arc::make_mut(&mut tail.index).push(id, body.len());
        }
        self.recent.insert(id, body);
        let full = self.tail().is_some_and(|tail| self.is_full(tail));
        if full || self.buffer.len() >= WRITE_BYTES {
            self.flush();
        }
        self.open = !full;
    }

    /// Where the body of `id` is.
    pub fn find(&self, id: MessageId) -> Found {
        let id = id.0;
        if let Some(body) = self.recent.get(id).or_else(|| self.ahead.get(id)) {
            return Found::Here(body);
        }
        let Some(at) = self.segment_of(id) else { return Found::Gone };
        let segment = &self.segments[at];
        let Some(spot) = segment.index.find(id) else { return Found::Gone };
        let written = self.written(at);
        match spot.offset.checked_sub(written) {
            Some(start) => {
                let body = start as usize + record::HEAD..(start + spot.bytes) as usize;
                Found::Here(Bytes::copy_from_slice(&self.buffer[body]))
            }
            None if self.directory.disk.is_elsewhere() && segment.file.is_in_memory() => {
                let place = Place {
                    file: Arc::clone(&segment.file),
                    id,
                    offset: spot.offset,
                    bytes: spot.bytes,
                    ahead: 0,
                };
                let body = place.read().ok().and_then(|mut read| read.pop());
                body.map_or(Found::Gone, |(_, body)| Found::Here(body))
            }
            None => {
                let behind = written - (spot.offset + spot.bytes);
                let ahead = READ_BYTES.saturating_sub(spot.bytes).min(behind);
                let file = Arc::clone(&segment.file);
                Found::There(Place { file, id, offset: spot.offset, bytes: spot.bytes, ahead })
            }
        }
    }

    /// Bodies that were read together: those behind the first are probably wanted next.
    pub fn remember(&mut self, read: Vec<(u64, Bytes)>) {
        self.ahead.clear();
        for (id, body) in read.into_iter().rev() {
            let needed = self.segment_of(id).is_some_and(|at| self.segments[at].index.find(id).is_some());
            if needed {
                self.ahead.insert(id, body);
            }
        }
    }

    /// Nobody needs the body of `id` any more.
    pub fn remove(&mut self, id: MessageId) {
        let id = id.0;
        self.recent.remove(id);
        self.ahead.remove(id);
        let Some(at) = self.segment_of(id) else { return };
        let taking = self.open && at + 1 == self.segments.len();
        let segment = &mut self.segments[at];
        if segment.index.find(id).is_none() {
            return;
        }
        Arc::make_mut(&mut segment.index).kill(id);
        if segment.index.live() == 0 && !taking {
            self.condemn(at);
        }
    }

    /// Writes a body again that was found damaged, as another member has it. Errors: it is not the
    /// one that was here, or the disk says no.
    pub fn mend(&self, id: MessageId, body: &[u8]) -> io::Result<()> {
        let Some(at) = self.segment_of(id.0) else { return Ok(()) };
        if self.directory.disk.is_elsewhere() {
            return Ok(());
        }
        let Some(spot) = self.segments[at].index.find(id.0) else { return Ok(()) };
        let mut bytes = Vec::new();
        record::write(&mut bytes, id.0, body);
        if bytes.len() != spot.bytes as usize || spot.offset >= self.written(at) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another length"));
        }
        self.segments[at].file.write(u64::from(spot.offset), &bytes)
    }

    /// Bytes on disk that a snapshot would give back.
    pub fn garbage(&self) -> u64 {
        let condemned: u64 = self.condemned.iter().map(|(_, bytes)| bytes).sum();
        let sealed = self.segments.len().saturating_sub(1);
        let sparse = self.segments[..sealed].iter().filter(|segment| compact::is_mostly_dead(segment));
        let dead = |segment: &Segment| u64::from(segment.index.end()) - segment.index.live_bytes();
        let drained = self.tail().filter(|tail| tail.index.live() == 0).map_or(0, dead);
        condemned + sparse.map(dead).sum::<u64>() + drained
    }

    /// Bytes of all files.
    pub fn disk_bytes(&self) -> u64 {
        let condemned: u64 = self.condemned.iter().map(|(_, bytes)| bytes).sum();
        condemned + self.segments.iter().map(|segment| u64::from(segment.index.end())).sum::<u64>()
    }

    /// Everything as it is now, for a snapshot. Cheap: nothing is copied until it changes.
    pub fn freeze(&mut self) -> Image {
        self.flush();
        if self.tail().is_some_and(|tail| tail.index.live() == 0) {
            self.open = false;
            self.condemn(self.segments.len() - 1);
        }
        // What goes elsewhere never changes again.
        self.open &= !self.directory.disk.is_elsewhere();
        Image { directory: self.directory.clone(), segments: self.segments.clone(), last: self.last }
    }

    /// A snapshot of `image` is durable: what only an older one named goes.
    pub fn settle(&mut self, image: &Image, swaps: Vec<Swap>) {
        swaps.into_iter().for_each(|swap| self.swap(swap));
        let named = |number: u64| image.segments.iter().any(|segment| segment.number == number);
        let condemned = std::mem::take(&mut self.condemned);
        let (kept, gone): (Vec<_>, Vec<_>) = condemned.into_iter().partition(|(number, _)| named(*number));
        self.condemned = kept;
        gone.into_iter().for_each(|(number, _)| self.directory.disk.remove(number));
    }

    /// Gives every file back but those that `image` names: another state has taken this one's place.
    pub fn discard(self, image: &Image) {
        let numbers = self.segments.iter().map(|segment| segment.number);
        let all = numbers.chain(self.condemned.iter().map(|(number, _)| *number));
        for number in all.filter(|number| image.segments.iter().all(|segment| segment.number != *number)) {
            self.directory.disk.remove(number);
        }
    }

    fn tail(&self) -> Option<&Segment> {
        self.segments.last()
    }

    fn is_full(&self, segment: &Segment) -> bool {
        u64::from(segment.index.end()) >= self.directory.settings.segment_bytes
    }

    fn segment_of(&self, id: u64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.index.first() <= id).checked_sub(1)
    }

    /// How much of a segment is in its file.
    fn written(&self, at: usize) -> u32 {
        let waiting = if at + 1 == self.segments.len() { self.buffer.len() } else { 0 };
        self.segments[at].index.end() - u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    fn begin_segment(&mut self) {
        self.flush();
        if self.tail().is_some_and(|tail| tail.index.live() == 0) {
            self.condemn(self.segments.len() - 1);
        }
        match self.directory.create() {
            Ok(segment) => self.segments.push(segment),
            Err(error) => stop(&self.directory, &error),
        }
        self.open = true;
    }

    fn flush(&mut self) {
        let waiting = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        let Some(tail) = self.segments.last().filter(|_| waiting > 0) else { return };
        if let Err(error) = tail.file.write(u64::from(tail.index.end() - waiting), &self.buffer) {
            stop(&self.directory, &error);
        }
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
    }

    /// Its file goes with the next snapshot: the one on disk may name it.
    fn condemn(&mut self, at: usize) {
        let segment = self.segments.remove(at);
        // What nobody else can know of is gone at once.
        if !(self.directory.disk.is_elsewhere() && segment.number < ELSEWHERE) {
            self.condemned.push((segment.number, u64::from(segment.index.end())));
        }
        if at == self.segments.len() {
            self.buffer.clear();
        }
    }
}

/// A disk that fails leaves nothing to be sure of; the other members go on.
fn stop(directory: &Directory, error: &io::Error) -> ! {
    let place = match &directory.disk {
        Disk::Files(path) => path.display().to_string(),
        Disk::Memory(_) | Disk::Elsewhere(_) => "memory".into(),
    };
    tracing::error!(place, %error, "message bodies cannot be written");
    eprintln!(
        "lockstep: cannot write message bodies in {place}: {error}. This node stops; mend the disk and start it again"
    );
    std::process::abort()
}
