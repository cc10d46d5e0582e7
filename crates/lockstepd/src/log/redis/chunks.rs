//! Message bodies in Redis: chunks that never change, each named by the reign that wrote it.
//!
//! Any number of snapshots name the same chunk. Which of them are needed is not known here.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockstep_core::Epoch;
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::keys::Keys;
use super::link::{Failed, Link};
use crate::store::bodies::{Directory, Disk, Elsewhere, Settings};

/// A chunk is closed once it has this size: with its last body it still fits into a mebibyte, as allocators count.
const CHUNK_BYTES: u64 = 960 << 10;
/// Chunks that one question is about, at most.
const AT_ONCE: usize = 256;
/// The longest that reading a part of one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The number of the `n`th chunk of a reign: no two reigns share one.
pub(super) fn number(by: Epoch, n: u64) -> u64 {
    (by.0 << 32) | (n & u64::from(u32::MAX))
}

/// The chunks of one shard, as its state reads them.
struct Chunks {
    reader: Arc<Reader>,
    runtime: OnceLock<Handle>,
}

struct Reader {
    link: Mutex<Link>,
    keys: Keys,
}

/// Where a shard's bodies are kept: chunks in Redis, and in memory what no snapshot has stored yet.
pub(super) fn directory(link: Link, keys: Keys) -> Directory {
    let runtime = OnceLock::new();
    if let Ok(handle) = Handle::try_current() {
        let _ = runtime.set(handle);
    }
    let reader = Arc::new(Reader { link: Mutex::new(link), keys });
    let settings = Settings { segment_bytes: CHUNK_BYTES, cache_bytes: 0 };
    Directory::open(Disk::Elsewhere(Arc::new(Chunks { reader, runtime })), settings)
        .expect("it has nothing to read yet")
}

impl Elsewhere for Chunks {
    /// Its caller's thread waits: it must be one that may.
    fn read(&self, number: u64, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let runtime =
            self.runtime.get().ok_or_else(|| io::Error::other("nothing runs that could ask Redis"))?;
        let (answer, answered) = mpsc::channel();
        let reader = Arc::clone(&self.reader);
        runtime.spawn(async move {
            let read = reader.read(number, offset, bytes).await;
            // Nobody waits any longer.
            let _ = answer.send(read);
        });
        let read = answered.recv_timeout(PATIENCE + PATIENCE / 2).map_err(io::Error::other)?;
        let read = read.map_err(|failed| io::Error::other(failed.why()))?;
        if read.len() == bytes {
            return Ok(read);
        }
        let why = format!("{} is not there, or too short", self.reader.keys.body_chunk(number));
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
    }
}

impl Reader {
    async fn read(&self, number: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, Failed> {
        read(&mut *self.link.lock().await, &self.keys, number, offset, bytes).await
    }
}

/// A part of a chunk; less than that where the chunk ends or is not there.
pub(super) async fn read(
    link: &mut Link,
    keys: &Keys,
    number: u64,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, Failed> {
    let mut part = redis::cmd("GETRANGE");
    part.arg(keys.body_chunk(number)).arg(offset).arg(offset + bytes as u64 - 1);
    match link.ask_within(&part, PATIENCE).await? {
        Value::BulkString(part) => Ok(part),
        _ => Ok(Vec::new()),
    }
}

/// What is known of some chunks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// All are there, and long enough.
    Yes,
    /// The reign is over under which nobody else could have deleted any.
    Deposed,
    /// This key is not there, or too short.
    Without(String),
}

/// Looks at chunks (number and bytes). `by`: only while that reign lasts.
pub(super) async fn whole(
    link: &mut Link,
    keys: &Keys,
    by: Option<Epoch>,
    files: &[(u64, u64)],
) -> Result<Whole, Failed> {
    for some in files.chunks(AT_ONCE) {
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("whole.lua")).arg(1 + some.len()).arg(keys.log());
        for (number, _) in some {
            script.arg(keys.body_chunk(*number));
        }
        script.arg(by.map_or(String::new(), |by| by.to_string()));
        for (_, bytes) in some {
            script.arg(*bytes);
        }
        match link.ask_within(&script, PATIENCE).await? {
            Value::BulkString(said) if said == b"done" => {}
            Value::BulkString(said) if said == b"deposed" => return Ok(Whole::Deposed),
            Value::BulkString(key) => return Ok(Whole::Without(String::from_utf8_lossy(&key).into_owned())),
            _ => return Err(Failed::Not("Redis answers, but not as its scripts do".into())),
        }
    }
    Ok(Whole::Yes)
}
