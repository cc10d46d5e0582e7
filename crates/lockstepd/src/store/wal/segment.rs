//! A segment file: a header, then batches, then zeros.
//!
//! ```text
//! header  "LSWAL" version u8 | zeros up to 16 bytes
//! batch   magic u32 | crc u32 | sequence u64 | length u32 | body, zeros up to a multiple of 8
//! ```
//! Integers are little-endian. The checksum covers everything behind it. Sequences count all batches
//! of the log, so a batch that is good but out of place is noticed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use lockstep_core::names::ShardId;

use super::Record;

pub(super) const HEADER: u64 = 16;
const MAGIC: [u8; 6] = *b"LSWAL\x01";
const BATCH_MAGIC: u32 = 0x4c53_4254;
const BATCH_HEAD: usize = 20;
const ALIGN: usize = 8;

/// A batch's records with their shards, in order.
pub(super) type Batch = Vec<(ShardId, Record)>;

/// What stands at a place where a batch should begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole batch: its sequence, its records, where the next begins.
    Batch(u64, Batch, usize),
    /// Nothing was ever written here.
    End,
    /// Something else.
    Bad,
}

pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.wal"))
}

/// The numbers of the segments in `directory`, in order.
pub(super) fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".wal"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A file full of zeros behind its header, durable under its final name: from then on a write in it
/// changes no metadata, and `fdatasync` has only data to move.
pub(super) fn create(directory: &Path, number: u64, bytes: u64) -> io::Result<File> {
    use std::io::Write;
    let temporary = directory.join(format!("{number:010}.new"));
    let mut file = File::create(&temporary)?;
    let mut header = [0; HEADER as usize];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    file.write_all(&header)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes.saturating_sub(HEADER);
    while left > 0 {
        let part = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(part).unwrap_or(zeros.len())])?;
        left -= part;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, path(directory, number))?;
    File::open(directory)?.sync_all()?;
    File::options().read(true).write(true).open(path(directory, number))
}

/// Whether the file begins as a segment of this version does.
pub(super) fn is_segment(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER as usize && bytes.starts_with(&MAGIC)
}

/// Appends a batch to `out`.
pub(super) fn write(out: &mut Vec<u8>, sequence: u64, records: &[(ShardId, Record)]) {
    let start = out.len();
    out.extend_from_slice(&BATCH_MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    *out = postcard::to_extend(records, std::mem::take(out)).expect("writing to memory cannot fail");
    let length = u32::try_from(out.len() - start - BATCH_HEAD).expect("a batch is bounded far below 4 GiB");
    out[start + 16..start + 20].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Reads what stands at `offset`.
pub(super) fn read(bytes: &[u8], offset: usize) -> Found {
    let rest = bytes.get(offset..).unwrap_or_default();
    match parse(rest) {
        Some((sequence, batch, length)) => Found::Batch(sequence, batch, offset + length),
        None if rest.iter().all(|byte| *byte == 0) => Found::End,
        None => Found::Bad,
    }
}

/// Whether any whole batch begins behind `offset`.
pub(super) fn any_batch_after(bytes: &[u8], offset: usize) -> bool {
    (offset + ALIGN..bytes.len()).step_by(ALIGN).any(|at| parse(&bytes[at..]).is_some())
}

fn parse(bytes: &[u8]) -> Option<(u64, Batch, usize)> {
    let head = bytes.first_chunk::<BATCH_HEAD>()?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = usize::try_from(word(16)).ok()?;
    let end = BATCH_HEAD.checked_add(length)?;
    if word(0) != BATCH_MAGIC || crc32fast::hash(bytes.get(8..end)?) != word(4) {
        return None;
    }
    let sequence = u64::from(word(8)) | u64::from(word(12)) << 32;
    let batch = postcard::from_bytes(&bytes[BATCH_HEAD..end]).ok()?;
    Some((sequence, batch, end.next_multiple_of(ALIGN)))
}
