//! Feeds committed entries to a shard's state, and makes and takes snapshots of it.
//!
//! The state lives in memory: after a restart it is the last snapshot and the log behind it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, StreamExt};
use lockstep_core::names::ShardId;
use lockstep_core::{Epoch, Index, Pack};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::types::{Config, LogId, Payload, Replies, Snapshot, SnapshotMeta, StoredMembership, encode};
use crate::blocking;
use crate::log::due::Due;
use crate::state::{Frozen, State};
use crate::store::snapshots::{Arrived, Saved, Snapshots};

/// Others get their turn after so many bytes of log.
const TURN_BYTES: usize = 1024 * 1024;

/// The last applied entry's epoch and index.
pub(super) type Applied = (Epoch, Index);

/// A snapshot as openraft hands it around: never its bytes.
pub(super) enum Data {
    /// This node's own, on its disk.
    Saved(Arc<Saved>),
    /// Come from another member, and not this node's yet.
    Arrived(Box<Arrived>),
}

/// One shard's state as openraft drives it.
pub(super) struct Machine {
    state: Arc<State>,
    snapshots: Snapshots,
    meta: SnapshotMeta,
    applied: watch::Sender<Applied>,
    due: Arc<Due>,
    current: Arc<Current>,
}

/// The snapshot that is on this node's disk.
#[derive(Default)]
struct Current(Mutex<Option<(SnapshotMeta, Arc<Saved>)>>);

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<(SnapshotMeta, Arc<Saved>)>> {
        self.0.lock().expect("nothing panics while it holds this")
    }

    fn get(&self) -> Option<Snapshot> {
        let current = self.lock();
        current
            .as_ref()
            .map(|(meta, saved)| Snapshot { meta: meta.clone(), snapshot: Data::Saved(Arc::clone(saved)) })
    }
}

impl Machine {
    /// A state as the last snapshot knew it; openraft feeds it the log behind that.
    pub(super) async fn open(
        state: Arc<State>,
        snapshots: Snapshots,
        applied: watch::Sender<Applied>,
        due: Arc<Due>,
        purged: Option<LogId>,
    ) -> io::Result<Self> {
        let read = {
            let (snapshots, shard) = (snapshots.clone(), state.id());
            move || snapshots.load(shard)
        };
        let loaded = blocking::run(snapshots.is_memory(), read).await?;
        let meta = loaded.as_ref().map(|loaded| read_meta(&loaded.meta)).transpose()?;
        covers_the_purged(state.id(), meta.as_ref().and_then(|meta| meta.last_log_id), purged)?;
        let take = {
            let (state, snapshots) = (Arc::clone(&state), snapshots.clone());
            move || state.load(loaded, &snapshots)
        };
        let saved = blocking::run(snapshots.is_memory(), take).await?;
        let nothing = SnapshotMeta::default();
        let mut machine = Self { state, snapshots, meta: nothing, applied, due, current: Arc::default() };
        if let (Some(meta), Some(saved)) = (meta, saved) {
            machine.stands_on(&meta, saved);
        }
        Ok(machine)
    }

    fn stands_on(&mut self, meta: &SnapshotMeta, saved: Saved) {
        self.due.frozen();
        self.due.saved(saved.core_bytes(), self.state.garbage());
        *self.current.lock() = Some((meta.clone(), Arc::new(saved)));
        self.meta = meta.clone();
        self.tell_applied();
    }

    pub(super) fn apply_one(
        &mut self,
        id: LogId,
        payload: EntryPayload<Payload, u64, openraft::impls::EmptyNode>,
    ) -> io::Result<Replies> {
        let (index, epoch) = (Index(id.index), Epoch(id.leader_id.term));
        self.meta.last_log_id = Some(id);
        let replies = match payload {
            EntryPayload::Normal(Payload(bytes)) => {
                self.due.applied(bytes.len());
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

    /// The last entry that has been applied.
    pub(super) fn last(&self) -> Option<LogId> {
        self.meta.last_log_id
    }

    fn tell_applied(&self) {
        if let Some(id) = &self.meta.last_log_id {
            self.applied.send_replace((Epoch(id.leader_id.term), Index(id.index)));
        }
    }
}

fn read_meta(bytes: &[u8]) -> io::Result<SnapshotMeta> {
    postcard::from_bytes(bytes).map_err(|_| {
        let why = "the snapshot was written by another version of Lockstep";
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// Refuses a snapshot that leaves a hole before the log. openraft would go on from an empty state.
fn covers_the_purged(shard: ShardId, last: Option<LogId>, purged: Option<LogId>) -> io::Result<()> {
    if last >= purged {
        return Ok(());
    }
    let why = format!(
        "the snapshot of shard {shard} is missing or older than the log behind it. Restore this node's data \
         directory from a copy, or remove the node from the cluster and join under a new id"
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// A state of one moment, to be kept.
pub(super) struct Builder {
    state: Arc<State>,
    snapshots: Snapshots,
    meta: SnapshotMeta,
    frozen: Option<Frozen>,
    due: Arc<Due>,
    current: Arc<Current>,
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let frozen = self.frozen.take().ok_or_else(|| io::Error::other("one builder makes one snapshot"))?;
        let (state, snapshots, meta) = (Arc::clone(&self.state), self.snapshots.clone(), encode(&self.meta));
        let save = move || state.save(frozen, meta, &snapshots);
        if let Some(saved) = blocking::run(self.snapshots.is_memory(), save).await? {
            self.due.saved(saved.core_bytes(), self.state.garbage());
            *self.current.lock() = Some((self.meta.clone(), Arc::new(saved)));
        }
        // Otherwise a newer one has arrived meanwhile: that is as good.
        self.current.get().ok_or_else(|| io::Error::other("there is no snapshot"))
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = Data;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.meta.last_log_id, self.meta.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        let mut turn = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(Payload(bytes)) = &entry.payload {
                turn += bytes.len();
            }
            let replies = self.apply_one(entry.log_id, entry.payload)?;
            self.tell_applied();
            if let Some(responder) = responder {
                responder.send(replies);
            }
            if turn > TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.due.frozen();
        Builder {
            state: Arc::clone(&self.state),
            snapshots: self.snapshots.clone(),
            meta: self.meta.clone(),
            frozen: Some(self.state.freeze()),
            due: Arc::clone(&self.due),
            current: Arc::clone(&self.current),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Data) -> Result<(), io::Error> {
        // This node's own is what its state stands on already.
        let Data::Arrived(arrived) = data else { return Ok(()) };
        // Durable when this returns: openraft purges the log behind it then.
        let (state, snapshots) = (Arc::clone(&self.state), self.snapshots.clone());
        let take = move || state.take(*arrived, &snapshots);
        let saved = blocking::run(self.snapshots.is_memory(), take).await?;
        self.stands_on(meta, saved);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.current.get())
    }
}
