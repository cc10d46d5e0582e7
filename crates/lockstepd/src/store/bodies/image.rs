//! The bodies of one moment: what a snapshot names, what a follower is sent.
//!
//! It shares files and indexes with the store that it was taken of; nothing in it changes any more.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::index::{Index, Written};
use super::{Bodies, Directory, Segment};

/// The bodies of one moment.
#[derive(Clone)]
pub struct Image {
    pub(super) directory: Directory,
    pub(super) segments: Vec<Segment>,
    pub(super) last: u64,
}

/// The files that a snapshot names, how much of each belongs to it, and what is in them.
#[derive(Serialize, Deserialize)]
pub struct Manifest {
    pub(super) last: u64,
    pub(super) segments: Vec<(u64, Written)>,
}

impl Image {
    /// Makes everything in it durable.
    pub fn sync(&self) -> io::Result<()> {
        for segment in &self.segments {
            segment.file.sync(u64::from(segment.index.end()))?;
        }
        self.directory.disk.sync()
    }

    /// What a snapshot writes down of it.
    pub fn manifest(&self) -> Manifest {
        let segments = self.segments.iter().map(|segment| (segment.number, segment.index.written()));
        Manifest { last: self.last, segments: segments.collect() }
    }

    /// Whether it has no threads to be spared.
    pub fn is_memory(&self) -> bool {
        self.directory.is_memory()
    }

    /// How many files it has.
    pub fn files(&self) -> usize {
        self.segments.len()
    }

    /// At most `bytes_max` bytes of a file, as they are on disk; empty at its end.
    pub fn read(&self, file: usize, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let segment = &self.segments[file];
        let left = u64::from(segment.index.end()).saturating_sub(offset);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max);
        segment.file.read(offset, bytes).map(Bytes::from)
    }

    /// Every body that is needed, in order, all in memory: for what is small. Errors: one is damaged.
    pub fn all(&self) -> io::Result<Vec<(u64, Bytes)>> {
        let mut all = Vec::new();
        for file in 0..self.files() {
            all.extend(self.bodies(file)?);
        }
        Ok(all)
    }

    /// Removes every file that it does not name: at the start they are what a crash left behind, and
    /// the log holds what was in them.
    pub fn remove_others(&self) -> io::Result<()> {
        remove_all_but(&self.directory, |number| self.segments.iter().any(|segment| segment.number == number))
    }
}

impl Directory {
    /// Removes every file: no snapshot names any.
    pub fn clear(&self) -> io::Result<()> {
        remove_all_but(self, |_| false)
    }
}

impl Bodies {
    /// The bodies that a snapshot names, and its image; `needed` says which of them still are. Its
    /// files are cut to what belongs to it. Errors: a file is missing or too short, or the manifest
    /// makes no sense.
    pub fn restore(
        directory: Directory,
        manifest: &Manifest,
        needed: impl Fn(u64) -> bool,
    ) -> io::Result<(Self, Image)> {
        let mut segments = Vec::new();
        for (number, written) in &manifest.segments {
            let index = Index::read(written, &needed)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the list of bodies is damaged"))?;
            let file = directory.disk.open(*number, u64::from(index.end()))?;
            segments.push(Segment { number: *number, file, index: Arc::new(index) });
        }
        let image = Image { directory: directory.clone(), segments: segments.clone(), last: manifest.last };
        let mut bodies = Self::empty(directory);
        bodies.last = manifest.last;
        bodies.segments = segments;
        let more = |tail: &Segment| !bodies.is_full(tail) && !bodies.directory.disk.is_elsewhere();
        bodies.open = bodies.tail().is_some_and(more);
        for at in (0..bodies.segments.len().saturating_sub(1)).rev() {
            if bodies.segments[at].index.live() == 0 {
                bodies.condemn(at);
            }
        }
        Ok((bodies, image))
    }
}

fn remove_all_but(directory: &Directory, named: impl Fn(u64) -> bool) -> io::Result<()> {
    for number in directory.disk.list()?.into_iter().filter(|number| !named(*number)) {
        directory.disk.remove(number);
    }
    Ok(())
}
