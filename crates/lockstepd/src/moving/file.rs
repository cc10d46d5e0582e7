//! A cluster as one file: a head, then each shard's own bytes and the bodies of its messages.
//!
//! ```text
//! file     magic \n | head (JSON) \n | shard… | end \n
//! shard    section (JSON) \n | the shard's own bytes | body…
//! body     id u64 | length u32 | crc u32 | bytes          little-endian; the checksum covers all others
//! ```
//! A file is complete or not there, and everything in it is checked before anything is made of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_core::Shard;
use lockstep_core::names::{MessageId, ShardId};
use serde::{Deserialize, Serialize};

use super::{Cluster, Error};
use crate::state::Frozen;

const MAGIC: &str = "lockstep export 2";
const END: &str = "end";
/// No body is larger: HTTP takes none.
const BODY_BYTES_MAX: u32 = 128 << 20;
/// How often long work says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// The line before a shard's bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    shard: u32,
    index: u64,
    core_bytes: u64,
    core_crc: u32,
    bodies: u64,
}

/// A file that is being written, under another name until it is complete. One that fails is removed.
pub(super) struct Export {
    file: BufWriter<File>,
    new: Unfinished,
    path: PathBuf,
    shards: u32,
}

/// The name of a file until it is complete.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it is complete it has another name.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Export {
    pub(super) fn create(path: &Path, cluster: &Cluster) -> Result<Self, Error> {
        let mut new = path.as_os_str().to_owned();
        new.push(".incomplete");
        let new = PathBuf::from(new);
        let file = File::create(&new).map_err(|error| unusable(&new, &error))?;
        let (new, path) = (Unfinished(new), path.to_owned());
        let mut export = Self { file: BufWriter::new(file), new, path, shards: cluster.queue_shards };
        export.line(MAGIC)?;
        export.line(&json(cluster))?;
        Ok(export)
    }

    /// Adds a shard. May wait for its bodies.
    pub(super) fn shard(
        &mut self,
        shard: ShardId,
        frozen: Frozen,
        tell: &dyn Fn(String),
    ) -> Result<(), Error> {
        let (core, image) = frozen.into_parts();
        let (index, core) = (core.applied(), core.snapshot());
        let section = Section {
            shard: shard.0,
            index: index.0,
            core_bytes: core.len() as u64,
            core_crc: crc32fast::hash(&core),
            bodies: image.needed(),
        };
        self.line(&json(&section))?;
        self.write(&core)?;
        let mut progress = Progress::new(shard, section.bodies);
        for file in 0..image.files() {
            for (id, body) in image.bodies(file).map_err(Error::new)? {
                self.body(id, &body)?;
                progress.one(tell);
            }
        }
        let all = self.shards;
        tell(format!("shard {shard} of {all}: index {index}, {} messages", section.bodies));
        Ok(())
    }

    /// The same where its bodies come over the network, by this thread's own doing.
    pub(super) async fn shard_beside(
        mut self,
        shard: ShardId,
        frozen: Frozen,
        tell: &dyn Fn(String),
    ) -> Result<Self, Error> {
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let work = tokio::task::spawn_blocking(move || {
            let tell = |text| said.send(text).unwrap_or(());
            self.shard(shard, frozen, &tell).map(|()| self)
        });
        while let Some(text) = heard.recv().await {
            tell(text);
        }
        work.await.map_err(Error::new)?
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.line(END)?;
        let end = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        end.and_then(|()| std::fs::rename(&self.new.0, &self.path))
            .map_err(|error| unusable(&self.new.0, &error))
    }

    fn body(&mut self, id: u64, body: &Bytes) -> Result<(), Error> {
        let length = u32::try_from(body.len()).map_err(Error::new)?;
        let crc = crc(id, length, body);
        self.write(&id.to_le_bytes())?;
        self.write(&length.to_le_bytes())?;
        self.write(&crc.to_le_bytes())?;
        self.write(body)
    }

    fn line(&mut self, text: &str) -> Result<(), Error> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| unusable(&self.new.0, &error))
    }
}

/// A complete file, checked.
#[derive(Debug)]
pub(super) struct Import {
    path: PathBuf,
    cluster: Cluster,
    /// Each shard's section, and where its bytes begin.
    sections: Vec<(Section, u64)>,
}

impl Import {
    /// Reads all of it.
    pub(super) fn open(path: &Path, tell: &dyn Fn(String)) -> Result<Self, Error> {
        let mut file = open(path)?;
        let damaged = |why: &str| Error::new(format_args!("{} is no whole export: {why}", path.display()));
        let line = |file: &mut BufReader<File>| line(file).map_err(|error| unusable(path, &error));
        if line(&mut file)? != MAGIC {
            return Err(damaged("it does not begin as one of this version"));
        }
        let cluster: Cluster =
            serde_json::from_str(&line(&mut file)?).map_err(|_| damaged("its head cannot be read"))?;
        let mut sections = Vec::new();
        for shard in cluster.shards() {
            let section: Section = serde_json::from_str(&line(&mut file)?)
                .map_err(|_| damaged("it ends early, or is damaged"))?;
            let begin = file.stream_position().map_err(|error| unusable(path, &error))?;
            let checked = check(&mut file, shard, &section, tell);
            checked.map_err(|error| damaged(&format!("shard {shard}: {error}")))?;
            sections.push((section, begin));
        }
        let mut end = Vec::new();
        (&mut file).take(1 << 10).read_to_end(&mut end).map_err(|error| unusable(path, &error))?;
        if end != format!("{END}\n").as_bytes() {
            return Err(damaged("it ends early, or is damaged"));
        }
        Ok(Self { path: path.to_owned(), cluster, sections })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A shard's own bytes, and a reader of its bodies.
    pub(super) fn shard(&self, shard: ShardId) -> Result<(Bytes, Bodies), Error> {
        let found = self.sections.iter().find(|(section, _)| section.shard == shard.0);
        let (section, begin) = found.ok_or_else(|| Error::new(format_args!("shard {shard} is not in it")))?;
        let mut file = open(&self.path)?;
        let core = file.seek(SeekFrom::Start(*begin)).and_then(|_| core(&mut file, section));
        let core = core.map_err(|error| unusable(&self.path, &error))?;
        Ok((core, Bodies { file, left: section.bodies }))
    }
}

/// The bodies of one shard, in order.
pub(super) struct Bodies {
    file: BufReader<File>,
    left: u64,
}

impl Bodies {
    /// The next one; `None` behind the last. Errors: it is damaged.
    pub(super) fn next(&mut self) -> io::Result<Option<(MessageId, Bytes)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        body(&mut self.file).map(|(id, body)| Some((MessageId(id), body)))
    }
}

fn check(
    file: &mut BufReader<File>,
    expected: ShardId,
    section: &Section,
    tell: &dyn Fn(String),
) -> io::Result<()> {
    if section.shard != expected.0 {
        return Err(damaged("another shard is in its place"));
    }
    let core = core(file, section)?;
    let shard = Shard::restore(&core).map_err(io::Error::other)?;
    let (mut last, mut progress) = (0, Progress::new(expected, section.bodies));
    for _ in 0..section.bodies {
        let (id, _) = body(file)?;
        if id <= last || !shard.body_lives(MessageId(id)) {
            return Err(damaged("a message is in the wrong place"));
        }
        last = id;
        progress.one(tell);
    }
    Ok(())
}

fn core(file: &mut BufReader<File>, section: &Section) -> io::Result<Bytes> {
    let mut core = Vec::new();
    file.take(section.core_bytes).read_to_end(&mut core)?;
    let whole = core.len() as u64 == section.core_bytes && crc32fast::hash(&core) == section.core_crc;
    if whole { Ok(core.into()) } else { Err(damaged("it is damaged")) }
}

fn body(file: &mut BufReader<File>) -> io::Result<(u64, Bytes)> {
    let (mut id, mut length, mut sum) = ([0; 8], [0; 4], [0; 4]);
    file.read_exact(&mut id)?;
    file.read_exact(&mut length)?;
    file.read_exact(&mut sum)?;
    let (id, length) = (u64::from_le_bytes(id), u32::from_le_bytes(length));
    if length > BODY_BYTES_MAX {
        return Err(damaged("a message is damaged"));
    }
    let mut body = vec![0; length as usize];
    file.read_exact(&mut body)?;
    if crc(id, length, &body) != u32::from_le_bytes(sum) {
        return Err(damaged("a message is damaged"));
    }
    Ok((id, body.into()))
}

fn crc(id: u64, length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// How far long work is.
struct Progress {
    shard: ShardId,
    done: u64,
    all: u64,
    told: Instant,
}

impl Progress {
    fn new(shard: ShardId, all: u64) -> Self {
        Self { shard, done: 0, all, told: Instant::now() }
    }

    fn one(&mut self, tell: &dyn Fn(String)) {
        self.done += 1;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            tell(format!("shard {}: {} of {} messages", self.shard, self.done, self.all));
        }
    }
}

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    File::open(path).map(BufReader::new).map_err(|error| unusable(path, &error))
}

fn line(file: &mut BufReader<File>) -> io::Result<String> {
    let mut line = Vec::new();
    // A line of a whole export is short; anything else is none.
    file.take(64 << 10).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain fields always serialize")
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::new(format_args!("cannot use {}: {error}", path.display()))
}
