//! Snapshots of shards: one file each, whole or not there.
//!
//! It replaces a shard's snapshot only when the new one is durable. It does not know what is in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lockstep_core::names::ShardId;

const MAGIC: [u8; 8] = *b"LSSNAP\x01\0";

/// Where snapshots are kept.
#[derive(Clone)]
pub enum Snapshots {
    /// In files below this directory.
    Files(PathBuf),
    /// In memory, for simulations; clone the handle to keep them over a simulated crash.
    Memory(Arc<Mutex<BTreeMap<ShardId, Bytes>>>),
}

impl Snapshots {
    /// Keeps them below `directory`.
    pub fn open(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        Ok(Self::Files(directory.to_owned()))
    }

    /// Keeps them in memory.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Replaces the shard's snapshot; durable when this returns.
    pub fn save(&self, shard: ShardId, bytes: &Bytes) -> io::Result<()> {
        match self {
            Self::Files(directory) => save(directory, shard, bytes),
            Self::Memory(map) => {
                map.lock().expect("nothing panics while it holds this").insert(shard, bytes.clone());
                Ok(())
            }
        }
    }

    /// The shard's latest snapshot. A damaged one is an error that names the file.
    pub fn load(&self, shard: ShardId) -> io::Result<Option<Bytes>> {
        match self {
            Self::Files(directory) => load(&path(directory, shard)),
            Self::Memory(map) => {
                Ok(map.lock().expect("nothing panics while it holds this").get(&shard).cloned())
            }
        }
    }
}

fn path(directory: &Path, shard: ShardId) -> PathBuf {
    directory.join(format!("shard-{shard}.snapshot"))
}

fn save(directory: &Path, shard: ShardId, bytes: &[u8]) -> io::Result<()> {
    let path = path(directory, shard);
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&MAGIC)?;
    file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(directory)?.sync_all()
}

fn load(path: &Path) -> io::Result<Option<Bytes>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let head = MAGIC.len() + 4;
    let body = bytes.slice(head.min(bytes.len())..);
    let crc = crc32fast::hash(&body).to_le_bytes();
    if bytes.len() < head || !bytes.starts_with(&MAGIC) || bytes[MAGIC.len()..head] != crc {
        let path = path.display();
        let why = format!(
            "the snapshot {path} is damaged. Restore this node's data directory from a copy, or remove the node \
             from the cluster and join under a new id"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_snapshot_is_read_back_and_a_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(directory.path()).unwrap();
        let shard = ShardId(2);
        assert_eq!(snapshots.load(shard).unwrap(), None);
        snapshots.save(shard, &"one".into()).unwrap();
        snapshots.save(shard, &"two".into()).unwrap();
        assert_eq!(snapshots.load(shard).unwrap(), Some("two".into()));
        let file = path(directory.path(), shard);
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(snapshots.load(shard).unwrap_err().to_string().contains("damaged"));
    }
}
