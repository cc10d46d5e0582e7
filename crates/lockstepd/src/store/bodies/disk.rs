//! Where a shard's segment files lie: a directory, memory for simulations, or a store elsewhere.
//!
//! It moves bytes and knows nothing of what is in them. A file that is removed stays readable for
//! whoever still has it open: that is all the pinning that readers need.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where the segment files of one shard are kept.
#[derive(Clone)]
pub enum Disk {
    /// In this directory.
    Files(PathBuf),
    /// In memory; clone the handle to keep them over a simulated crash.
    Memory(MemoryFiles),
    /// What snapshots name is in a store elsewhere; what is newer is in memory, and in the log.
    Elsewhere(Arc<dyn Elsewhere>),
}

/// A store that holds files which never change.
pub trait Elsewhere: Send + Sync {
    /// Exactly `bytes` of file `number`, from `offset` on. Waits for the network.
    fn read(&self, number: u64, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;
}

/// Files that a store elsewhere holds have numbers from here on; those that are only in the memory
/// of one node, smaller ones.
pub const ELSEWHERE: u64 = 1 << 32;

/// Segment files in memory.
#[derive(Clone, Default)]
pub struct MemoryFiles(Arc<Mutex<BTreeMap<u64, Arc<File>>>>);

/// One segment file.
pub struct File {
    path: PathBuf,
    data: Data,
    /// How much of it is known to be durable.
    synced: AtomicU64,
}

enum Data {
    File(fs::File),
    Memory(Mutex<Vec<u8>>),
    Elsewhere(Arc<dyn Elsewhere>, u64),
}

impl Disk {
    /// An empty one in memory.
    pub fn memory() -> Self {
        Self::Memory(MemoryFiles::default())
    }

    /// Whether it has no threads to be spared: a simulation's answers at once.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// Whether snapshots name files that are not this node's own.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Elsewhere(_))
    }

    /// An empty file under a number that was never used before.
    pub(super) fn create(&self, number: u64) -> io::Result<Arc<File>> {
        match self {
            Self::Files(directory) => {
                fs::create_dir_all(directory)?;
                let path = path(directory, number);
                let file =
                    fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
                Ok(Arc::new(File { path, data: Data::File(file), synced: AtomicU64::new(0) }))
            }
            Self::Memory(files) => {
                let path = path(Path::new("memory"), number);
                let file = File { path, data: Data::Memory(Mutex::default()), synced: AtomicU64::new(0) };
                let file = Arc::new(file);
                lock(&files.0).insert(number, Arc::clone(&file));
                Ok(file)
            }
            Self::Elsewhere(_) => {
                let path = path(Path::new("memory"), number);
                let data = Data::Memory(Mutex::default());
                Ok(Arc::new(File { path, data, synced: AtomicU64::new(0) }))
            }
        }
    }

    /// An existing file, cut to `bytes`: whatever is behind them is not in the snapshot that named it.
    /// A shorter one has lost acknowledged data.
    pub(super) fn open(&self, number: u64, bytes: u64) -> io::Result<Arc<File>> {
        match self {
            Self::Files(directory) => {
                let path = path(directory, number);
                let file = fs::File::options().read(true).write(true).open(&path);
                let file = file.map_err(|error| lost(&path, &error.to_string()))?;
                let length = file.metadata()?.len();
                if length < bytes {
                    return Err(lost(&path, &format!("it has {length} bytes instead of {bytes}")));
                }
                file.set_len(bytes)?;
                Ok(Arc::new(File { path, data: Data::File(file), synced: AtomicU64::new(bytes) }))
            }
            Self::Memory(files) => {
                let path = path(Path::new("memory"), number);
                let file =
                    lock(&files.0).get(&number).cloned().ok_or_else(|| lost(&path, "it is not there"))?;
                let synced = file.synced.load(Ordering::Relaxed);
                if synced < bytes {
                    return Err(lost(&path, &format!("it has {synced} bytes instead of {bytes}")));
                }
                file.cut(bytes);
                Ok(file)
            }
            Self::Elsewhere(store) => {
                let path = path(Path::new("store"), number);
                let data = Data::Elsewhere(Arc::clone(store), number);
                Ok(Arc::new(File { path, data, synced: AtomicU64::new(bytes) }))
            }
        }
    }

    /// The numbers of all files, in order.
    pub(super) fn list(&self) -> io::Result<Vec<u64>> {
        let Self::Files(directory) = self else {
            let Self::Memory(files) = self else { return Ok(Vec::new()) };
            return Ok(lock(&files.0).keys().copied().collect());
        };
        let mut numbers = Vec::new();
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".bodies"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Gives a file's space back. One that cannot be removed is tried again at the next start.
    pub(super) fn remove(&self, number: u64) {
        match self {
            Self::Files(directory) => {
                let path = path(directory, number);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), %error, "cannot remove a file of message bodies");
                    }
                    _ => {}
                }
            }
            Self::Memory(files) => drop(lock(&files.0).remove(&number)),
            // Whoever leads removes what no snapshot names.
            Self::Elsewhere(_) => {}
        }
    }

    /// Makes the names of new files durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Files(directory) if directory.exists() => fs::File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }
}

impl File {
    /// For error messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reading it waits for nothing.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.data, Data::Memory(_))
    }

    /// Exactly `bytes` from `offset` on.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        match &self.data {
            Data::File(file) => {
                let mut out = vec![0; bytes];
                file.read_exact_at(&mut out, offset)?;
                Ok(out)
            }
            Data::Memory(data) => {
                let data = lock(data);
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = start.checked_add(bytes).and_then(|end| data.get(start..end));
                part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Data::Elsewhere(store, number) => store.read(*number, offset, bytes),
        }
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match &self.data {
            Data::File(file) => file.write_all_at(bytes, offset),
            Data::Memory(data) => {
                let mut data = lock(data);
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[start..end].copy_from_slice(bytes);
                Ok(())
            }
            Data::Elsewhere(..) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Makes the first `upto` bytes durable, unless they are.
    pub(super) fn sync(&self, upto: u64) -> io::Result<()> {
        if self.synced.load(Ordering::Acquire) >= upto {
            return Ok(());
        }
        if let Data::File(file) = &self.data {
            file.sync_data()?;
        }
        self.synced.fetch_max(upto, Ordering::Release);
        Ok(())
    }

    fn cut(&self, bytes: u64) {
        if let Data::Memory(data) = &self.data {
            lock(data).truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        self.synced.store(bytes, Ordering::Relaxed);
    }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.bodies"))
}

fn lost(path: &Path, why: &str) -> io::Error {
    let path = path.display();
    let why = format!(
        "the file of message bodies {path} is damaged: {why}. Restore this node's data directory from a copy, or \
         remove the node from the cluster and join under a new id"
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
