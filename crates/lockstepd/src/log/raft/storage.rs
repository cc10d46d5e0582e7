//! One shard's log: the entries in memory, every change of them in the node's write-ahead log.
//!
//! Appends return at once; openraft hears of it when they are durable. Entries stay in memory only
//! until a snapshot covers them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use lockstep_core::names::ShardId;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::types::{Config, Entry, LogId, Vote, encode};
use crate::store::wal::{Record, Recovered, Wal};

/// Bytes of entries that go to a follower in one message, roughly.
const SEND_BYTES: usize = 4 * 1024 * 1024;

/// One shard's log. Clones share it.
#[derive(Clone)]
pub(super) struct Storage {
    shard: ShardId,
    wal: Wal,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, (Entry, usize)>,
}

impl Storage {
    /// What the write-ahead log recovered of this shard. A log with a hole in it is refused.
    pub(super) fn open(shard: ShardId, wal: Wal) -> io::Result<Self> {
        let log = Log::read(wal.take_recovered(shard)).map_err(|error| {
            let why = format!("the log of shard {shard} was written by another version of Lockstep: {error}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        if let Some(index) = log.missing() {
            let why = format!(
                "entry {index} of the log of shard {shard} is missing, and later ones are there. Restore this node's \
                 data directory from a copy, or remove the node from the cluster and join under a new id"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self { shard, wal, log: Arc::new(Mutex::new(log)) })
    }

    /// Whether this node has ever taken part in the shard.
    pub(super) fn is_formed(&self) -> bool {
        let log = self.lock();
        log.purged.is_some() || !log.entries.is_empty()
    }

    /// The last entry that is only in a snapshot: without one that covers it, the state is lost.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.lock().purged
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("nothing panics while it holds this")
    }

    /// Writes records and waits until they are durable.
    async fn write(&self, records: Vec<Record>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.wal.append(self.shard, records, Box::new(move || done.send(()).unwrap_or(())));
        durable.await.map_err(|_| io::Error::other("the write-ahead log has stopped"))
    }
}

impl Log {
    fn read(recovered: Recovered) -> Result<Self, postcard::Error> {
        let vote = recovered.vote.map(|bytes| postcard::from_bytes(&bytes)).transpose()?;
        let purged = recovered.purged.map(|(_, bytes)| postcard::from_bytes(&bytes)).transpose()?;
        let read = |(index, bytes): (u64, bytes::Bytes)| {
            Ok::<_, postcard::Error>((index, (postcard::from_bytes(&bytes)?, bytes.len())))
        };
        let entries = recovered.entries.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { vote, purged, entries })
    }

    /// The first index that should be there and is not.
    fn missing(&self) -> Option<u64> {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        (first..).zip(self.entries.keys()).find(|(due, index)| due != *index).map(|(due, _)| due)
    }
}

impl RaftLogReader<Config> for Storage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.lock().entries.range(range).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let log = self.lock();
        let mut bytes = 0;
        let some = log.entries.range(start..end).take_while(|(_, (_, size))| {
            let first = bytes == 0;
            bytes += size;
            first || bytes <= SEND_BYTES
        });
        Ok(some.map(|(_, (entry, _))| entry.clone()).collect())
    }
}

impl RaftLogStorage<Config> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let log = self.lock();
        let last = log.entries.last_key_value().map(|(_, (entry, _))| entry.log_id());
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.lock().vote = Some(*vote);
        self.write(vec![Record::Vote(encode(vote))]).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut log = self.lock();
        for entry in entries {
            let bytes = encode(&entry);
            log.entries.insert(entry.log_id().index, (entry.clone(), bytes.len()));
            records.push(Record::Entry(entry.log_id().index, bytes));
        }
        drop(log);
        self.wal.append(self.shard, records, Box::new(move || callback.io_completed(Ok(()))));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.lock().entries.split_off(&from);
        self.write(vec![Record::Truncate(from)]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut log = self.lock();
            log.entries = log.entries.split_off(&(upto.index + 1));
            log.purged = Some(upto);
        }
        self.write(vec![Record::Purge(upto.index, encode(&upto))]).await
    }
}
