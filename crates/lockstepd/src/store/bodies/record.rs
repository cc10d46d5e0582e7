//! One body in a segment file, and what a checksum says about it.
//!
//! ```text
//! record  crc u32 | length u32 | id u64 | body
//! ```
//! Integers are little-endian. The checksum covers everything behind it: a body in the wrong place is
//! as bad as a wrong one.

use bytes::Bytes;

/// Bytes before the body.
pub(super) const HEAD: usize = 16;

/// Appends a record to `out`.
pub(super) fn write(out: &mut Vec<u8>, id: u64, body: &[u8]) {
    let start = out.len();
    let length = u32::try_from(body.len()).expect("a body is bounded far below 4 GiB");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(body);
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the start of `bytes`: its id, and the range of its body. `None` where it is not
/// whole or not good.
pub(super) fn read(bytes: &[u8]) -> Option<(u64, std::ops::Range<usize>)> {
    let end = length(bytes)?;
    let record = bytes.get(..end)?;
    let crc = u32::from_le_bytes(*record.first_chunk()?);
    if crc32fast::hash(&record[4..]) != crc {
        return None;
    }
    let id = u64::from_le_bytes(*record[8..].first_chunk()?);
    Some((id, HEAD..end))
}

/// How long the record at the start of `bytes` says that it is, its head included.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    usize::try_from(length).ok()?.checked_add(HEAD)
}

/// The good records at the start of `bytes`, as slices of it.
pub(super) fn read_all(bytes: &Bytes) -> Vec<(u64, Bytes)> {
    let mut records = Vec::new();
    let mut rest = bytes.clone();
    while let Some((id, range)) = read(&rest) {
        let end = range.end;
        records.push((id, rest.slice(range)));
        rest = rest.slice(end..);
    }
    records
}
