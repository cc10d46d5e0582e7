//! Bodies that are kept elsewhere: what a snapshot has stored for all leaves this node's memory.
//!
//! Whoever leads writes the files; every replica then refers to them. It writes and removes nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::index::Index;
use super::{Bodies, ELSEWHERE, Image, Manifest, Segment, record};

impl Image {
    /// Whether a file is where every replica can read it.
    pub fn is_stored(&self, file: usize) -> bool {
        self.segments[file].number >= ELSEWHERE
    }

    /// A file has been stored under this number.
    pub fn stored(&mut self, file: usize, number: u64) -> io::Result<()> {
        let segment = &mut self.segments[file];
        segment.file = self.directory.disk.open(number, u64::from(segment.index.end()))?;
        segment.number = number;
        Ok(())
    }

    /// The files in it that are where every replica can read them: number and bytes.
    pub fn kept_elsewhere(&self) -> Vec<(u64, u64)> {
        kept_elsewhere(&self.segments)
    }

    /// How many bodies in it are needed.
    pub fn needed(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.index.live())).sum()
    }

    /// A whole file, as it is.
    pub fn whole(&self, file: usize) -> io::Result<Bytes> {
        self.read(file, 0, usize::MAX)
    }

    /// The bodies of a file that are needed, in order. Errors: one is damaged.
    pub fn bodies(&self, file: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let whole = self.whole(file)?;
        let body = |(id, spot): (u64, super::index::Spot)| {
            let bytes = whole.slice(spot.offset as usize..(spot.offset + spot.bytes) as usize);
            match record::read(&bytes) {
                Some((found, body)) if found == id => Ok((id, bytes.slice(body))),
                _ => {
                    let path = self.segments[file].file.path().display();
                    let why = format!("{path} at offset {} is damaged", spot.offset);
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                }
            }
        };
        self.segments[file].index.iter().map(body).collect()
    }
}

impl Manifest {
    /// The numbers of the files that it names.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().map(|(number, _)| *number)
    }

    /// The files that it names, and how many bytes of each.
    pub fn files(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().map(|(number, written)| (*number, written.bytes()))
    }

    /// Where the body of `id` is: file, offset and bytes of its record.
    pub fn find(&self, id: u64) -> Option<(u64, u64, usize)> {
        self.segments.iter().find_map(|(number, written)| {
            let spot = Index::read(written, |_| true)?.find(id)?;
            Some((*number, u64::from(spot.offset), spot.bytes as usize))
        })
    }

    /// The body in a record that was read from such a place, if it is good.
    pub fn body(id: u64, bytes: Vec<u8>) -> Option<Bytes> {
        let bytes = Bytes::from(bytes);
        let (found, body) = record::read(&bytes)?;
        (found == id).then(|| bytes.slice(body))
    }
}

impl Bodies {
    /// A snapshot has stored every body up to a certain one, and names the files: they take the place
    /// of what is in memory. `needed` says which bodies still are. Errors: it makes no sense.
    pub fn adopt(&mut self, manifest: &Manifest, needed: impl Fn(u64) -> bool) -> io::Result<()> {
        self.flush();
        let mut known: BTreeMap<u64, Segment> =
            self.segments.iter().map(|segment| (segment.number, segment.clone())).collect();
        let mut segments = Vec::new();
        for (number, written) in &manifest.segments {
            if let Some(segment) = known.remove(number) {
                segments.push(segment);
                continue;
            }
            let index = Index::read(written, &needed)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the list of bodies is damaged"))?;
            let file = self.directory.disk.open(*number, u64::from(index.end()))?;
            segments.push(Segment { number: *number, file, index: Arc::new(index) });
        }
        let before = std::mem::replace(&mut self.segments, segments);
        let taking = std::mem::replace(&mut self.open, false);
        self.condemned.clear();
        let newer = |segment: &Segment| segment.number < ELSEWHERE && segment.index.last() > manifest.last;
        for segment in before.into_iter().filter(newer) {
            if segment.index.first() > manifest.last {
                self.segments.push(segment);
                self.open = taking;
            } else {
                self.keep_newer(&segment, manifest.last)?;
            }
        }
        self.last = self.last.max(manifest.last);
        let closed = self.segments.len() - usize::from(self.open && !self.segments.is_empty());
        for at in (0..closed).rev() {
            if self.segments[at].index.live() == 0 {
                self.condemn(at);
            }
        }
        Ok(())
    }

    /// The files that snapshots have stored for every replica: number and bytes.
    pub fn kept_elsewhere(&self) -> Vec<(u64, u64)> {
        kept_elsewhere(&self.segments)
    }

    /// Bytes of bodies that are not stored yet.
    pub fn bytes_in_memory(&self) -> u64 {
        let kept = self.segments.iter().filter(|segment| segment.number < ELSEWHERE);
        kept.map(|segment| u64::from(segment.index.end())).sum()
    }

    /// Puts what is newer than `last` into a segment of its own.
    fn keep_newer(&mut self, segment: &Segment, last: u64) -> io::Result<()> {
        let mut new = self.directory.create()?;
        let index = Arc::make_mut(&mut new.index);
        let mut records = Vec::new();
        for (id, spot) in segment.index.iter().filter(|(id, _)| *id > last) {
            index.push(id, spot.bytes as usize - record::HEAD);
            records.extend(segment.file.read(u64::from(spot.offset), spot.bytes as usize)?);
        }
        if index.live() > 0 {
            new.file.write(0, &records)?;
            self.segments.push(new);
        }
        Ok(())
    }
}

fn kept_elsewhere(segments: &[Segment]) -> Vec<(u64, u64)> {
    let stored = segments.iter().filter(|segment| segment.number >= ELSEWHERE);
    stored.map(|segment| (segment.number, u64::from(segment.index.end()))).collect()
}
