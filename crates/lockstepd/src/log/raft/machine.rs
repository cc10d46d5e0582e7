//! Feeds committed entries to a shard's state, and makes and takes snapshots of it.
//!
//! The state lives in memory: after a restart it is the last snapshot and the log behind it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use lockstep_core::{Epoch, Index, Pack};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::types::{Config, LogId, Payload, Replies, Snapshot, SnapshotMeta, StoredMembership, encode};
use crate::state::State;
use crate::store::snapshots::Snapshots;

/// The last applied entry's epoch and index.
pub(super) type Applied = (Epoch, Index);

/// One shard's state as openraft drives it.
pub(super) struct Machine {
    state: Arc<State>,
    snapshots: Snapshots,
    meta: SnapshotMeta,
    applied: watch::Sender<Applied>,
    /// Bytes of log applied since the last snapshot.
    since_snapshot: Arc<AtomicU64>,
    /// Up to where the log was purged at the start: every snapshot covers that.
    purged: Option<LogId>,
}

impl Machine {
    pub(super) fn new(
        state: Arc<State>,
        snapshots: Snapshots,
        applied: watch::Sender<Applied>,
        since_snapshot: Arc<AtomicU64>,
        purged: Option<LogId>,
    ) -> Self {
        Self { state, snapshots, meta: SnapshotMeta::default(), applied, since_snapshot, purged }
    }

    /// Refuses a snapshot that leaves a hole before the log. openraft would go on from an empty state.
    fn covers_the_purged(&self, last: Option<LogId>) -> io::Result<()> {
        if last >= self.purged {
            return Ok(());
        }
        let shard = self.state.id();
        let why = format!(
            "the snapshot of shard {shard} is missing or older than the log behind it. Restore this node's data \
             directory from a copy, or remove the node from the cluster and join under a new id"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    fn apply_one(
        &mut self,
        id: LogId,
        payload: EntryPayload<Payload, u64, openraft::impls::EmptyNode>,
    ) -> io::Result<Replies> {
        let (index, epoch) = (Index(id.index), Epoch(id.leader_id.term));
        self.meta.last_log_id = Some(id);
        let replies = match payload {
            EntryPayload::Normal(Payload(bytes)) => {
                self.since_snapshot.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let pack = Pack::decode(&bytes).map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("entry {index}: {error}"))
                })?;
                self.state.apply(index, epoch, &pack)
            }
            EntryPayload::Blank => {
                self.state.apply_blank(index, epoch);
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                self.state.apply_blank(index, epoch);
                self.meta.last_membership = StoredMembership::new(Some(id), membership);
                Vec::new()
            }
        };
        Ok(Replies(replies))
    }

    fn tell_applied(&self) {
        if let Some(id) = &self.meta.last_log_id {
            self.applied.send_replace((Epoch(id.leader_id.term), Index(id.index)));
        }
    }
}

/// A state written down, to be kept.
pub(super) struct Builder {
    state: Arc<State>,
    snapshots: Snapshots,
    meta: SnapshotMeta,
    bytes: Bytes,
    since_snapshot: Arc<AtomicU64>,
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let image = Image { meta: self.meta.clone(), state: self.bytes.clone() };
        let (snapshots, shard, bytes) = (self.snapshots.clone(), self.state.id(), encode(&image));
        match snapshots {
            // A simulation has no threads: its disk answers at once.
            Snapshots::Memory(_) => snapshots.save(shard, &bytes)?,
            Snapshots::Files(_) => tokio::task::spawn_blocking(move || snapshots.save(shard, &bytes))
                .await
                .map_err(io::Error::other)??,
        }
        self.since_snapshot.store(0, Ordering::Relaxed);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.bytes.clone() })
    }
}

/// What a snapshot file holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Image {
    meta: SnapshotMeta,
    state: Bytes,
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.meta.last_log_id, self.meta.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let replies = self.apply_one(entry.log_id, entry.payload)?;
            self.tell_applied();
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (_, bytes) = self.state.snapshot();
        Builder {
            state: Arc::clone(&self.state),
            snapshots: self.snapshots.clone(),
            meta: self.meta.clone(),
            bytes,
            since_snapshot: Arc::clone(&self.since_snapshot),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        // Durable first: openraft purges the log behind it as soon as this returns.
        let image = Image { meta: meta.clone(), state: snapshot.clone() };
        self.snapshots.save(self.state.id(), &encode(&image))?;
        self.state.install(&snapshot).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.meta = meta.clone();
        self.since_snapshot.store(0, Ordering::Relaxed);
        self.tell_applied();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(bytes) = self.snapshots.load(self.state.id())? else {
            self.covers_the_purged(None)?;
            return Ok(None);
        };
        let image: Image = postcard::from_bytes(&bytes).map_err(|_| {
            let why = "the snapshot was written by another version of Lockstep";
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        self.covers_the_purged(image.meta.last_log_id)?;
        Ok(Some(Snapshot { meta: image.meta, snapshot: image.state }))
    }
}
