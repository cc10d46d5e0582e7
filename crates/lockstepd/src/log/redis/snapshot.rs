//! Snapshots in Redis: pieces that never change, then one pointer that makes them count.
//!
//! A snapshot is the shard's own bytes, and a list of the chunks that hold message bodies. The pointer
//! also trims the stream, and moves only for whoever still leads. The set before the last is kept for
//! readers who are at it. Writing one is told in `write.rs`; what a state looks like is not known here.

use std::time::Duration;

use bytes::Bytes;
use lockstep_core::{Epoch, Index};
use redis::Value;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::entry::Position;
use super::keys::Keys;
use super::link::{Failed, Link};
use crate::store::bodies::Manifest;

pub(super) const PIECE_BYTES: usize = 1 << 20;
/// One piece is a megabyte: it may take longer than an entry.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often a reader looks again when pieces vanished, because a newer snapshot took their place.
const TRIES: u32 = 5;

/// A snapshot that counts: what it holds, and how to tell that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    pub(super) at: Position,
    /// The epoch of whoever took it: with the index it names the pieces.
    pub(super) by: Epoch,
    /// The shard's own bytes.
    pub(super) core: Part,
    /// The list of chunks, in the pieces behind those.
    pub(super) bodies: Part,
}

/// Some pieces in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pieces: u32,
    bytes: u64,
    crc: u32,
}

impl Part {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let pieces = u32::try_from(bytes.len().div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX);
        Self { pieces, bytes: bytes.len() as u64, crc: crc32fast::hash(bytes) }
    }
}

impl Pointer {
    /// The name of its set of pieces.
    pub(super) fn set(&self) -> String {
        format!("{}-{}:{}", self.by, self.at.index, self.core.pieces + self.bodies.pieces)
    }
}

/// The keys of a set of pieces; none where that is no such name.
pub(super) fn pieces(keys: &Keys, set: &str) -> Vec<String> {
    let parsed = || {
        let (name, pieces) = set.split_once(':')?;
        let (by, index) = name.split_once('-')?;
        Some((Epoch(by.parse().ok()?), Index(index.parse().ok()?), pieces.parse::<u32>().ok()?))
    };
    let Some((by, index, pieces)) = parsed() else { return Vec::new() };
    (0..pieces).map(|number| keys.chunk(by, index, number)).collect()
}

/// The latest snapshot, if there is one: its place, the shard's own bytes, and its bodies.
pub(super) async fn load(link: &mut Link, keys: &Keys) -> Result<Option<(Position, Bytes, Manifest)>, Fault> {
    for _ in 0..TRIES {
        let Some(pointer) = pointer(link, keys).await? else { return Ok(None) };
        let core = read(link, keys, &pointer, 0, pointer.core).await.map_err(Fault::away)?;
        let bodies = bodies(link, keys, &pointer).await.map_err(Fault::away)?;
        if let (Some(core), Some(bodies)) = (core, bodies) {
            return Ok(Some((pointer.at, core, bodies)));
        }
    }
    Err(damaged(keys))
}

/// The snapshot that counts is not what was written.
pub(super) fn damaged(keys: &Keys) -> Fault {
    Fault::Broken(format!(
        "pieces of the snapshot that {} names are missing or damaged: somebody deleted or changed keys. Restore \
         Redis from a backup, or import the last export; docs/stores.md has the permissions that prevent this",
        keys.pointer()
    ))
}

/// Which snapshot counts.
pub(super) async fn pointer(link: &mut Link, keys: &Keys) -> Result<Option<Pointer>, Fault> {
    let found = read_pointer(link, keys).await.map_err(Fault::away)?;
    found.map_err(|()| {
        Fault::Broken(format!(
            "{} does not hold what this version of Lockstep wrote. Use another name or database in --store",
            keys.pointer()
        ))
    })
}

pub(super) async fn read_pointer(
    link: &mut Link,
    keys: &Keys,
) -> Result<Result<Option<Pointer>, ()>, Failed> {
    let value = link.ask(redis::cmd("HGET").arg(keys.pointer()).arg("pointer")).await?;
    Ok(match value {
        Value::Nil => Ok(None),
        Value::BulkString(text) => serde_json::from_slice(&text).map(Some).map_err(|_| ()),
        _ => Err(()),
    })
}

/// The bodies that a snapshot names; `None` if it is gone or damaged.
pub(super) async fn bodies(
    link: &mut Link,
    keys: &Keys,
    pointer: &Pointer,
) -> Result<Option<Manifest>, Failed> {
    let list = read(link, keys, pointer, pointer.core.pieces, pointer.bodies).await?;
    Ok(list.and_then(|list| postcard::from_bytes(&list).ok()))
}

async fn read(
    link: &mut Link,
    keys: &Keys,
    pointer: &Pointer,
    first: u32,
    part: Part,
) -> Result<Option<Bytes>, Failed> {
    let mut whole = Vec::new();
    for number in first..first.saturating_add(part.pieces) {
        let key = keys.chunk(pointer.by, pointer.at.index, number);
        match link.ask_within(redis::cmd("GET").arg(key), PATIENCE).await? {
            Value::BulkString(piece) => whole.extend_from_slice(&piece),
            _ => return Ok(None),
        }
    }
    let good = whole.len() as u64 == part.bytes && crc32fast::hash(&whole) == part.crc;
    Ok(good.then(|| whole.into()))
}
