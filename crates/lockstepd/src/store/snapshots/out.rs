//! A snapshot file as it is written: a stream with one checksum over all of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

pub(super) const MAGIC: [u8; 8] = *b"LSSNAP\x02\0";
/// Two lengths and the checksum.
pub(super) const TRAILER: usize = 20;
const BUFFER_BYTES: usize = 256 * 1024;

/// Where a snapshot's bytes go. It takes them through [`Extend`], which cannot fail: what the disk
/// says is told at the end.
pub struct Out {
    sink: Sink,
    buffer: Vec<u8>,
    hasher: crc32fast::Hasher,
    bytes: u64,
    error: Option<io::Error>,
}

pub(super) enum Sink {
    File(File, PathBuf),
    Memory(Vec<u8>),
}

impl Out {
    pub(super) fn file(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self::new(Sink::File(file, path)))
    }

    pub(super) fn memory() -> Self {
        Self::new(Sink::Memory(Vec::new()))
    }

    fn new(sink: Sink) -> Self {
        let hasher = crc32fast::Hasher::new();
        let mut out = Self { sink, buffer: Vec::new(), hasher, bytes: 0, error: None };
        out.put(&MAGIC);
        out
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the trailer, and returns once everything is durable.
    pub(super) fn finish(mut self, core_bytes: u64) -> io::Result<Sink> {
        let manifest_bytes = self.bytes - MAGIC.len() as u64 - core_bytes;
        self.put(&core_bytes.to_le_bytes());
        self.put(&manifest_bytes.to_le_bytes());
        self.flush();
        let crc = self.hasher.clone().finalize();
        self.put(&crc.to_le_bytes());
        self.flush();
        match self.error.take() {
            Some(error) => Err(error),
            None => {
                if let Sink::File(file, _) = &self.sink {
                    file.sync_all()?;
                }
                Ok(self.sink)
            }
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.buffer);
        let written = match &mut self.sink {
            Sink::File(file, _) => file.write_all(&self.buffer),
            Sink::Memory(bytes) => {
                bytes.extend_from_slice(&self.buffer);
                Ok(())
            }
        };
        if let Err(error) = written {
            self.error.get_or_insert(error);
        }
        self.buffer.clear();
    }
}

impl Extend<u8> for &mut Out {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        let before = self.buffer.len();
        self.buffer.extend(bytes);
        self.bytes += (self.buffer.len() - before) as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }
}
