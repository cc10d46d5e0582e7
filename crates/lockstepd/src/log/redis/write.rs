//! Writing a snapshot: bodies that no snapshot has stored yet, the shard's own bytes, then the pointer.
//!
//! Every step asks Redis whether its author still leads; one that does not changes nothing, not even
//! what it wrote itself. What nobody needs any more is found by its name and goes last.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lockstep_core::Epoch;
use redis::Value;

use super::chunks::{self, Whole};
use super::entry::Position;
use super::keys::Keys;
use super::link::{Failed, Link};
use super::room;
use super::snapshot::{self, PATIENCE, PIECE_BYTES, Part, Pointer};
use crate::blocking;
use crate::state::Frozen;
use crate::store::bodies::{Image, Manifest};

/// Names in one call of a script, at most.
const FORGET: usize = 256;

/// What became of an attempt to write one.
pub(super) enum Written {
    /// It counts.
    Done {
        /// The chunks that it names.
        bodies: Manifest,
        /// The size of the shard's own part.
        core_bytes: u64,
    },
    /// Another leads, or a newer one is there already.
    Superseded,
    /// This chunk, which it would have named, is not there or too short.
    Without(String),
    /// None was to be written: room was to be made.
    Nothing,
}

/// Writes in the name of one reign.
pub(super) struct Writer {
    pub(super) link: Link,
    pub(super) keys: Keys,
    pub(super) by: Epoch,
    /// How many chunks the reign has written.
    pub(super) chunks: Arc<AtomicU64>,
}

impl Writer {
    /// Writes a state that holds everything up to `at`. `tidy`: first makes room, by taking away all
    /// that the present snapshot does not name. Errors: `Maybe` only if it may count.
    pub(super) async fn write(mut self, at: Position, frozen: Frozen, tidy: bool) -> Result<Written, Failed> {
        let needed: BTreeSet<u64> = frozen.body_files().numbers().collect();
        if tidy {
            self.tidy(needed.clone()).await.map_err(does_not_count)?;
        }
        let written = self.write_all(at, frozen).await;
        if let Err(Failed::Not(_)) = &written {
            // Nobody knows of its pieces, and they take up room.
            if let Err(failed) = self.tidy(needed).await {
                tracing::warn!(why = failed.why(), "cannot remove the pieces of a snapshot that failed");
            }
        }
        written
    }

    async fn write_all(&mut self, at: Position, frozen: Frozen) -> Result<Written, Failed> {
        let prepare = move || {
            let (shard, mut image) = frozen.into_parts();
            image.compact();
            Ok((shard.snapshot(), image))
        };
        let (core, mut image) = blocking::run(false, prepare).await.map_err(not)?;
        if !self.store(&mut image).await.map_err(does_not_count)? {
            return Ok(Written::Superseded);
        }
        let files = image.kept_elsewhere();
        match chunks::whole(&mut self.link, &self.keys, Some(self.by), &files)
            .await
            .map_err(does_not_count)?
        {
            Whole::Yes => self.point(at, core, image.manifest()).await,
            Whole::Deposed => Ok(Written::Superseded),
            Whole::Without(key) => Ok(Written::Without(key)),
        }
    }

    /// Takes away everything that the present snapshot does not name, but for `needed` chunks: the state may
    /// still refer to those of an older one, because a newer can count although its writer never heard so.
    /// Says whether there was anything.
    pub(super) async fn tidy(&mut self, needed: BTreeSet<u64>) -> Result<bool, Failed> {
        let now = self.pointer().await?;
        self.keep_only(now, None, needed).await
    }

    /// Stores every file of `image` that is only in memory. Says whether this reign still lasts.
    pub(super) async fn store(&mut self, image: &mut Image) -> Result<bool, Failed> {
        for file in 0..image.files() {
            if image.is_stored(file) {
                continue;
            }
            let number = chunks::number(self.by, self.chunks.fetch_add(1, Ordering::Relaxed));
            let bytes = image.whole(file).map_err(not)?;
            let (names, key) = (self.keys.bodies(), self.keys.body_chunk(number));
            if !self.piece(&names, &number.to_string(), &key, &bytes).await? {
                return Ok(false);
            }
            image.stored(file, number).map_err(not)?;
        }
        Ok(true)
    }

    /// Makes a snapshot count whose bodies are stored.
    pub(super) async fn point(
        &mut self,
        at: Position,
        core: Bytes,
        bodies: Manifest,
    ) -> Result<Written, Failed> {
        let list = postcard::to_stdvec(&bodies).expect("writing to memory cannot fail");
        let pointer = Pointer { at, by: self.by, core: Part::of(&core), bodies: Part::of(&list) };
        let pieces = core.chunks(PIECE_BYTES).chain(list.chunks(PIECE_BYTES));
        for (number, piece) in (0..).zip(pieces) {
            let (names, key) = (self.keys.sets(), self.keys.chunk(self.by, at.index, number));
            if !self.piece(&names, &pointer.set(), &key, piece).await.map_err(does_not_count)? {
                return Ok(Written::Superseded);
            }
        }
        let before = self.pointer().await.map_err(does_not_count)?;
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("point.lua")).arg(2).arg(self.keys.log()).arg(self.keys.pointer());
        script.arg(self.by.0).arg(at.index.0).arg(at.id());
        script.arg(serde_json::to_string(&pointer).expect("plain fields"));
        if !done(&self.link.ask_within(&script, PATIENCE).await?) {
            return Ok(Written::Superseded);
        }
        if let Err(failed) = self.keep_only(before, Some(pointer), bodies.numbers().collect()).await {
            // The next snapshot takes it away.
            tracing::warn!(why = failed.why(), "cannot remove what no snapshot needs");
        }
        Ok(Written::Done { bodies, core_bytes: core.len() as u64 })
    }

    /// Takes away what neither of two snapshots names, the one that is there and one that has just
    /// been written, but for `needed` chunks. Says whether there was anything.
    async fn keep_only(
        &mut self,
        there: Option<Pointer>,
        new: Option<Pointer>,
        mut needed: BTreeSet<u64>,
    ) -> Result<bool, Failed> {
        if let Some(there) = &there {
            let bodies = snapshot::bodies(&mut self.link, &self.keys, there).await?;
            let bodies = bodies.ok_or_else(|| Failed::Not("the present snapshot is damaged".into()))?;
            needed.extend(bodies.numbers());
        }
        let kept: Vec<Pointer> = there.into_iter().chain(new).collect();
        self.forget_others(&kept, &needed).await
    }

    pub(super) async fn forget_others(
        &mut self,
        kept: &[Pointer],
        needed: &BTreeSet<u64>,
    ) -> Result<bool, Failed> {
        let (sets, bodies) = (self.keys.sets(), self.keys.bodies());
        let mut any = false;
        let kept: Vec<String> = kept.iter().map(Pointer::set).collect();
        for set in self.names(&sets).await?.into_iter().filter(|set| !kept.contains(set)) {
            let pieces = snapshot::pieces(&self.keys, &set);
            self.forget(&sets, &[set], &pieces).await?;
            any = true;
        }
        let number = |name: &String| name.parse::<u64>().ok().filter(|number| !needed.contains(number));
        let dead: Vec<u64> = self.names(&bodies).await?.iter().filter_map(number).collect();
        for some in dead.chunks(FORGET) {
            let names: Vec<String> = some.iter().map(u64::to_string).collect();
            let pieces: Vec<String> = some.iter().map(|number| self.keys.body_chunk(*number)).collect();
            self.forget(&bodies, &names, &pieces).await?;
            any = true;
        }
        Ok(any)
    }

    /// The present snapshot.
    async fn pointer(&mut self) -> Result<Option<Pointer>, Failed> {
        let pointer = snapshot::read_pointer(&mut self.link, &self.keys).await?;
        pointer.map_err(|()| Failed::Not(format!("{} is damaged", self.keys.pointer())))
    }

    async fn piece(&mut self, names: &str, name: &str, key: &str, bytes: &[u8]) -> Result<bool, Failed> {
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("piece.lua")).arg(3).arg(self.keys.log()).arg(names).arg(key);
        script.arg(self.by.0).arg(name).arg(bytes).arg(room::pieces_percent_max());
        match self.link.ask_within(&script, PATIENCE).await? {
            Value::BulkString(said) if said == b"full" => {
                Err(Failed::Not("the rest of the memory of Redis is kept for what must always fit".into()))
            }
            said => Ok(done(&said)),
        }
    }

    async fn forget(&mut self, names: &str, gone: &[String], pieces: &[String]) -> Result<(), Failed> {
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("forget.lua")).arg(2 + pieces.len()).arg(self.keys.log()).arg(names);
        script.arg(pieces).arg(self.by.0).arg(gone);
        self.link.ask_within(&script, PATIENCE).await.map(drop)
    }

    async fn names(&mut self, of: &str) -> Result<Vec<String>, Failed> {
        let text = |value| match value {
            Value::BulkString(text) => String::from_utf8(text).ok(),
            _ => None,
        };
        Ok(match self.link.ask_within(redis::cmd("SMEMBERS").arg(of), PATIENCE).await? {
            Value::Array(names) => names.into_iter().filter_map(text).collect(),
            _ => Vec::new(),
        })
    }
}

fn done(said: &Value) -> bool {
    matches!(said, Value::BulkString(text) if text == b"done")
}

/// An error before the pointer moved: whatever became of it, no reader follows it.
fn does_not_count(failed: Failed) -> Failed {
    Failed::Not(failed.why())
}

fn not(error: io::Error) -> Failed {
    Failed::Not(error.to_string())
}
