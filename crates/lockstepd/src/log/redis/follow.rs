//! Following: reads the stream behind the last applied entry, and believes nothing that does not fit.
//!
//! Entries are the leader's heartbeats. It never writes.

use std::time::Duration;

use lockstep_core::Index;
use rand::RngExt;
use redis::Value;
use tokio::time::Instant;

use super::chunks::{self, Whole};
use super::driver::{Driver, End, Order};
use super::entry::{Content, Entry, parse_id};
use super::keys::Keys;
use super::link::Link;
use super::{Fault, snapshot};
use crate::log::ProposeError;
use crate::store::bodies::Manifest;

/// Entries in one read, at most.
pub(super) const READ: u32 = 256;
/// How often somebody who only wants to know what is there asks again.
const READS_MAX: u32 = 8;
/// A stream that never had an entry waits for nobody: its first reign may begin almost at once.
const FIRST: Duration = Duration::from_millis(200);
/// One read waits at most this long, so that a lost tail is noticed while nobody writes.
const LOOK: Duration = Duration::from_millis(1_000);

/// Between two reads: while a leader writes all the time, one that fetched each entry by itself would cost
/// Redis and this node more than leading does. Nobody waits for followers.
const REST: Duration = Duration::from_millis(10);

/// What a follower waits for.
pub(super) enum Next {
    /// None, if nobody wrote.
    Entries(Vec<Entry>),
    Ordered(End),
}

impl Driver {
    /// Follows until nobody has written for an election time-out, or the leader names this node.
    pub(super) async fn follow(&mut self) -> Result<End, Fault> {
        if self.tail.index.0 == 0 {
            self.load().await?;
        }
        let mut patience = self.patience();
        let mut heard = Instant::now();
        self.must_be_there().await?;
        let mut rest = Duration::ZERO;
        loop {
            let left = patience.saturating_sub(heard.elapsed());
            if left.is_zero() {
                return Ok(End::Stand);
            }
            let asked = self.read_at_once;
            let entries = match self.next(rest, left.min(LOOK)).await? {
                Next::Entries(entries) => entries,
                Next::Ordered(end) => return Ok(end),
            };
            if entries.is_empty() {
                self.must_be_there().await?;
                rest = Duration::ZERO;
                continue;
            }
            heard = Instant::now();
            // One that lags behind catches up first.
            rest = if entries.len() < asked as usize { REST } else { Duration::ZERO };
            let first = self.tail.index.0 == 0;
            if self.take(entries).await? {
                return Ok(End::Stand);
            }
            if first {
                // Somebody leads: from now on only a silence of full length counts.
                patience = self.patience();
            }
        }
    }

    /// Reads to the end of the stream, for whoever only wants to know what is there.
    pub(super) async fn catch_up(&mut self) -> Result<(), Fault> {
        self.load().await?;
        let mut slow = 0;
        loop {
            match self.next(Duration::ZERO, Duration::from_millis(1)).await {
                Ok(Next::Entries(entries)) if !entries.is_empty() => self.take(entries).await.map(drop)?,
                // An end that is not where the snapshot says has lost something.
                Ok(Next::Entries(_) | Next::Ordered(_)) => return self.must_be_there().await,
                // Again, with fewer entries.
                Err(Fault::Away(_)) if slow < READS_MAX => slow += 1,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// After a `rest`, waits for entries at most `wait`; turns away whoever comes meanwhile.
    pub(super) async fn next(&mut self, rest: Duration, wait: Duration) -> Result<Next, Fault> {
        let (reader, keys, after, count) = (&mut self.reader, &self.keys, self.tail.id(), self.read_at_once);
        let read = async {
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            read(reader, keys, after, wait, count).await
        };
        tokio::pin!(read);
        loop {
            tokio::select! {
                biased;
                entries = &mut read => {
                    // What takes too long is asked for in smaller parts.
                    self.read_at_once = match &entries {
                        Ok(_) => (count * 2).min(READ),
                        Err(_) => (count / 4).max(1),
                    };
                    return entries.map(Next::Entries);
                }
                Some((_, caller)) = self.commands.recv() => {
                    let hint = self.status.borrow().leader;
                    let _ = caller.send(Err(ProposeError::NotLeader { hint }));
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Stop => return Ok(Next::Ordered(End::Stop)),
                    Order::Stand => return Ok(Next::Ordered(End::Stand)),
                    Order::Fail(why) => return Err(Fault::Broken(why)),
                    Order::HandOver(_) => {}
                },
            }
        }
    }

    /// Applies what was read. Says whether this node was named to lead next.
    async fn take(&mut self, entries: Vec<Entry>) -> Result<bool, Fault> {
        let (mut heir, mut stored) = (None, false);
        for entry in entries {
            if !self.fits(&entry).await? {
                // What was between is in a snapshot, which has been loaded; read on behind it.
                return Ok(false);
            }
            heir = match &entry.content {
                Content::HandOver(to) => Some(*to),
                Content::Reign | Content::Pack(_) | Content::Stored => None,
            };
            stored |= entry.content == Content::Stored;
            self.apply(entry)?;
        }
        let leader = self.author.as_ref().map(|author| author.node);
        self.tell(|status| {
            status.leader = if heir.is_some() { None } else { leader.filter(|leader| *leader != self.node) };
            status.away = None;
        });
        if stored {
            self.adopt().await?;
        }
        Ok(heir == Some(self.node))
    }

    /// Refers to the chunks of the latest snapshot from now on, instead of keeping their bodies. `false`: a
    /// newer one may have taken its place.
    pub(super) async fn adopt(&mut self) -> Result<bool, Fault> {
        let Some(pointer) = snapshot::pointer(&mut self.link, &self.keys).await? else {
            return if self.adopted == Index(0) { Ok(true) } else { Err(snapshot::vanished(&self.keys)) };
        };
        // One from behind what has been applied here says nothing of what is needed here.
        if pointer.at.index <= self.adopted || pointer.at.index > self.tail.index {
            return Ok(true);
        }
        match snapshot::bodies(&mut self.link, &self.keys, &pointer).await.map_err(Fault::away)? {
            Some(bodies) => self.refer_to(pointer.at.index, &bodies).map(|()| true),
            None => {
                // For a follower: another entry tells of the newer one.
                let pieces = self.keys.pieces(&pointer);
                snapshot::replaced(&mut self.link, &self.keys, pointer, &pieces).await.map(|_| false)
            }
        }
    }

    /// Every chunk that the state refers to must be there, while this node leads.
    pub(super) async fn must_be_whole(&mut self) -> Result<(), Fault> {
        let (files, by) = (self.state.kept_elsewhere(), self.tail.epoch);
        match chunks::whole(&mut self.link, &self.keys, Some(by), &files).await.map_err(Fault::away)? {
            Whole::Without(key) => Err(snapshot::damaged(&self.keys, &key)),
            // Who is deposed finds out at the next append.
            Whole::Yes | Whole::Deposed => Ok(()),
        }
    }

    /// Refers to these chunks, which a snapshot at `index` names.
    pub(super) fn refer_to(&mut self, index: Index, bodies: &Manifest) -> Result<(), Fault> {
        self.state.adopt(bodies).map_err(|error| {
            Fault::Broken(format!("the snapshot at index {index} of {}: {error}", self.keys.log()))
        })?;
        self.adopted = index;
        Ok(())
    }

    /// Whether an entry is the next one. If it lies further on, loads the snapshot that must explain it.
    async fn fits(&mut self, entry: &Entry) -> Result<bool, Fault> {
        let (at, tail) = (entry.at, self.tail);
        if at.index.0 == tail.index.0 + 1 && (tail.index.0 == 0 || tail.may_precede(at)) {
            return Ok(true);
        }
        if at.index.0 > tail.index.0 + 1 {
            let pointer = snapshot::pointer(&mut self.link, &self.keys).await?;
            if pointer.is_some_and(|pointer| pointer.at.index > tail.index) {
                self.load().await?;
                return Ok(false);
            }
            return Err(Fault::Broken(format!(
                "{} goes on with entry {} (index {}) where index {} should follow, and no snapshot holds what is \
                 between: somebody trimmed or deleted entries. Restore Redis from a backup, or import the last \
                 export; docs/stores.md has the permissions that prevent this",
                self.keys.log(),
                at.id(),
                at.index,
                tail.index.0 + 1,
            )));
        }
        Err(self.lost_tail(&format!("{} (index {})", at.id(), at.index)))
    }

    /// Takes the latest snapshot's state over.
    async fn load(&mut self) -> Result<(), Fault> {
        let mut link = self.link.another();
        let Some((at, core, bodies)) = snapshot::load(&mut link, &self.keys).await? else { return Ok(()) };
        self.state.restore(&core, &bodies).map_err(|error| {
            Fault::Broken(format!("the snapshot at index {} of {}: {error}", at.index, self.keys.log()))
        })?;
        (self.tail, self.adopted, self.entries) = (at, at.index, 0);
        self.due.frozen();
        self.due.saved(core.len() as u64, self.state.garbage());
        self.tell(|_| {});
        Ok(())
    }

    /// The stream must still reach as far as this node has read it.
    async fn must_be_there(&mut self) -> Result<(), Fault> {
        let mut look = redis::cmd("EVAL");
        look.arg(include_str!("last.lua")).arg(1).arg(self.keys.log());
        let last = match self.link.ask(&look).await.map_err(Fault::away)? {
            Value::Array(mut pair) => match pair.first_mut().map(std::mem::take) {
                Some(Value::BulkString(id)) => id,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        match parse_id(&last) {
            Some(last) if last >= (self.tail.epoch, self.tail.seq) => Ok(()),
            _ => Err(self.lost_tail(&String::from_utf8_lossy(&last))),
        }
    }

    /// What this node has applied is not in the stream any more.
    pub(super) fn lost_tail(&self, last: &str) -> Fault {
        let tail = self.tail;
        // A replica that was promoted too early still has something.
        if last.is_empty() || last == "0-0" {
            return self.gone();
        }
        Fault::Broken(format!(
            "{} ends at {last}, but this node has applied {} (index {}): Redis has lost acknowledged entries, or \
             somebody deleted them. Nothing was written since. If Redis can be brought back with all its data, do \
             that; otherwise start the nodes again: they go on from what Redis still has. docs/stores.md says \
             which settings prevent this",
            self.keys.log(),
            tail.id(),
            tail.index,
        ))
    }

    /// There was a stream, and nothing is left of it.
    pub(super) fn gone(&self) -> Fault {
        Fault::Broken(format!(
            "{} is gone or empty, although it has been there: somebody deleted it, or Redis has lost its data. \
             Restore Redis from a backup, or import the last export, before any node is started again: where \
             nothing at all is left in Redis, the nodes begin a new, empty cluster. To begin with nothing, use \
             another name in --store",
            self.keys.log(),
        ))
    }

    /// How long this node waits for a sign of a leader: drawn anew each time, so that two rarely stand at once.
    fn patience(&self) -> Duration {
        if self.tail.index.0 == 0 {
            return FIRST.mul_f64(rand::rng().random_range(0.1..1.0));
        }
        let (min, max) = (self.settings.election_min, self.settings.election_max);
        min + (max.saturating_sub(min)).mul_f64(rand::rng().random_range(0.0..1.0))
    }
}

/// Reads what follows `after`; waits up to `wait` if there is nothing yet.
async fn read(
    reader: &mut Link,
    keys: &Keys,
    after: String,
    wait: Duration,
    count: u32,
) -> Result<Vec<Entry>, Fault> {
    let ms = u64::try_from(wait.as_millis()).unwrap_or(1).max(1);
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(count).arg("BLOCK").arg(ms).arg("STREAMS").arg(keys.log()).arg(after);
    let value = reader.ask_within(&read, wait + LOOK).await.map_err(Fault::away)?;
    let entries = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => streams.into_iter().next(),
        _ => None,
    };
    let Some(Value::Array(mut stream)) = entries else { return Ok(Vec::new()) };
    let Some(Value::Array(entries)) = stream.pop() else { return Ok(Vec::new()) };
    let read = entries.into_iter().map(Entry::read).collect::<Result<Vec<_>, _>>();
    read.map_err(|id| foreign(keys, &id))
}

/// An entry that Lockstep did not write.
pub(super) fn foreign(keys: &Keys, id: &str) -> Fault {
    let log = keys.log();
    Fault::Broken(format!(
        "entry {id} of {log} was not written by Lockstep, and no leader can write behind it. Find out who wrote it, \
         take it out (XDEL {log} {id}), set the stream's last id back to that of the entry before it (XSETID), and \
         start the nodes again; docs/stores.md has the permissions that prevent this"
    ))
}
