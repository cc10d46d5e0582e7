//! One shard's log: the newest entries in memory, all of them in the node's write-ahead log.
//!
//! Appends return at once; openraft hears of it when they are durable. Memory is bounded: older
//! entries are read back from disk for whoever lags.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream::{self, Stream};
use lockstep_core::names::ShardId;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::types::{Config, Entry, LogId, Vote, encode};
use crate::blocking;
use crate::store::wal::{Record, Recovered, Wal};

/// Bytes of entries that go to a follower in one message, roughly.
const SEND_BYTES: usize = 4 * 1024 * 1024;
/// One shard's log. Clones share it.
#[derive(Clone)]
pub(super) struct Storage {
    shard: ShardId,
    wal: Wal,
    /// Bytes of durable entries that stay in memory: followers that keep up are served from them.
    recent_bytes: usize,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without a gap up to the last.
    recent: BTreeMap<u64, (Entry, usize)>,
    recent_bytes: usize,
    /// Entries up to this one can be read from disk.
    durable: u64,
}

impl Storage {
    /// What the write-ahead log recovered of this shard. A log with a hole in it is refused.
    pub(super) fn open(shard: ShardId, wal: Wal, recent_bytes: usize) -> io::Result<Self> {
        let recovered = wal.take_recovered(shard);
        let last = match recovered.entries.last_key_value() {
            Some((last, ())) => wal.read(shard, *last, last + 1, 1)?.pop(),
            None => None,
        };
        let log = Log::read(&recovered, last).map_err(|error| damaged(shard, error))?;
        if let Some(index) = log.missing(&recovered) {
            let why = format!(
                "entry {index} of the log of shard {shard} is missing, and later ones are there. Restore this node's \
                 data directory from a copy, or remove the node from the cluster and join under a new id"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self { shard, wal, recent_bytes, log: Arc::new(Mutex::new(log)) })
    }

    /// Whether this node has ever taken part in the shard.
    pub(super) fn is_formed(&self) -> bool {
        self.lock().last.is_some()
    }

    /// The oldest entry that is in memory: the log should be kept from there on, for followers that
    /// lag a little.
    pub(super) fn oldest_in_memory(&self) -> Option<u64> {
        self.lock().recent.first_key_value().map(|(first, _)| *first)
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<LogId> {
        self.lock().last
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

    /// Entries from `from` on and before `to` until they have `bytes_max` bytes; at least one, if
    /// there is one.
    pub(super) async fn some(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let oldest = {
            let log = self.lock();
            match log.recent.first_key_value().map(|(first, _)| *first) {
                Some(first) if first <= from => return Ok(log.some(from, to, bytes_max)),
                first => first.unwrap_or(u64::MAX),
            }
        };
        let (wal, shard) = (self.wal.clone(), self.shard);
        let read = move || wal.read(shard, from, to.min(oldest), bytes_max);
        let read = blocking::run(self.wal.is_memory(), read).await?;
        let entry = |(_, bytes): (u64, Bytes)| postcard::from_bytes(&bytes);
        read.into_iter().map(entry).collect::<Result<_, _>>().map_err(|error| damaged(self.shard, error))
    }

    /// All entries of a range.
    async fn all(&self, mut from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let mut all = Vec::new();
        loop {
            let some = self.some(from, to, SEND_BYTES).await?;
            let Some(last) = some.last() else { return Ok(all) };
            from = last.index() + 1;
            all.extend(some);
        }
    }
}

fn damaged(shard: ShardId, error: postcard::Error) -> io::Error {
    let why = format!("the log of shard {shard} was written by another version of Lockstep: {error}");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl Log {
    fn read(recovered: &Recovered, last: Option<(u64, Bytes)>) -> Result<Self, postcard::Error> {
        let vote = recovered.vote.as_ref().map(|bytes| postcard::from_bytes(bytes)).transpose()?;
        let purged = recovered.purged.as_ref().map(|(_, bytes)| postcard::from_bytes(bytes)).transpose()?;
        let last = last.map(|(_, bytes)| postcard::from_bytes::<Entry>(&bytes)).transpose()?;
        let last = last.map(|entry| entry.log_id()).or(purged);
        let durable = last.map_or(0, |last| last.index);
        Ok(Self { vote, purged, last, durable, ..Self::default() })
    }

    fn some(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let some = self.recent.range(from..to).take_while(|(_, (_, size))| {
            let first = bytes == 0;
            bytes += size;
            first || bytes <= bytes_max
        });
        some.map(|(_, (entry, _))| entry.clone()).collect()
    }

    fn push(&mut self, entry: Entry, bytes: usize) {
        let id = entry.log_id();
        self.last = Some(id);
        self.recent_bytes += bytes;
        self.recent.insert(id.index, (entry, bytes));
    }

    /// Entries up to `index` are on disk: as many leave memory as it takes to stay within bounds.
    fn is_durable(&mut self, index: u64, recent_bytes: usize) {
        self.durable = self.durable.max(index);
        while self.recent_bytes > recent_bytes {
            let Some(first) = self.recent.first_entry().filter(|first| *first.key() <= self.durable) else {
                return;
            };
            self.recent_bytes -= first.remove().1;
        }
    }

    fn keep(&mut self, kept: BTreeMap<u64, (Entry, usize)>) {
        self.recent_bytes = kept.values().map(|(_, bytes)| bytes).sum();
        self.recent = kept;
    }

    /// The first index that should be there and is not.
    fn missing(&self, recovered: &Recovered) -> Option<u64> {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        (first..).zip(recovered.entries.keys()).find(|(due, index)| due != *index).map(|(due, _)| due)
    }
}

impl RaftLogReader<Config> for Storage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.all(from, to).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let storage = self.clone();
        let parts = stream::try_unfold((storage, from), move |(storage, from)| async move {
            let some = storage.some(from, to, SEND_BYTES).await?;
            let next = some.last().map(|last| last.index() + 1);
            Ok::<_, io::Error>(next.map(|next| (stream::iter(some.into_iter().map(Ok)), (storage, next))))
        });
        Box::pin(futures::TryStreamExt::try_flatten(parts))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.some(start, end, SEND_BYTES).await
    }
}

impl RaftLogStorage<Config> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let log = self.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
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
            let index = entry.index();
            log.push(entry, bytes.len());
            records.push(Record::Entry(index, bytes));
        }
        let last = log.last.map_or(0, |last| last.index);
        drop(log);
        let (log, recent_bytes) = (Arc::clone(&self.log), self.recent_bytes);
        let done = move || {
            log.lock().expect("nothing panics while it holds this").is_durable(last, recent_bytes);
            callback.io_completed(Ok(()));
        };
        self.wal.append(self.shard, records, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut log = self.lock();
            let mut kept = std::mem::take(&mut log.recent);
            kept.split_off(&from);
            log.keep(kept);
            log.last = last.or(log.purged);
            log.durable = log.durable.min(from.saturating_sub(1));
        }
        self.write(vec![Record::Truncate(from)]).await?;
        // Callbacks of entries that are gone may have come meanwhile.
        let mut log = self.lock();
        log.durable = log.durable.min(from.saturating_sub(1));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut log = self.lock();
            let kept = log.recent.split_off(&(upto.index + 1));
            log.keep(kept);
            log.purged = Some(upto);
            if log.last.is_none_or(|last| last.index < upto.index) {
                log.last = Some(upto);
            }
        }
        self.write(vec![Record::Purge(upto.index, encode(&upto))]).await
    }
}
