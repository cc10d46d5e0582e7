//! Rewriting segments that are mostly dead, so that a few slow messages do not keep a full disk.
//!
//! It works on an image, beside everything else; the store takes the result over when the snapshot
//! that names the new file is durable. It never touches the segment that still takes bodies.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::image::Image;
use super::{Bodies, Directory, Segment, record};

/// So many small segments in a row are put together, even if little of them is dead.
const SMALL_RUN: usize = 8;

/// Segments that were rewritten as one.
pub struct Swap {
    old: Vec<u64>,
    new: Segment,
}

/// Whether rewriting it gives more back than it costs.
pub(super) fn is_mostly_dead(segment: &Segment) -> bool {
    segment.index.live_bytes() * 2 < u64::from(segment.index.end())
}

impl Image {
    /// Rewrites what is mostly dead, and names the new files instead of the old ones. What cannot be
    /// rewritten stays as it is.
    pub fn compact(&mut self) -> Vec<Swap> {
        let mut swaps = Vec::new();
        let mut at = 0;
        while let Some(length) = self.run_at(at) {
            if self.is_worth_it(at, length) {
                match rewrite(&self.directory, &self.segments[at..at + length]) {
                    Ok(new) => {
                        let old = self.segments.splice(at..at + length, [new.clone()]);
                        swaps.push(Swap { old: old.map(|segment| segment.number).collect(), new });
                        at += 1;
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot rewrite message bodies");
                        at += length;
                    }
                }
            } else {
                at += length.max(1);
            }
        }
        swaps
    }

    /// How many closed segments from `at` on fit together into one; `None` behind the last.
    fn run_at(&self, at: usize) -> Option<usize> {
        let closed = self.segments.len().saturating_sub(1);
        if at >= closed {
            return None;
        }
        let half = self.directory.settings.segment_bytes / 2;
        let mut bytes = 0;
        let run = self.segments[at..closed].iter().take_while(|segment| {
            bytes += segment.index.live_bytes();
            bytes <= half
        });
        Some(run.count())
    }

    fn is_worth_it(&self, at: usize, length: usize) -> bool {
        let run = &self.segments[at..at + length];
        let live: u64 = run.iter().map(|segment| segment.index.live_bytes()).sum();
        let all: u64 = run.iter().map(|segment| u64::from(segment.index.end())).sum();
        length > 0 && (live * 2 < all || length >= SMALL_RUN)
    }
}

impl Bodies {
    /// The new segment takes the old ones' place. What died meanwhile is dead there too.
    pub(super) fn swap(&mut self, swap: Swap) {
        let Swap { old, mut new } = swap;
        let (replaced, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.segments).into_iter().partition(|segment| old.contains(&segment.number));
        self.segments = kept;
        let lives = |id: u64| replaced.iter().any(|segment| segment.index.find(id).is_some());
        let dead: Vec<u64> = new.index.iter().map(|(id, _)| id).filter(|id| !lives(*id)).collect();
        let index = Arc::make_mut(&mut new.index);
        for id in dead {
            index.kill(id);
        }
        for segment in replaced {
            self.condemned.push((segment.number, u64::from(segment.index.end())));
        }
        if new.index.live() == 0 {
            self.condemned.push((new.number, u64::from(new.index.end())));
        } else {
            let at = self.segments.partition_point(|segment| segment.index.first() <= new.index.first());
            self.segments.insert(at, new);
        }
    }
}

/// The bodies of `run` that are needed, in a new file.
fn rewrite(directory: &Directory, run: &[Segment]) -> io::Result<Segment> {
    let mut new = directory.create()?;
    let index = Arc::make_mut(&mut new.index);
    let mut buffer = Vec::new();
    let mut written = 0;
    for segment in run {
        // One question is cheaper than many where the answer comes over the network.
        let whole = match segment.number {
            super::ELSEWHERE.. => Some(Bytes::from(segment.file.read(0, segment.index.end() as usize)?)),
            _ => None,
        };
        for (id, spot) in segment.index.iter() {
            let bytes = match &whole {
                Some(whole) => whole.slice(spot.offset as usize..(spot.offset + spot.bytes) as usize),
                None => segment.file.read(u64::from(spot.offset), spot.bytes as usize)?.into(),
            };
            let good = record::read(&bytes).is_some_and(|(found, _)| found == id);
            if !good || !index.takes(id, bytes.len() - record::HEAD) {
                let why = format!("{} at offset {} is damaged", segment.file.path().display(), spot.offset);
                directory.disk.remove(new.number);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            index.push(id, bytes.len() - record::HEAD);
            buffer.extend_from_slice(&bytes);
            if buffer.len() >= super::WRITE_BYTES {
                new.file.write(written, &buffer)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
    }
    new.file.write(written, &buffer)?;
    Ok(new)
}
