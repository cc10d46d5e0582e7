//! The logs of a node that does not run: read to their end, or begun with a state from elsewhere.
//!
//! For moving a cluster. Which of several copies counts is decided by whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::{Index, Shard};
use openraft::Membership;
use openraft::entry::RaftEntry;
use openraft::impls::EmptyNode;
use openraft::vote::RaftLeaderId;
use tokio::sync::{oneshot, watch};

use super::machine::{Applied, Machine};
use super::storage::Storage;
use super::types::{LogId, SnapshotMeta, StoredMembership, Vote, encode};
use crate::log::due::Due;
use crate::state::State;
use crate::store::bodies::Image;
use crate::store::snapshots::{Out, Snapshots};
use crate::store::wal::{Record, Wal};

/// Bytes of log that are read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// One shard's log in a data directory.
pub struct Stored(Storage);

impl Stored {
    /// What the write-ahead log recovered of the shard. Errors: a hole in it.
    pub fn open(shard: ShardId, wal: Wal) -> io::Result<Self> {
        Storage::open(shard, wal, 0).map(Self)
    }

    /// How far it reaches: term and index of its last entry. Of the logs of a majority, the one that
    /// reaches furthest holds everything that was ever acknowledged.
    pub fn reach(&self) -> Option<(u64, u64)> {
        self.0.last().map(|last| (last.leader_id.term, last.index))
    }

    /// Brings an empty `state` to the end of the log.
    pub async fn replay(&self, state: Arc<State>, snapshots: &Snapshots) -> io::Result<()> {
        let (applied, _) = watch::channel(Applied::default());
        let due = Arc::new(Due::new(super::LOG_PER_SNAPSHOT));
        let mut machine = Machine::open(state, snapshots.clone(), applied, due, self.0.purged()).await?;
        loop {
            let next = machine.last().map_or(0, |last| last.index + 1);
            let entries = self.0.some(next, u64::MAX, READ_BYTES).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                machine.apply_one(entry.log_id(), entry.payload)?;
            }
        }
    }
}

/// How a shard begins that comes from elsewhere. The same at each of its voters.
pub struct Begin<'a> {
    /// Which.
    pub shard: ShardId,
    /// Who replicates it.
    pub voters: BTreeSet<NodeId>,
    /// Later than any of its history.
    pub term: u64,
    /// Its own bytes.
    pub core: &'a Bytes,
}

impl Begin<'_> {
    /// Makes it the shard's snapshot in a data directory, with `bodies`, and the log's beginning.
    pub async fn at(&self, wal: &Wal, snapshots: &Snapshots, bodies: Image) -> io::Result<()> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let index = Shard::restore(self.core).map_err(|error| invalid(error.to_string()))?.applied();
        let (meta, last) = self.meta(index).map_err(invalid)?;
        bodies.sync()?;
        let core = |out: &mut Out| out.put(self.core);
        let written = snapshots.write(self.shard, encode(&meta), &bodies, core)?;
        snapshots.activate(self.shard, written, bodies)?;
        let vote = Vote::new(self.term, last.leader_id.node_id);
        let records = vec![Record::Vote(encode(&vote)), Record::Purge(last.index, encode(&last))];
        let (done, durable) = oneshot::channel();
        wal.append(self.shard, records, Box::new(move || done.send(()).unwrap_or(())));
        durable.await.map_err(|_| io::Error::other("the write-ahead log has stopped"))
    }

    fn meta(&self, index: Index) -> Result<(SnapshotMeta, LogId), String> {
        let voters: BTreeSet<u64> = self.voters.iter().map(|node| node.0).collect();
        let first = voters.first().copied().ok_or("it has no voters")?;
        let leader = openraft::impls::leader_id_adv::LeaderId { term: self.term, node_id: first };
        let last = LogId::new(leader.to_committed(), index.0);
        let nodes: BTreeMap<u64, EmptyNode> = voters.iter().map(|id| (*id, EmptyNode {})).collect();
        let members = Membership::new(vec![voters], nodes).map_err(|error| error.to_string())?;
        let last_membership = StoredMembership::new(Some(last), members);
        Ok((SnapshotMeta { last_log_id: Some(last), last_membership }, last))
    }
}
