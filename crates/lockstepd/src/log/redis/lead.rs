//! Leading: stands by one append that is election and fence at once, then appends packs one by one.
//!
//! Whenever an append is not certainly in, this node stops leading; but one that was refused for want of
//! memory is certainly not in. How an entry is sent is told in `append.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lockstep_core::names::NodeId;
use lockstep_core::{Command, Index, Pack};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Fault;
use super::append::Fate;
use super::driver::{Driver, End, Order};
use super::entry::{Author, Content, Entry, Position};
use super::link::Failed;
use super::write::{Writer, Written};
use super::{room, snapshot};
use crate::clock::unix_millis;
use crate::log::ProposeError;
use crate::log::pack::{Caller, Waiting, answer, brings_bodies, fail, gather, sleep, until_tick};

/// The longest that a node waits before it stands, for the clock to reach the next epoch.
const AHEAD_MS_MAX: u64 = 1_000;
/// After a snapshot could not be written, or room was made.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(5);
/// A stream of many small entries takes long to read, however few bytes they are.
const SNAPSHOT_ENTRIES: u64 = 200_000;
/// After an append was refused for want of memory, how long until another is tried although nobody asks for
/// one: what is due stays due.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A snapshot that is being written, or room that is being made.
type Snapshot = JoinHandle<(Index, Result<Written, Failed>)>;

impl Driver {
    /// Tries to begin a reign, and leads for as long as it lasts.
    pub(super) async fn stand_and_lead(&mut self) -> Result<End, Fault> {
        let author = Author::new(self.node);
        // Reigns that follow each other quickly must not run ahead of the clock, or one that is lost could be
        // begun again. A clock that is far behind decides nothing.
        let ahead = ((self.tail.epoch.0 + 1) * 1000).saturating_sub(unix_millis());
        if (1..=AHEAD_MS_MAX).contains(&ahead) {
            tokio::time::sleep(Duration::from_millis(ahead)).await;
        }
        let at = self.tail.reign(unix_millis() / 1000);
        match self.append(at, &author, Content::Reign, 0).await {
            Fate::Done => {}
            Fate::Elsewhere(last) => return self.moved_on(&last).map(|()| End::Follow),
            Fate::Refused(why) | Fate::Unknown(why) => return Err(Fault::away(Failed::Not(why))),
            Fate::Full => return Err(Fault::Away("Redis has no memory left".into())),
        }
        self.apply(Entry { at, author: author.clone(), content: Content::Reign })?;
        // The snapshots of this reign build on the latest one, which nobody else can replace any more.
        // One that was replaced while it was read: whoever did that leads.
        if !self.adopt().await? {
            return Ok(End::Follow);
        }
        self.must_be_whole().await?;
        if self.adopted == Index(0) {
            // What a shard is told once, at its creation, is kept in snapshots: so there must be one soon.
            self.entries = SNAPSHOT_ENTRIES;
        }
        self.tell(|status| {
            status.leader = Some(self.node);
            status.leading = true;
            status.away = None;
        });
        let ended = self.lead(&author).await;
        self.tell(|status| {
            status.leading = false;
            status.leader = None;
        });
        self.turn_away();
        ended
    }

    async fn lead(&mut self, author: &Author) -> Result<End, Fault> {
        self.refused = false;
        let mut snapshot: Option<Snapshot> = None;
        let mut not_before = Instant::now();
        let chunks = Arc::new(AtomicU64::new(0));
        let mut tidy = true;
        let mut looked = self.room.look(&mut self.link, None).await.unwrap_or_else(|_| Instant::now());
        loop {
            // Whatever is wrong, the next append finds out.
            let before = looked;
            looked = self.room.look(&mut self.link, Some(looked)).await.unwrap_or_else(|_| Instant::now());
            if looked != before {
                // It counts every chunk: not for each pack.
                self.garbage = self.state.garbage();
            }
            let least = if self.refused { REFUSED_PAUSE } else { Duration::ZERO };
            let due = until_tick(&self.state, &mut self.log_time, self.tail.epoch, least);
            let tick = due.unwrap_or(self.settings.heartbeat).min(self.settings.heartbeat);
            let ended = tokio::select! {
                biased;
                Some(order) = self.orders.recv() => match order {
                    Order::HandOver(to) if to != self.node => self.hand_over(author, to).await?,
                    Order::HandOver(_) | Order::Stand => None,
                    Order::Fail(why) => return Err(Fault::Broken(why)),
                    Order::Stop => Some(End::Stop),
                },
                written = finished(&mut snapshot) => {
                    not_before = Instant::now() + pause_after(&written);
                    self.snapshot_done(author, written).await?
                }
                Some(first) = self.commands.recv() => {
                    // Whoever is about to propose in this turn joins the pack.
                    tokio::task::yield_now().await;
                    let pack = gather(first, &mut self.commands, self.settings.pack_bytes);
                    self.propose(author, pack).await?
                }
                () = sleep(Some(tick)) => self.propose(author, Vec::new()).await?,
            };
            if let Some(end) = ended {
                return Ok(end);
            }
            if snapshot.is_some() || Instant::now() < not_before {
                continue;
            }
            if std::mem::take(&mut self.out_of_memory) {
                snapshot = Some(self.make_room(Arc::clone(&chunks)));
            } else if self.snapshot_is_due()
                && let Some(turn) = self.turn()
            {
                // After a former leader, or a writer that failed, or where every byte counts.
                let tidy = std::mem::replace(&mut tidy, false) || self.again || self.room.is_short();
                snapshot = Some(self.begin_snapshot(Arc::clone(&chunks), tidy, turn));
            }
        }
    }

    /// Appends one pack and answers everybody in it.
    async fn propose(&mut self, author: &Author, waiting: Vec<Waiting>) -> Result<Option<End>, Fault> {
        let (commands, callers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let (last, max_step) = self.state.read(|shard| (shard.now(), shard.max_step()));
        let now = self.log_time.stamp(self.tail.epoch, last, max_step);
        let percent = if commands.iter().any(|command| self.is_new_and_large(command)) {
            self.room.percent_max()
        } else {
            0
        };
        let pack = Pack { now, settings: self.state.settings_due(), commands };
        let (at, content) = (self.tail.next(), Content::Pack(pack.encode()));
        match self.append(at, author, content.clone(), percent).await {
            Fate::Full => {
                self.room.set_full(true);
                let small = self.without_large(pack.commands.into_iter().zip(callers).collect());
                if small.is_empty() { Ok(None) } else { Box::pin(self.propose(author, small)).await }
            }
            fate => self.settle(at, author, content, callers, fate),
        }
    }

    /// What of it may be appended although Redis' memory is nearly full; the rest is answered.
    fn without_large(&self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let (large, small): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(command, _)| self.is_new_and_large(command));
        fail(large.into_iter().map(|(_, caller)| caller).collect(), &ProposeError::StorageFull);
        small
    }

    /// What was done once is only answered again.
    fn is_new_and_large(&self, command: &Command) -> bool {
        brings_bodies(&command.op) && !self.state.read(|shard| shard.knows(&command.request))
    }

    /// Names another member to lead next, and ends this reign; that goes on if there is no memory even for that.
    async fn hand_over(&mut self, author: &Author, to: NodeId) -> Result<Option<End>, Fault> {
        let (at, content) = (self.tail.next(), Content::HandOver(to));
        let fate = self.append(at, author, content.clone(), 0).await;
        let named = matches!(fate, Fate::Done);
        let ended = self.settle(at, author, content, Vec::new(), fate)?;
        Ok(ended.or(named.then_some(End::Follow)))
    }

    /// What follows from the fate of an append.
    fn settle(
        &mut self,
        at: Position,
        author: &Author,
        content: Content,
        callers: Vec<Caller>,
        fate: Fate,
    ) -> Result<Option<End>, Fault> {
        match fate {
            Fate::Done => {
                let replies = self.apply(Entry { at, author: author.clone(), content })?;
                self.refused = false;
                self.tell(|status| status.away = None);
                answer(callers, at.index, replies);
                Ok(None)
            }
            Fate::Elsewhere(last) => {
                fail(callers, &ProposeError::NotLeader { hint: None });
                self.moved_on(&last).map(|()| Some(End::Follow))
            }
            Fate::Refused(why) if room::is_out_of_memory(&why) => {
                // Standing again would need memory too. This reign goes on as soon as there is some.
                fail(callers, &ProposeError::Away);
                self.tell(|status| status.away = Some(why.as_str().into()));
                (self.out_of_memory, self.refused) = (true, true);
                // Nobody can renew meanwhile.
                self.log_time.forget();
                Ok(None)
            }
            Fate::Refused(why) => {
                fail(callers, &ProposeError::Away);
                Err(Fault::away(Failed::Not(why)))
            }
            Fate::Full => {
                fail(callers, &ProposeError::StorageFull);
                Ok(None)
            }
            Fate::Unknown(why) => {
                fail(callers, &ProposeError::Unknown);
                Err(Fault::Away(why))
            }
        }
    }

    /// Answers whoever still waits for a pack of a reign that is over.
    fn turn_away(&mut self) {
        while let Ok((_, caller)) = self.commands.try_recv() {
            let _ = caller.send(Err(ProposeError::NotLeader { hint: None }));
        }
    }

    fn snapshot_is_due(&self) -> bool {
        // One that failed is never written again under the same name.
        if self.tail.index <= self.attempted {
            return false;
        }
        let log_bytes = self.room.log_bytes(self.settings.snapshot_bytes);
        let pinned = self.entries >= SNAPSHOT_ENTRIES || self.again;
        let full = self.room.is_full();
        self.due.is(log_bytes, self.garbage, pinned, full)
            || self.room.most_log().is_some_and(|most| self.due.log_bytes() >= most)
    }

    /// Leave to write a snapshot now: while memory is short, one of all this node's shards has it.
    pub(super) fn turn(&self) -> Option<Option<OwnedSemaphorePermit>> {
        if !self.room.is_short() {
            return Some(None);
        }
        Arc::clone(&self.turns).try_acquire_owned().ok().map(Some)
    }

    fn writer(&self, chunks: Arc<AtomicU64>) -> Writer {
        Writer { link: self.link.another(), keys: self.keys.clone(), by: self.tail.epoch, chunks }
    }

    fn begin_snapshot(
        &mut self,
        chunks: Arc<AtomicU64>,
        tidy: bool,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Snapshot {
        let at = self.tail;
        let frozen = self.state.freeze();
        let writer = self.writer(chunks);
        self.due.frozen();
        (self.entries, self.again, self.attempted) = (0, false, at.index);
        tokio::spawn(async move {
            let written = writer.write(at, frozen, tidy).await;
            drop(turn);
            (at.index, written)
        })
    }

    /// Gives back what can be given back without writing anything. It takes the place of a snapshot, whose
    /// pieces it would take away.
    fn make_room(&self, chunks: Arc<AtomicU64>) -> Snapshot {
        let needed = self.state.kept_elsewhere().into_iter().map(|(number, _)| number).collect();
        let (mut writer, shard) = (self.writer(chunks), self.shard.0);
        tokio::spawn(async move {
            match writer.tidy(needed).await {
                Ok(true) => {
                    tracing::warn!(shard, "Redis has no memory left: the last snapshot but one is gone");
                }
                Ok(false) => {}
                Err(failed) => {
                    let why = failed.why();
                    tracing::warn!(shard, why, "cannot make room in the memory of Redis");
                }
            }
            (Index(0), Ok(Written::Nothing))
        })
    }

    /// Everybody learns of a new snapshot.
    async fn snapshot_done(
        &mut self,
        author: &Author,
        (index, written): (Index, Result<Written, Failed>),
    ) -> Result<Option<End>, Fault> {
        match written {
            Ok(Written::Done { bodies, core_bytes }) => {
                self.refer_to(index, &bodies)?;
                self.garbage = self.state.garbage();
                self.due.saved(core_bytes, self.garbage);
                tracing::debug!(shard = self.shard.0, %index, core_bytes, "snapshot");
                let at = self.tail.next();
                let fate = self.append(at, author, Content::Stored, 0).await;
                self.settle(at, author, Content::Stored, Vec::new(), fate)
            }
            Ok(Written::Superseded | Written::Nothing) => Ok(None),
            Ok(Written::Without(key)) => Err(snapshot::damaged(&self.keys, &key)),
            // It may count: whoever leads next looks, and refers to its chunks.
            Err(failed @ Failed::Maybe(_)) => {
                tracing::warn!(
                    shard = self.shard.0,
                    why = failed.why(),
                    "a snapshot may have been written to Redis"
                );
                self.again = true;
                Ok(Some(End::Follow))
            }
            Err(failed) => {
                tracing::warn!(shard = self.shard.0, why = failed.why(), "cannot write a snapshot to Redis");
                self.again = true;
                Ok(None)
            }
        }
    }
}

fn pause_after((_, written): &(Index, Result<Written, Failed>)) -> Duration {
    if matches!(written, Ok(Written::Done { .. } | Written::Superseded)) {
        Duration::ZERO
    } else {
        SNAPSHOT_PAUSE
    }
}

/// The end of a snapshot that is being written; never, if none is.
async fn finished(snapshot: &mut Option<Snapshot>) -> (Index, Result<Written, Failed>) {
    let Some(running) = snapshot else { return std::future::pending().await };
    let written = running.await.unwrap_or_else(|error| (Index(0), Err(Failed::Maybe(error.to_string()))));
    *snapshot = None;
    written
}
