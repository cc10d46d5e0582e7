//! Reading the log back at the start, and telling a crash from damage.
//!
//! The last batch may have been cut short by a crash: nobody was told that it was durable, so it is
//! dropped. A bad batch with a good one behind it was durable once: that is never dropped.

use std::collections::BTreeMap;
use std::path::Path;

use lockstep_core::names::ShardId;

use super::read::Location;
use super::segment::{self, Found};
use super::{Error, Record, Recovered};

/// What the directory holds.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) shards: BTreeMap<ShardId, Recovered<Location>>,
    /// In order; the last is the one to go on with.
    pub(super) segments: Vec<Segment>,
    pub(super) next_sequence: u64,
}

/// One segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Where the next batch begins.
    pub(super) end: u64,
    /// Its size on disk.
    pub(super) bytes: u64,
    /// The last entry of each shard that it holds.
    pub(super) last: BTreeMap<ShardId, u64>,
}

impl Segment {
    pub(super) fn note(&mut self, shard: ShardId, record: &Record) {
        if let Record::Entry(index, _) = record {
            let last = self.last.entry(shard).or_default();
            *last = (*last).max(*index);
        }
    }
}

pub(super) fn recover(directory: &Path) -> Result<Log, Error> {
    let io = |source| Error::Io { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let numbers = segment::list(directory).map_err(io)?;
    let mut log = Log { next_sequence: 1, ..Log::default() };
    let mut torn: Option<(std::path::PathBuf, usize)> = None;
    none_missing(directory, &numbers)?;
    for number in numbers {
        let path = segment::path(directory, number);
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        if !segment::is_segment(&bytes) {
            return Err(Error::Damaged { path, offset: 0 });
        }
        let end = read_segment(&mut log, number, &bytes);
        let begun = end > segment::HEADER as usize;
        if !begun && number > 1 && log.segments.len() == 1 && segment::read(&bytes, end) == Found::End {
            // A spare is made beside one in use, and that is deleted only behind a later one.
            return Err(Error::Missing { path: segment::path(directory, number - 1) });
        }
        if let Some((path, offset)) = torn.take_if(|_| begun || segment::any_batch_after(&bytes, 0)) {
            return Err(Error::Damaged { path, offset: offset as u64 });
        }
        if segment::read(&bytes, end) != Found::End {
            if segment::any_batch_after(&bytes, end) || out_of_place(&bytes, end) {
                return Err(Error::Damaged { path, offset: end as u64 });
            }
            torn = Some((path, end));
        }
    }
    if let Some((path, offset)) = torn {
        tracing::warn!(path = %path.display(), offset, "dropping a batch that a crash cut short");
        cut(&path, offset).map_err(|source| Error::Io { path, source })?;
    }
    drop_spares(directory, &mut log).map_err(io)?;
    Ok(log)
}

/// Old segments go from the oldest on: there is never a hole.
fn none_missing(directory: &Path, numbers: &[u64]) -> Result<(), Error> {
    let hole = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    hole.map_or(Ok(()), |pair| Err(Error::Missing { path: segment::path(directory, pair[0] + 1) }))
}

/// Applies the good batches from the start on; says where they end.
fn read_segment(log: &mut Log, number: u64, bytes: &[u8]) -> usize {
    let mut segment =
        Segment { number, end: segment::HEADER, bytes: bytes.len() as u64, last: BTreeMap::new() };
    let mut offset = segment::HEADER as usize;
    while let Found::Batch(sequence, batch, next) = segment::read(bytes, offset) {
        // The first segment that is left may begin anywhere; from there on none is missing.
        let first = log.segments.is_empty() && offset == segment::HEADER as usize;
        if !first && sequence != log.next_sequence {
            break;
        }
        log.next_sequence = sequence + 1;
        let location = Location { segment: number, offset: offset as u64, bytes: next - offset };
        for (shard, record) in batch {
            segment.note(shard, &record);
            log.shards.entry(shard).or_default().apply(&record, |_| location);
        }
        offset = next;
    }
    segment.end = offset as u64;
    log.segments.push(segment);
    offset
}

/// A segment that was made ahead and never used is made again when it is needed.
fn drop_spares(directory: &Path, log: &mut Log) -> std::io::Result<()> {
    while log.segments.len() > 1 {
        let Some(spare) = log.segments.pop_if(|last| last.end == segment::HEADER) else { return Ok(()) };
        std::fs::remove_file(segment::path(directory, spare.number))?;
    }
    Ok(())
}

/// A whole batch with another sequence than expected: one before it is missing.
fn out_of_place(bytes: &[u8], offset: usize) -> bool {
    matches!(segment::read(bytes, offset), Found::Batch(..))
}

/// Writes zeros over what a crash left, so that it can never be taken for data.
fn cut(path: &Path, offset: usize) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    file.write_all_at(&vec![0; length.saturating_sub(offset)], offset as u64)?;
    file.sync_all()
}
