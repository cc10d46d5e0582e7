//! A snapshot that arrives from another member: written as it comes, never whole in memory.
//!
//! It becomes the shard's only when it is complete and durable; one that broke off leaves nothing.

use std::io;

use bytes::Bytes;

use super::{Out, Written, finish};
use crate::store::bodies::{self, Directory, Image};

/// A snapshot of which parts are here.
pub struct Arriving {
    out: Out,
    bodies: bodies::Arriving,
}

/// A snapshot that is whole and durable, but not the shard's yet.
pub struct Arrived {
    pub(crate) written: Written,
    pub(crate) bodies: Image,
}

impl Arriving {
    pub(super) fn new(out: Out, directory: Directory) -> Self {
        Self { out, bodies: bodies::Arriving::new(directory) }
    }

    /// More of the file of bodies with this number. Errors: see [`bodies::Arriving::more`].
    pub fn bodies(&mut self, file: usize, bytes: &Bytes) -> io::Result<()> {
        self.bodies.more(file, bytes)
    }

    /// More of the shard's own bytes.
    pub fn core(&mut self, bytes: &[u8]) {
        self.out.put(bytes);
    }

    /// Everything is here. Durable when this returns.
    pub fn finish(self, meta: Bytes) -> io::Result<Arrived> {
        let bodies = self.bodies.finish()?;
        let written = finish(self.out, meta, bodies.manifest())?;
        Ok(Arrived { written, bodies })
    }
}
