//! Snapshots of shards: one file each, whole or not there, and the bodies that it names beside it.
//!
//! ```text
//! file  magic | core | manifest | core length u64 | manifest length u64 | crc u32
//! ```
//! The file under its final name is the one pointer: bodies that it does not name do not exist. It is
//! replaced only when the new one is durable. It does not know what the core's bytes mean.

mod arrive;
mod out;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lockstep_core::names::ShardId;
use serde::{Deserialize, Serialize};

pub use arrive::{Arrived, Arriving};
pub use out::Out;

use super::bodies::{self, Directory, Disk, Image, MemoryFiles};
use out::{MAGIC, TRAILER};

/// Where snapshots and bodies are kept. Clones share it.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    place: Place,
    settings: bodies::Settings,
    directories: Mutex<BTreeMap<ShardId, Directory>>,
    /// Files that are being written never share a name.
    temporary: AtomicU64,
}

enum Place {
    /// Below this data directory.
    Files(PathBuf),
    /// In memory, for simulations.
    Memory(Mutex<BTreeMap<ShardId, Bytes>>),
}

/// A snapshot that is durable under its final name.
pub struct Saved {
    /// What the log's driver noted with it.
    pub meta: Bytes,
    /// The bodies that it names.
    pub bodies: Image,
    core: Core,
}

/// A snapshot as read at the start.
pub struct Loaded {
    /// What the log's driver noted with it.
    pub meta: Bytes,
    /// The shard's own bytes.
    pub core: Bytes,
    /// The bodies that it names.
    pub bodies: bodies::Manifest,
}

/// A snapshot that is whole and durable, but not the shard's yet.
pub struct Written {
    meta: Bytes,
    sink: out::Sink,
    core_bytes: u64,
}

/// The shard's own bytes, where they are.
enum Core {
    File(File, u64),
    Memory(Bytes),
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    meta: Bytes,
    bodies: bodies::Manifest,
}

impl Snapshots {
    /// Keeps them below the data directory `data`.
    pub fn open(data: &Path, settings: bodies::Settings) -> io::Result<Self> {
        let directory = data.join("snapshots");
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            // What a crash left of one that was being written.
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self::new(Place::Files(data.to_owned()), settings))
    }

    /// Keeps them in memory; clone the handle to keep them over a simulated crash.
    pub fn memory() -> Self {
        Self::memory_with(bodies::Settings::default())
    }

    /// Keeps them in memory, with settings.
    pub fn memory_with(settings: bodies::Settings) -> Self {
        Self::new(Place::Memory(Mutex::default()), settings)
    }

    fn new(place: Place, settings: bodies::Settings) -> Self {
        Self(Arc::new(Inner { place, settings, directories: Mutex::default(), temporary: AtomicU64::new(0) }))
    }

    /// Whether it has no threads to be spared: a simulation's answers at once.
    pub fn is_memory(&self) -> bool {
        matches!(self.0.place, Place::Memory(_))
    }

    /// Where the bodies of `shard` are kept.
    pub fn bodies(&self, shard: ShardId) -> io::Result<Directory> {
        let mut directories = lock(&self.0.directories);
        if let Some(directory) = directories.get(&shard) {
            return Ok(directory.clone());
        }
        let disk = match &self.0.place {
            Place::Files(data) => Disk::Files(data.join("bodies").join(format!("shard-{shard}"))),
            Place::Memory(_) => Disk::Memory(MemoryFiles::default()),
        };
        let directory = Directory::open(disk, self.0.settings.clone())?;
        directories.insert(shard, directory.clone());
        Ok(directory)
    }

    /// Writes a snapshot beside the shard's present one: `core` writes the shard's own bytes.
    /// The bodies must be durable already.
    pub fn write(
        &self,
        shard: ShardId,
        meta: Bytes,
        image: &Image,
        core: impl FnOnce(&mut Out),
    ) -> io::Result<Written> {
        let mut out = self.begin(shard)?;
        core(&mut out);
        finish(out, meta, image.manifest())
    }

    /// Makes a written snapshot the shard's; durable when this returns.
    pub fn activate(&self, shard: ShardId, written: Written, image: Image) -> io::Result<Saved> {
        let Written { meta, sink, core_bytes } = written;
        let core = match (sink, &self.0.place) {
            (out::Sink::File(file, temporary), Place::Files(data)) => {
                fs::rename(&temporary, path(data, shard))?;
                File::open(data.join("snapshots"))?.sync_all()?;
                Core::File(file, core_bytes)
            }
            (out::Sink::Memory(bytes), Place::Memory(map)) => {
                let bytes = Bytes::from(bytes);
                lock(map).insert(shard, bytes.clone());
                let end = MAGIC.len() + usize::try_from(core_bytes).unwrap_or(usize::MAX);
                Core::Memory(bytes.slice(MAGIC.len()..end))
            }
            _ => return Err(io::Error::other("the snapshot was written to another place")),
        };
        Ok(Saved { meta, bodies: image, core })
    }

    /// The shard's snapshot. A damaged one is an error that names the file.
    pub fn load(&self, shard: ShardId) -> io::Result<Option<Loaded>> {
        let (bytes, place) = match &self.0.place {
            Place::Files(data) => {
                let path = path(data, shard);
                match fs::read(&path) {
                    Ok(bytes) => (Bytes::from(bytes), path.display().to_string()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Place::Memory(map) => match lock(map).get(&shard) {
                Some(bytes) => (bytes.clone(), "in memory".to_owned()),
                None => return Ok(None),
            },
        };
        read(&bytes).map(Some).ok_or_else(|| {
            let why = format!(
                "the snapshot {place} is damaged. Restore this node's data directory from a copy, or remove the node \
                 from the cluster and join under a new id"
            );
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// The snapshot that was just loaded, to be sent from: `image` is what its manifest names.
    pub fn saved(&self, shard: ShardId, loaded: &Loaded, image: Image) -> io::Result<Saved> {
        let core = match &self.0.place {
            Place::Files(data) => Core::File(File::open(path(data, shard))?, loaded.core.len() as u64),
            Place::Memory(_) => Core::Memory(loaded.core.clone()),
        };
        Ok(Saved { meta: loaded.meta.clone(), bodies: image, core })
    }

    /// A snapshot that is about to arrive from another member.
    pub fn receive(&self, shard: ShardId) -> io::Result<Arriving> {
        Ok(Arriving::new(self.begin(shard)?, self.bodies(shard)?))
    }

    fn begin(&self, shard: ShardId) -> io::Result<Out> {
        match &self.0.place {
            Place::Files(data) => {
                let number = self.0.temporary.fetch_add(1, Ordering::Relaxed);
                Out::file(data.join("snapshots").join(format!("shard-{shard}.{number}.new")))
            }
            Place::Memory(_) => Ok(Out::memory()),
        }
    }
}

impl Saved {
    /// At most `bytes_max` of the shard's own bytes; empty at their end.
    pub fn read_core(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let part =
            |length: u64| usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes_max);
        match &self.core {
            Core::File(file, length) => {
                let mut bytes = vec![0; part(*length)];
                file.read_exact_at(&mut bytes, MAGIC.len() as u64 + offset)?;
                Ok(bytes.into())
            }
            Core::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start + part(bytes.len() as u64)))
            }
        }
    }

    /// How many bytes the shard itself takes.
    pub fn core_bytes(&self) -> u64 {
        match &self.core {
            Core::File(_, length) => *length,
            Core::Memory(bytes) => bytes.len() as u64,
        }
    }
}

fn finish(mut out: Out, meta: Bytes, bodies: bodies::Manifest) -> io::Result<Written> {
    let core_bytes = out.bytes() - MAGIC.len() as u64;
    let manifest = Manifest { meta: meta.clone(), bodies };
    postcard::to_extend(&manifest, &mut out).expect("the disk's errors come later");
    let sink = out.finish(core_bytes)?;
    Ok(Written { meta, sink, core_bytes })
}

fn read(bytes: &Bytes) -> Option<Loaded> {
    let trailer = bytes.len().checked_sub(TRAILER)?;
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let crc = u32::from_le_bytes(*bytes[bytes.len() - 4..].first_chunk()?);
    if !bytes.starts_with(&MAGIC) || crc32fast::hash(&bytes[..bytes.len() - 4]) != crc {
        return None;
    }
    let core_end = usize::try_from(number(trailer)?).ok()?.checked_add(MAGIC.len())?;
    let manifest_end = usize::try_from(number(trailer + 8)?).ok()?.checked_add(core_end)?;
    if manifest_end != trailer {
        return None;
    }
    let Manifest { meta, bodies } = postcard::from_bytes(&bytes[core_end..manifest_end]).ok()?;
    Some(Loaded { meta, core: bytes.slice(MAGIC.len()..core_end), bodies })
}

fn path(data: &Path, shard: ShardId) -> PathBuf {
    data.join("snapshots").join(format!("shard-{shard}.snapshot"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
