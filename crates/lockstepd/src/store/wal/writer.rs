//! The thread that writes: takes everything that waits, one write, one `fdatasync`, all callbacks.
//!
//! A disk that fails leaves nothing to be sure of, so the process stops; the other members go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use lockstep_core::names::ShardId;

use super::read::{Index, Location};
use super::recover::{Log, Segment};
use super::segment::{self, Batch};
use super::{Done, Error, Record, Recovered, Settings};

/// Bytes of records in one batch, roughly; what waits beyond goes into the next.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Writer {
    directory: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    syncs: AtomicU64,
    index: Index,
    pinned_by: Mutex<Option<ShardId>>,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<(ShardId, Vec<Record>, Done)>,
    stop: bool,
}

impl Writer {
    pub(super) fn start(directory: &Path, settings: Settings, log: Log) -> Result<Self, Error> {
        let shared = Arc::new(Shared { index: Index::new(&log.shards), ..Shared::default() });
        let mut disk = Disk::open(directory, settings, log)?;
        let thread = std::thread::Builder::new().name("wal".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while let Some(jobs) = shared.take() {
                    disk.write(jobs, &shared);
                }
            }
        });
        let thread = thread.map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        Ok(Self { directory: directory.to_owned(), shared, thread: Some(thread) })
    }

    pub(super) fn read(
        &self,
        shard: ShardId,
        range: (u64, u64),
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, Error> {
        self.shared.index.read(&self.directory, shard, range, bytes_max)
    }

    pub(super) fn append(&self, shard: ShardId, records: Vec<Record>, done: Done) {
        lock(&self.shared.queue).jobs.push((shard, records, done));
        self.shared.more.notify_one();
    }

    pub(super) fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn pinned_by(&self) -> Option<ShardId> {
        *lock(&self.shared.pinned_by)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.more.notify_one();
        // The last handle may go inside a callback, on this very thread.
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Everything that waits; `None` once there is nothing more to come.
    fn take(&self) -> Option<Vec<(ShardId, Vec<Record>, Done)>> {
        let queue = lock(&self.queue);
        let waiting = |queue: &mut Queue| queue.jobs.is_empty() && !queue.stop;
        let mut queue = self.more.wait_while(queue, waiting).expect("nothing panics while it holds this");
        (!queue.jobs.is_empty()).then(|| std::mem::take(&mut queue.jobs))
    }
}

/// The files, and what must be known to delete old ones. Used by the writing thread alone.
struct Disk {
    directory: PathBuf,
    settings: Settings,
    file: File,
    segments: Vec<Segment>,
    next_sequence: u64,
    /// Each shard's vote and purge mark, without its entries.
    marks: BTreeMap<ShardId, Recovered>,
    /// The next segment, made beside the writing.
    spare: Option<JoinHandle<std::io::Result<File>>>,
    buffer: Vec<u8>,
}

impl Disk {
    fn open(directory: &Path, settings: Settings, log: Log) -> Result<Self, Error> {
        let io = |source| Error::Io { path: directory.to_owned(), source };
        let marks = log
            .shards
            .into_iter()
            .map(|(shard, part)| (shard, Recovered { entries: BTreeMap::new(), ..part.outline() }));
        let mut segments = log.segments;
        let file = match segments.last() {
            Some(last) => {
                File::options().write(true).open(segment::path(directory, last.number)).map_err(io)?
            }
            None => {
                segments.push(fresh(1, settings.segment_bytes));
                segment::create(directory, 1, settings.segment_bytes).map_err(io)?
            }
        };
        let mut disk = Self {
            directory: directory.to_owned(),
            settings,
            file,
            segments,
            next_sequence: log.next_sequence,
            marks: marks.collect(),
            spare: None,
            buffer: Vec::new(),
        };
        disk.make_spare();
        Ok(disk)
    }

    fn write(&mut self, jobs: Vec<(ShardId, Vec<Record>, Done)>, shared: &Shared) {
        let mut batch: Batch = Vec::new();
        let mut dones = Vec::new();
        let mut bytes = 0;
        for (shard, records, done) in jobs {
            bytes += records.iter().map(weight).sum::<usize>();
            batch.extend(records.into_iter().map(|record| (shard, record)));
            dones.push(done);
            if bytes >= BATCH_BYTES {
                self.write_batch(std::mem::take(&mut batch), shared);
                dones.drain(..).for_each(|done| done());
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.write_batch(batch, shared);
        }
        dones.into_iter().for_each(|done| done());
    }

    fn write_batch(&mut self, batch: Batch, shared: &Shared) {
        self.buffer.clear();
        segment::write(&mut self.buffer, self.next_sequence, &batch);
        let last = self.segments.last().expect("there is always a segment");
        if last.end + self.buffer.len() as u64 > last.bytes.max(self.settings.segment_bytes)
            && last.end > segment::HEADER
        {
            self.rotate(shared);
            self.buffer.clear();
            segment::write(&mut self.buffer, self.next_sequence, &batch);
        }
        self.put(&batch, shared);
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        if batch.iter().any(|(_, record)| matches!(record, Record::Purge(..))) {
            self.delete_old();
        }
        *lock(&shared.pinned_by) = self.pinned_by();
        if self.buffer.capacity() > 2 * BATCH_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Writes the buffer, which holds `batch`, and syncs it.
    fn put(&mut self, batch: &[(ShardId, Record)], shared: &Shared) {
        let last = self.segments.last_mut().expect("there is always a segment");
        let written = self.file.write_all_at(&self.buffer, last.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            stop(&self.directory, &error);
        }
        shared
            .index
            .note(batch, Location { segment: last.number, offset: last.end, bytes: self.buffer.len() });
        last.end += self.buffer.len() as u64;
        last.bytes = last.bytes.max(last.end);
        self.next_sequence += 1;
        for (shard, record) in batch {
            last.note(*shard, record);
            if !matches!(record, Record::Entry(..)) {
                self.marks.entry(*shard).or_default().apply(record, |_| ());
            }
        }
    }

    /// Goes on in the next segment, which begins with every shard's marks.
    fn rotate(&mut self, shared: &Shared) {
        let number = self.segments.last().map_or(1, |last| last.number + 1);
        let made = match self.spare.take() {
            Some(spare) => {
                spare.join().unwrap_or_else(|_| Err(std::io::Error::other("making a segment failed")))
            }
            None => segment::create(&self.directory, number, self.settings.segment_bytes),
        };
        match made {
            Ok(file) => self.file = file,
            Err(error) => stop(&self.directory, &error),
        }
        self.segments.push(fresh(number, self.settings.segment_bytes));
        self.make_spare();
        let marks: Batch = self
            .marks
            .iter()
            .flat_map(|(shard, part)| part.marks().into_iter().map(|record| (*shard, record)))
            .collect();
        if !marks.is_empty() {
            self.buffer.clear();
            segment::write(&mut self.buffer, self.next_sequence, &marks);
            self.put(&marks, shared);
        }
    }

    fn make_spare(&mut self) {
        let number = self.segments.last().map_or(1, |last| last.number + 1);
        let (directory, bytes) = (self.directory.clone(), self.settings.segment_bytes);
        let spare = std::thread::Builder::new().name("wal-spare".into());
        self.spare = spare.spawn(move || segment::create(&directory, number, bytes)).ok();
    }

    /// Deletes segments from the oldest on, as long as every entry in them is purged.
    fn delete_old(&mut self) {
        while self.segments.len() > 1 && self.holder(&self.segments[0]).is_none() {
            let path = segment::path(&self.directory, self.segments[0].number);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete an old log segment");
                return;
            }
            self.segments.remove(0);
        }
    }

    /// A shard that still needs an entry of this segment.
    fn holder(&self, segment: &Segment) -> Option<ShardId> {
        let purged =
            |shard| self.marks.get(shard).and_then(|part| part.purged.as_ref()).map(|(index, _)| *index);
        // The first entry of a log has index 0: not purged is not the same as purged up to 0.
        segment.last.iter().find(|(shard, last)| purged(shard) < Some(**last)).map(|(shard, _)| *shard)
    }

    fn pinned_by(&self) -> Option<ShardId> {
        let total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        if total <= self.settings.bytes_max || self.segments.len() < 2 {
            return None;
        }
        self.holder(&self.segments[0])
    }
}

impl Drop for Disk {
    /// Whoever opens the directory next must not meet a file that is still being made.
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            let _ = spare.join();
        }
    }
}

fn fresh(number: u64, bytes: u64) -> Segment {
    Segment { number, end: segment::HEADER, bytes, last: BTreeMap::new() }
}

fn weight(record: &Record) -> usize {
    match record {
        Record::Entry(_, bytes) | Record::Purge(_, bytes) | Record::Vote(bytes) => bytes.len() + 16,
        Record::Truncate(_) => 16,
    }
}

fn stop(directory: &Path, error: &std::io::Error) -> ! {
    tracing::error!(directory = %directory.display(), %error, "the log cannot be written");
    eprintln!(
        "lockstep: cannot write the log in {}: {error}. What the disk holds is uncertain now, so this node stops; \
         mend the disk and start it again",
        directory.display()
    );
    std::process::abort()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
