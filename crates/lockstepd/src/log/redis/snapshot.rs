//! Snapshots in Redis: chunks that never change, then one pointer that makes them count.
//!
//! The script that moves the pointer also trims the stream, and only for whoever still leads. The
//! set before the last is kept for readers who are at it. What a state looks like is not known here.

use std::time::Duration;

use bytes::Bytes;
use lockstep_core::{Epoch, Index};
use redis::Value;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::entry::Position;
use super::keys::Keys;
use super::link::{Failed, Link};

const CHUNK_BYTES: usize = 1 << 20;
/// One chunk is a megabyte: it may take longer than an entry.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a reader looks again when chunks vanished, because a newer snapshot took their place.
const TRIES: u32 = 5;

/// A snapshot that counts: what it holds, and how to tell that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    pub(super) at: Position,
    /// The epoch of whoever took it: with the index it names the chunks.
    by: Epoch,
    chunks: u32,
    bytes: u64,
    crc: u32,
}

/// What became of an attempt to write one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// Another leads, or a newer one is there already.
    Superseded,
}

impl Pointer {
    fn set(&self) -> String {
        format!("{}-{}:{}", self.by, self.at.index, self.chunks)
    }
}

/// Writes a state that holds everything up to `at`, in the name of reign `by`.
pub(super) async fn write(
    link: &mut Link,
    keys: &Keys,
    by: Epoch,
    at: Position,
    state: Bytes,
) -> Result<Written, Failed> {
    let chunks = u32::try_from(state.len().div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX);
    let pointer = Pointer { at, by, chunks, bytes: state.len() as u64, crc: crc32fast::hash(&state) };
    link.ask(redis::cmd("SADD").arg(keys.sets()).arg(pointer.set())).await?;
    for (number, chunk) in (0..).zip(state.chunks(CHUNK_BYTES)) {
        let key = keys.chunk(by, at.index, number);
        link.ask_within(redis::cmd("SET").arg(key).arg(chunk), PATIENCE).await?;
    }
    let before = read_pointer(link, keys).await?.ok();
    let mut script = redis::cmd("EVAL");
    script.arg(include_str!("point.lua")).arg(2).arg(keys.log()).arg(keys.pointer());
    script.arg(by.0).arg(at.index.0).arg(at.id()).arg(serde_json::to_string(&pointer).expect("plain fields"));
    let said = link.ask_within(&script, PATIENCE).await?;
    if said != Value::BulkString(b"done".to_vec()) {
        forget(link, keys, &pointer.set()).await?;
        return Ok(Written::Superseded);
    }
    let kept: Vec<String> =
        [Some(pointer), before.flatten()].into_iter().flatten().map(|one| one.set()).collect();
    for set in sets(link, keys).await?.iter().filter(|set| !kept.contains(set)) {
        forget(link, keys, set).await?;
    }
    Ok(Written::Done)
}

/// The latest snapshot, if there is one.
pub(super) async fn load(link: &mut Link, keys: &Keys) -> Result<Option<(Position, Bytes)>, Fault> {
    for _ in 0..TRIES {
        let Some(pointer) = pointer(link, keys).await? else { return Ok(None) };
        if let Some(state) = read_chunks(link, keys, &pointer).await.map_err(Fault::away)? {
            return Ok(Some((pointer.at, state)));
        }
    }
    Err(Fault::Broken(format!(
        "chunks of the snapshot that {} names are missing or damaged: somebody deleted or changed keys. Restore \
         Redis from a backup; docs/stores.md has the permissions that prevent this",
        keys.pointer()
    )))
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

async fn read_pointer(link: &mut Link, keys: &Keys) -> Result<Result<Option<Pointer>, ()>, Failed> {
    let value = link.ask(redis::cmd("HGET").arg(keys.pointer()).arg("pointer")).await?;
    Ok(match value {
        Value::Nil => Ok(None),
        Value::BulkString(text) => serde_json::from_slice(&text).map(Some).map_err(|_| ()),
        _ => Err(()),
    })
}

async fn read_chunks(link: &mut Link, keys: &Keys, pointer: &Pointer) -> Result<Option<Bytes>, Failed> {
    let mut state = Vec::new();
    for number in 0..pointer.chunks {
        let key = keys.chunk(pointer.by, pointer.at.index, number);
        match link.ask_within(redis::cmd("GET").arg(key), PATIENCE).await? {
            Value::BulkString(chunk) => state.extend_from_slice(&chunk),
            _ => return Ok(None),
        }
    }
    let whole = state.len() as u64 == pointer.bytes && crc32fast::hash(&state) == pointer.crc;
    Ok(whole.then(|| state.into()))
}

async fn sets(link: &mut Link, keys: &Keys) -> Result<Vec<String>, Failed> {
    let text = |value| match value {
        Value::BulkString(text) => String::from_utf8(text).ok(),
        _ => None,
    };
    Ok(match link.ask(redis::cmd("SMEMBERS").arg(keys.sets())).await? {
        Value::Array(sets) => sets.into_iter().filter_map(text).collect(),
        _ => Vec::new(),
    })
}

/// Deletes one set of chunks, and only then its name.
async fn forget(link: &mut Link, keys: &Keys, set: &str) -> Result<(), Failed> {
    if let Some((by, index, chunks)) = parse_set(set) {
        let mut unlink = redis::cmd("UNLINK");
        for number in 0..chunks {
            unlink.arg(keys.chunk(by, index, number));
        }
        if chunks > 0 {
            link.ask_within(&unlink, PATIENCE).await?;
        }
    }
    link.ask(redis::cmd("SREM").arg(keys.sets()).arg(set)).await.map(drop)
}

fn parse_set(set: &str) -> Option<(Epoch, Index, u32)> {
    let (name, chunks) = set.split_once(':')?;
    let (by, index) = name.split_once('-')?;
    Some((Epoch(by.parse().ok()?), Index(index.parse().ok()?), chunks.parse().ok()?))
}
