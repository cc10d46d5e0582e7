//! Bodies that arrive from another member: written as they come, checked on the way.
//!
//! Nothing names the files until a snapshot does; those of a transfer that broke off are removed.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::{Directory, Image, Segment, record};

/// No body is larger: HTTP takes none.
const RECORD_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Files that are arriving.
pub struct Arriving {
    directory: Directory,
    segments: Vec<Segment>,
    /// What is there of the record that has begun.
    begun: BytesMut,
    last: u64,
    done: bool,
}

impl Arriving {
    /// Nothing yet.
    pub fn new(directory: Directory) -> Self {
        Self { directory, segments: Vec::new(), begun: BytesMut::new(), last: 0, done: false }
    }

    /// More of a file; files come one after another. Errors: a body is damaged or out of order, or
    /// the disk says no.
    pub fn more(&mut self, file: usize, bytes: &Bytes) -> io::Result<()> {
        if file == self.segments.len() && self.begun.is_empty() {
            self.segments.push(self.directory.create()?);
        }
        if file + 1 != self.segments.len() {
            return Err(damaged("files of bodies come in disorder"));
        }
        let segment = self.segments.last_mut().ok_or_else(|| damaged("no file has begun"))?;
        let offset = u64::from(segment.index.end()) + self.begun.len() as u64;
        segment.file.write(offset, bytes)?;
        self.begun.extend_from_slice(bytes);
        let index = Arc::make_mut(&mut segment.index);
        while let Some(length) = record::length(&self.begun) {
            if length > RECORD_BYTES_MAX {
                return Err(damaged("a body that was sent is damaged"));
            }
            if length > self.begun.len() {
                break;
            }
            let id = match record::read(&self.begun) {
                Some((id, _)) if id > self.last && index.takes(id, length - record::HEAD) => id,
                _ => return Err(damaged("a body that was sent is damaged")),
            };
            index.push(id, length - record::HEAD);
            self.last = id;
            self.begun.advance(length);
        }
        Ok(())
    }

    /// All files are here. They are durable when this returns.
    pub fn finish(mut self) -> io::Result<Image> {
        if !self.begun.is_empty() {
            return Err(damaged("a file of bodies ends too early"));
        }
        let segments = self.segments.clone();
        let image = Image { directory: self.directory.clone(), segments, last: self.last };
        image.sync()?;
        self.done = true;
        Ok(image)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.done {
            self.segments.iter().for_each(|segment| self.directory.disk.remove(segment.number));
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
