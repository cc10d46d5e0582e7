//! A state written down, and read back: the shard's own bytes in a snapshot file, its bodies where
//! they are.
//!
//! Writing works on a frozen copy, beside everything else: applying goes on meanwhile.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lockstep_core::{Index, Shard};

use super::State;
use crate::store::bodies::{Bodies, Image, Manifest};
use crate::store::snapshots::{Arrived, Loaded, Out, Saved, Snapshots};

/// A state at one moment.
pub struct Frozen {
    pub(super) shard: Shard,
    pub(super) bodies: Image,
    replaced: u64,
}

impl Frozen {
    /// The files that its bodies lie in.
    pub fn body_files(&self) -> Manifest {
        self.bodies.manifest()
    }

    /// The last entry in it.
    pub fn applied(&self) -> Index {
        self.shard.applied()
    }
}

impl Frozen {
    /// The shard's own bytes, and its bodies.
    pub fn into_parts(self) -> (Shard, Image) {
        (self.shard, self.bodies)
    }
}

impl State {
    /// The state as it is now. Cheap enough to be done between two entries.
    pub fn freeze(&self) -> Frozen {
        let replaced = self.replaced.load(Ordering::Acquire);
        let mut inner = self.lock();
        let bodies = inner.bodies.freeze();
        Frozen { shard: inner.shard.clone(), bodies, replaced }
    }

    /// Makes a frozen state the shard's snapshot, with `meta` beside it, and gives the space back of
    /// what only the former one named. `None`: another state has taken this one's place meanwhile.
    pub fn save(&self, frozen: Frozen, meta: Bytes, snapshots: &Snapshots) -> io::Result<Option<Saved>> {
        let Frozen { shard, bodies: mut image, replaced } = frozen;
        let swaps = image.compact();
        image.sync()?;
        let core = |out: &mut Out| {
            shard.snapshot_into(out);
        };
        let written = snapshots.write(self.id, meta, &image, core)?;
        let _alone = self.saving.lock().expect("nothing panics while it holds this");
        if self.replaced.load(Ordering::Acquire) != replaced {
            return Ok(None);
        }
        let saved = snapshots.activate(self.id, written, image)?;
        self.lock().bodies.settle(&saved.bodies, swaps);
        Ok(Some(saved))
    }

    /// At the start: takes the shard's snapshot over, if there is one. Bodies that it does not name
    /// are removed: the log holds what was in them.
    pub fn load(&self, loaded: Option<Loaded>, snapshots: &Snapshots) -> io::Result<Option<Saved>> {
        let Some(loaded) = loaded else {
            self.lock().bodies.directory().clear()?;
            return Ok(None);
        };
        let saved = self.take_over(snapshots, &loaded)?;
        saved.bodies.remove_others()?;
        Ok(Some(saved))
    }

    /// Makes a snapshot that has arrived the shard's, and replaces the state by it. On error nothing
    /// changes but, at worst, the file, which then says so at the next start.
    pub fn take(&self, arrived: Arrived, snapshots: &Snapshots) -> io::Result<Saved> {
        let _alone = self.saving.lock().expect("nothing panics while it holds this");
        self.replaced.fetch_add(1, Ordering::AcqRel);
        snapshots.activate(self.id, arrived.written, arrived.bodies)?;
        let loaded = snapshots.load(self.id)?;
        let loaded = loaded.ok_or_else(|| io::Error::other("the snapshot that was just written is gone"))?;
        self.take_over(snapshots, &loaded)
    }

    /// Replaces the state by a snapshot whose bodies are stored where this state's are. On error
    /// nothing changes.
    pub fn restore(&self, core: &[u8], bodies: &Manifest) -> io::Result<()> {
        let shard = Shard::restore(core).map_err(invalid)?;
        let directory = self.lock().bodies.directory().clone();
        let needed = |id| shard.body_lives(lockstep_core::names::MessageId(id));
        let (bodies, image) = Bodies::restore(directory, bodies, needed)?;
        self.replace(shard, bodies, &image);
        Ok(())
    }

    /// A snapshot of this state, or of what it was before, has stored its bodies for all: they leave
    /// memory. Errors: the list makes no sense.
    pub fn adopt(&self, bodies: &Manifest) -> io::Result<()> {
        let mut inner = self.lock();
        let super::Inner { shard, bodies: kept } = &mut *inner;
        kept.adopt(bodies, |id| shard.body_lives(lockstep_core::names::MessageId(id)))
    }

    /// Bytes on disk that a snapshot would give back.
    pub fn garbage(&self) -> u64 {
        self.lock().bodies.garbage()
    }

    /// The files of bodies that snapshots have stored elsewhere, where this state refers to them: number
    /// and bytes.
    pub fn kept_elsewhere(&self) -> Vec<(u64, u64)> {
        self.lock().bodies.kept_elsewhere()
    }

    /// Bytes of bodies that no snapshot has stored yet, where those are kept elsewhere.
    pub fn bodies_in_memory(&self) -> u64 {
        self.lock().bodies.bytes_in_memory()
    }

    /// Bytes of all files of bodies.
    pub fn body_bytes(&self) -> u64 {
        self.lock().bodies.disk_bytes()
    }

    fn take_over(&self, snapshots: &Snapshots, loaded: &Loaded) -> io::Result<Saved> {
        let shard = Shard::restore(&loaded.core).map_err(invalid)?;
        let needed = |id| shard.body_lives(lockstep_core::names::MessageId(id));
        let (bodies, image) = Bodies::restore(snapshots.bodies(self.id)?, &loaded.bodies, needed)?;
        let saved = snapshots.saved(self.id, loaded, image)?;
        self.replace(shard, bodies, &saved.bodies);
        Ok(saved)
    }
}

fn invalid(error: lockstep_core::shard::SnapshotError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
