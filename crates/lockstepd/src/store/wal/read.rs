//! Reading entries back while the log is written: where each stands, and what stands there.
//!
//! A batch is checked as a whole each time, so a flipped bit is noticed and never becomes an entry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use lockstep_core::names::ShardId;

use super::segment::{self, Found};
use super::{Error, Record, Recovered};

/// The batch that holds an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// Where every entry stands.
#[derive(Default)]
pub(super) struct Index(Mutex<BTreeMap<ShardId, BTreeMap<u64, Location>>>);

impl Index {
    pub(super) fn new(shards: &BTreeMap<ShardId, Recovered<Location>>) -> Self {
        Self(Mutex::new(shards.iter().map(|(shard, part)| (*shard, part.entries.clone())).collect()))
    }

    /// The batch at `location` is durable.
    pub(super) fn note(&self, batch: &[(ShardId, Record)], location: Location) {
        let mut shards = self.lock();
        for (shard, record) in batch {
            let entries = shards.entry(*shard).or_default();
            match record {
                Record::Entry(index, _) => {
                    cut(entries, *index);
                    entries.insert(*index, location);
                }
                Record::Truncate(from) => cut(entries, *from),
                Record::Purge(index, _) => *entries = entries.split_off(&(index + 1)),
                Record::Vote(_) => {}
            }
        }
    }

    /// Entries from `from` on and before `to`, in order, until they have `bytes_max` bytes; at least
    /// one, if there is one. Those that are purged meanwhile are left out. Errors: the disk, or a
    /// batch is not what was written.
    pub(super) fn read(
        &self,
        directory: &Path,
        shard: ShardId,
        (from, to): (u64, u64),
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, Error> {
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        let mut open: Option<(u64, File)> = None;
        while let Some((first, location)) = self.find(shard, next, to) {
            let path = segment::path(directory, location.segment);
            let io = |source| Error::Io { path: path.clone(), source };
            let file = match open.take_if(|(number, _)| *number == location.segment) {
                Some((_, file)) => file,
                None => match File::open(&path) {
                    Ok(file) => file,
                    // Purged since we looked.
                    Err(_) if self.find(shard, first, to).is_none_or(|(now, _)| now != first) => continue,
                    Err(error) => return Err(io(error)),
                },
            };
            for (index, entry) in entries_of(shard, &file, location).map_err(io)?.unwrap_or_default() {
                if index >= next && index < to && self.is_at(shard, index, location) {
                    if bytes >= bytes_max && !read.is_empty() {
                        return Ok(read);
                    }
                    bytes += entry.len();
                    next = index + 1;
                    read.push((index, entry));
                }
            }
            if next <= first {
                return Err(Error::Damaged { path, offset: location.offset });
            }
            open = Some((location.segment, file));
        }
        Ok(read)
    }

    fn find(&self, shard: ShardId, from: u64, to: u64) -> Option<(u64, Location)> {
        if from >= to {
            return None;
        }
        let shards = self.lock();
        shards.get(&shard)?.range(from..to).next().map(|(index, location)| (*index, *location))
    }

    fn is_at(&self, shard: ShardId, index: u64, location: Location) -> bool {
        self.lock().get(&shard).and_then(|entries| entries.get(&index)) == Some(&location)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, BTreeMap<u64, Location>>> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}

/// The last entry under each index that the batch at `location` holds of `shard`; `None` where the
/// batch is damaged.
fn entries_of(shard: ShardId, file: &File, location: Location) -> io::Result<Option<BTreeMap<u64, Bytes>>> {
    let mut bytes = vec![0; location.bytes];
    file.read_exact_at(&mut bytes, location.offset)?;
    let Found::Batch(_, batch, _) = segment::read(&bytes, 0) else { return Ok(None) };
    let entries = batch.into_iter().filter_map(|(of, record)| match record {
        Record::Entry(index, entry) if of == shard => Some((index, entry)),
        _ => None,
    });
    Ok(Some(entries.collect()))
}

fn cut(entries: &mut BTreeMap<u64, Location>, from: u64) {
    if entries.last_key_value().is_some_and(|(last, _)| *last >= from) {
        entries.split_off(&from);
    }
}
