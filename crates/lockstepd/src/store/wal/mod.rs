//! One write-ahead log for all shards of a node.
//!
//! Everything that waits is written as one batch and made durable by one `fdatasync`, whichever
//! shard it belongs to. It knows where each entry stands, and keeps none in memory.

mod memory;
mod read;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lockstep_core::names::ShardId;
use serde::{Deserialize, Serialize};

pub use memory::MemoryDisk;

/// How the log uses the disk.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The size of a segment file, written full of zeros before it is used.
    pub segment_bytes: u64,
    /// A shard that keeps older segments alive is asked for a snapshot once the log is larger.
    pub bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, bytes_max: 1024 * 1024 * 1024 }
    }
}

/// One change to a shard's part of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The entry at an index; whatever was at it or behind it is gone.
    Entry(u64, Bytes),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to and with this index are in a snapshot; the bytes name the last one.
    Purge(u64, Bytes),
    /// What this node has promised.
    Vote(Bytes),
}

/// A shard's part of the log, as read at the start; of each entry, whatever a reader of it notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered<T = ()> {
    /// The latest promise.
    pub vote: Option<Bytes>,
    /// The last index that is only in a snapshot, and its name.
    pub purged: Option<(u64, Bytes)>,
    /// The entries behind it: [`Wal::read`] reads them.
    pub entries: BTreeMap<u64, T>,
}

impl<T> Default for Recovered<T> {
    fn default() -> Self {
        Self { vote: None, purged: None, entries: BTreeMap::new() }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot use the log file {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Acknowledged data is damaged.
    #[error(
        "the log file {path} is damaged at offset {offset}, and good data follows: this is not a write cut short by a crash. \
         Restore this node's data directory from a copy, or remove the node from the cluster and join under a new id"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where the first bad batch begins.
        offset: u64,
    },
    /// A file that was there once is not there any more.
    #[error(
        "the log file {path} is missing: what this node had promised in it is lost. Restore this node's data directory \
         from a copy, or remove the node from the cluster and join under a new id"
    )]
    Missing {
        /// Which.
        path: PathBuf,
    },
}

/// Called once the records are durable, or never: the process stops when the disk fails.
pub type Done = Box<dyn FnOnce() + Send>;

/// The log, shared by all shards of a node.
#[derive(Clone)]
pub struct Wal(Arc<Inner>);

struct Inner {
    backend: Backend,
    recovered: Mutex<BTreeMap<ShardId, Recovered>>,
}

enum Backend {
    File(writer::Writer),
    Memory(MemoryDisk),
}

impl Wal {
    /// Opens the log in `directory`, creating it if needed, and reads what it holds. A batch that a
    /// crash cut short is dropped; damage before good data is an error.
    pub fn open(directory: &Path, settings: Settings) -> Result<Self, Error> {
        let log = recover::recover(directory)?;
        let recovered = log.shards.iter().map(|(shard, part)| (*shard, part.outline())).collect();
        let writer = writer::Writer::start(directory, settings, log)?;
        Ok(Self::new(Backend::File(writer), recovered))
    }

    /// Refuses a directory whose log has gone as a whole: the first file is made before a node joins
    /// a cluster, and there is one ever after.
    pub fn must_exist(directory: &Path) -> Result<(), Error> {
        let missing = || Error::Missing { path: segment::path(directory, 1) };
        match segment::list(directory) {
            Ok(numbers) if numbers.is_empty() => Err(missing()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            Err(source) => Err(Error::Io { path: directory.to_owned(), source }),
            Ok(_) => Ok(()),
        }
    }

    /// A log in memory, for simulations: `disk` outlives a simulated crash.
    pub fn memory(disk: &MemoryDisk) -> Self {
        Self::new(Backend::Memory(disk.clone()), disk.recover())
    }

    fn new(backend: Backend, recovered: BTreeMap<ShardId, Recovered>) -> Self {
        Self(Arc::new(Inner { backend, recovered: Mutex::new(recovered) }))
    }

    /// What the log held of `shard` when it was opened. Answers once.
    pub fn take_recovered(&self, shard: ShardId) -> Recovered {
        let mut recovered = self.0.recovered.lock().expect("nothing panics while it holds this");
        recovered.remove(&shard).unwrap_or_default()
    }

    /// Whether the log held anything of `shard` when it was opened, as long as nobody took it.
    pub fn has_recovered(&self, shard: ShardId) -> bool {
        self.0.recovered.lock().expect("nothing panics while it holds this").contains_key(&shard)
    }

    /// Appends records of one shard, in order, and calls `done` when they are durable.
    pub fn append(&self, shard: ShardId, records: Vec<Record>, done: Done) {
        match &self.0.backend {
            Backend::File(writer) => writer.append(shard, records, done),
            Backend::Memory(disk) => {
                disk.append(shard, records);
                done();
            }
        }
    }

    /// Entries of `shard` from `from` on and before `to`, in order, until they have `bytes_max` bytes;
    /// at least one, if there is one. What is not durable yet is not there. May wait for the disk.
    /// Errors: a batch is not what was written; its file is named.
    pub fn read(
        &self,
        shard: ShardId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<(u64, Bytes)>> {
        match &self.0.backend {
            Backend::File(writer) => writer.read(shard, (from, to), bytes_max).map_err(|error| match error {
                Error::Io { .. } => io::Error::other(error),
                Error::Damaged { .. } | Error::Missing { .. } => {
                    io::Error::new(io::ErrorKind::InvalidData, error)
                }
            }),
            Backend::Memory(disk) => Ok(disk.read(shard, (from, to), bytes_max)),
        }
    }

    /// Whether it has no threads to be spared.
    pub fn is_memory(&self) -> bool {
        matches!(self.0.backend, Backend::Memory(_))
    }

    /// How many times the log has been synced: far fewer than appends under load.
    pub fn syncs(&self) -> u64 {
        match &self.0.backend {
            Backend::File(writer) => writer.syncs(),
            Backend::Memory(_) => 0,
        }
    }

    /// A shard whose old entries keep the log larger than it should be: it should take a snapshot.
    pub fn pinned_by(&self) -> Option<ShardId> {
        match &self.0.backend {
            Backend::File(writer) => writer.pinned_by(),
            Backend::Memory(_) => None,
        }
    }
}

impl<T> Recovered<T> {
    /// What the shard's part becomes by `record`; `note` says what is kept of an entry.
    fn apply(&mut self, record: &Record, note: impl FnOnce(&Bytes) -> T) {
        match record {
            Record::Entry(index, bytes) => {
                self.entries.split_off(index);
                self.entries.insert(*index, note(bytes));
            }
            Record::Truncate(from) => {
                self.entries.split_off(from);
            }
            Record::Purge(index, name) => {
                self.entries = self.entries.split_off(&(index + 1));
                self.purged = Some((*index, name.clone()));
            }
            Record::Vote(vote) => self.vote = Some(vote.clone()),
        }
    }

    /// What must be said again at the head of a new segment, so that older ones can go.
    fn marks(&self) -> Vec<Record> {
        let vote = self.vote.clone().map(Record::Vote);
        let purged = self.purged.clone().map(|(index, name)| Record::Purge(index, name));
        vote.into_iter().chain(purged).collect()
    }

    /// The same without what is kept of the entries.
    fn outline(&self) -> Recovered {
        let entries = self.entries.keys().map(|index| (*index, ())).collect();
        Recovered { vote: self.vote.clone(), purged: self.purged.clone(), entries }
    }
}
