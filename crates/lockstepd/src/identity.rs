//! Whose data directory this is: `DIR/node.json`, written once when a cluster forms, and one
//! number that grows at every start.
//!
//! It holds no secrets and no state of any shard.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// A node's identity, for the life of its data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The version of this file's format.
    pub format: u32,
    /// The node that owns the directory.
    pub node_id: u64,
    /// The cluster it belongs to: 32 hex digits, made when the cluster formed.
    pub cluster_id: String,
    /// How many queue shards the cluster has; fixed when it formed.
    pub queue_shards: u32,
    /// The members that formed it.
    pub members: BTreeSet<u64>,
    /// The latest incarnation of the node that this directory has seen.
    pub incarnation: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error(
        "cannot use data directory {path}: {source}. Check that it exists and that this user may write there"
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error(
        "data directory {path} is in use by another lockstep process. Stop that one, or give this node a directory of its own with --data"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file does not hold what was written.
    #[error("{path} is damaged: {why}. Restore it from a copy, or remove this node and join under a new id")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It belongs to another node.
    #[error(
        "data directory {path} belongs to node {found}, but this node is {expected}. Give each node a directory of its own with --data"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: u64,
        /// This node.
        expected: u64,
    },
    /// The cluster was formed otherwise.
    #[error(
        "the cluster in {path} was formed with {what} {found}, but this node was started with {given}. Start it with what the cluster was formed with"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The setting.
        what: &'static str,
        /// As formed.
        found: String,
        /// As given.
        given: String,
    },
}

/// A data directory that this process holds alone.
pub struct Directory {
    path: PathBuf,
    /// Locked for as long as the process lives.
    _lock: File,
}

impl Directory {
    /// Creates `path` if needed and locks it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity in it, if a cluster has formed here.
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        let path = self.file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.nothing_else(),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let identity: Identity = serde_json::from_str(&text)
            .map_err(|why| Error::Damaged { path: path.clone(), why: why.to_string() })?;
        if identity.format != FORMAT {
            let why = format!("format {} where this binary reads {FORMAT}", identity.format);
            return Err(Error::Damaged { path, why });
        }
        Ok(Some(identity))
    }

    /// Writes the identity so that it survives a power cut.
    pub fn save(&self, identity: &Identity) -> Result<(), Error> {
        let io = |source| Error::Io { path: self.file(), source };
        let temporary = self.path.join("node.json.new");
        let text = serde_json::to_string_pretty(identity).expect("plain fields always serialize");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        std::fs::rename(&temporary, self.file()).map_err(io)?;
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(io)
    }

    /// A log without an identity is not an empty directory: taking it for one would lose it.
    fn nothing_else(&self) -> Result<Option<Identity>, Error> {
        if self.holds_a_log() {
            let why = "it is missing, but the directory holds a log".into();
            return Err(Error::Damaged { path: self.file(), why });
        }
        Ok(None)
    }

    /// A log that was made and never written to is none.
    fn holds_a_log(&self) -> bool {
        let used = |entry: std::io::Result<std::fs::DirEntry>| {
            entry
                .and_then(|entry| std::fs::read(entry.path()))
                .is_ok_and(|bytes| bytes[16.min(bytes.len())..].iter().any(|byte| *byte != 0))
        };
        std::fs::read_dir(self.path.join("wal")).is_ok_and(|mut entries| entries.any(used))
    }

    fn file(&self) -> PathBuf {
        self.path.join("node.json")
    }
}

impl Identity {
    /// A new cluster's identity at one of its nodes.
    pub fn new(node_id: u64, cluster_id: String, queue_shards: u32, members: BTreeSet<u64>) -> Self {
        Self { format: FORMAT, node_id, cluster_id, queue_shards, members, incarnation: 0 }
    }

    /// Whether a node started with these settings may use the directory.
    pub fn check(
        &self,
        directory: &Directory,
        node_id: u64,
        queue_shards: Option<u32>,
        members: &BTreeSet<u64>,
    ) -> Result<(), Error> {
        let path = directory.path.clone();
        if self.node_id != node_id {
            return Err(Error::OtherNode { path, found: self.node_id, expected: node_id });
        }
        if &self.members != members {
            let (found, given) = (format!("{:?}", self.members), format!("{members:?}"));
            return Err(Error::OtherCluster { path, what: "members", found, given });
        }
        match queue_shards {
            Some(given) if given != self.queue_shards => Err(Error::OtherCluster {
                path,
                what: "queue shards",
                found: self.queue_shards.to_string(),
                given: given.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> BTreeSet<u64> {
        BTreeSet::from([1, 2, 3])
    }

    #[test]
    fn an_identity_survives_a_restart() {
        let temporary = tempfile::tempdir().unwrap();
        let identity = Identity::new(2, "c".repeat(32), 3, members());
        Directory::open(temporary.path()).unwrap().save(&identity).unwrap();
        let again = Directory::open(temporary.path()).unwrap();
        assert_eq!(again.identity().unwrap(), Some(identity));
    }

    #[test]
    fn a_directory_serves_one_process() {
        let temporary = tempfile::tempdir().unwrap();
        let _first = Directory::open(temporary.path()).unwrap();
        assert!(matches!(Directory::open(temporary.path()), Err(Error::InUse { .. })));
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        let identity = Identity::new(2, "c".repeat(32), 3, members());
        let refused = identity.check(&directory, 1, None, &members());
        assert!(matches!(refused, Err(Error::OtherNode { found: 2, expected: 1, .. })));
    }

    #[test]
    fn a_log_without_an_identity_is_not_taken_for_an_empty_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        let wal = temporary.path().join("wal");
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(wal.join("0000000001.wal"), [0; 64]).unwrap();
        assert!(matches!(directory.identity(), Ok(None)), "a log that was never written to");
        std::fs::write(wal.join("0000000001.wal"), [7; 64]).unwrap();
        assert!(matches!(directory.identity(), Err(Error::Damaged { .. })));
    }
}
