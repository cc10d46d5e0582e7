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
use super::chunks::{self, Whole};
use super::entry::Position;
use super::keys::Keys;
use super::link::{Failed, Link};
use crate::store::bodies::Manifest;

pub(super) const PIECE_BYTES: usize = 1 << 20;
/// One piece is a megabyte: it may take longer than an entry.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What to do when something is gone that was acknowledged.
const RESTORE: &str = "Restore Redis from a backup, or import the last export; docs/stores.md has the permissions \
                       that prevent this";

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
    let Some(mut now) = pointer(link, keys).await? else { return Ok(None) };
    loop {
        let what = match whole(link, keys, &now).await.map_err(Fault::away)? {
            Ok((core, bodies)) => return Ok(Some((now.at, core, bodies))),
            Err(what) => what,
        };
        now = replaced(link, keys, now, &what).await?;
    }
}

/// A snapshot of which every part is there; else which one is not.
async fn whole(
    link: &mut Link,
    keys: &Keys,
    pointer: &Pointer,
) -> Result<Result<(Bytes, Manifest), String>, Failed> {
    let core = read(link, keys, pointer, 0, pointer.core).await?;
    let bodies = bodies(link, keys, pointer).await?;
    let (Some(core), Some(bodies)) = (core, bodies) else { return Ok(Err(keys.pieces(pointer))) };
    let files: Vec<(u64, u64)> = bodies.files().collect();
    match chunks::whole(link, keys, None, &files).await? {
        Whole::Without(key) => Ok(Err(key)),
        Whole::Yes | Whole::Deposed => Ok(Ok((core, bodies))),
    }
}

/// A part of the snapshot `before` was not as it should be. That is no damage if a newer one counts by now:
/// this one. Pointers only move on, and nothing that the present one names is ever deleted.
pub(super) async fn replaced(
    link: &mut Link,
    keys: &Keys,
    before: Pointer,
    what: &str,
) -> Result<Pointer, Fault> {
    match pointer(link, keys).await? {
        Some(now) if now != before => Ok(now),
        Some(_) => Err(damaged(keys, what)),
        None => Err(vanished(keys)),
    }
}

/// Something that a snapshot or the state names is not what was written.
pub(super) fn damaged(keys: &Keys, what: &str) -> Fault {
    Fault::Broken(format!(
        "{what} is missing, too short or altered, and what {} holds needs it: somebody deleted or changed keys. \
         {RESTORE}",
        keys.log()
    ))
}

/// There was a pointer, and there is none.
pub(super) fn vanished(keys: &Keys) -> Fault {
    Fault::Broken(format!(
        "{} is gone, which named the snapshot of {}: somebody deleted keys. {RESTORE}",
        keys.pointer(),
        keys.log()
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
