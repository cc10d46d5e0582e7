//! One shard's part in its stream: reads and applies what others wrote, stands when nobody writes,
//! and holds what following and leading share.
//!
//! It alone changes the shard's state, so entries are applied in order whoever wrote them.

use std::sync::Arc;
use std::time::Duration;

use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::{Index, Pack, Reply};
use tokio::sync::{Semaphore, mpsc, watch};

use super::entry::{Author, Content, Entry, Position};
use super::follow::READ;
use super::keys::Keys;
use super::link::Link;
use super::room::Room;
use super::server::Server;
use super::{Fault, Settings};
use crate::clock::Clock;
use crate::log::due::Due;
use crate::log::pack::Waiting;
use crate::log::time::LogTime;
use crate::log::{ProposeError, Status};
use crate::state::State;

/// Between two attempts to reach a Redis that is away.
const RETRY: Duration = Duration::from_millis(100);

/// What a driver is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Let this member lead instead.
    HandOver(NodeId),
    /// Take over from whoever leads.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests depose leaders"))]
    Stand,
    /// Something that was acknowledged is gone for good, for this reason.
    Fail(String),
    /// Finish what is in flight, and end.
    Stop,
}

pub(super) struct Driver {
    pub(super) node: NodeId,
    pub(super) shard: ShardId,
    pub(super) settings: Settings,
    pub(super) keys: Keys,
    pub(super) state: Arc<State>,
    pub(super) status: watch::Sender<Status>,
    pub(super) commands: mpsc::Receiver<Waiting>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) log_time: LogTime,
    /// For appends and questions.
    pub(super) link: Link,
    /// For reads that Redis waits over.
    pub(super) reader: Link,
    /// The last entry that was applied here.
    pub(super) tail: Position,
    /// Who wrote it.
    pub(super) author: Option<Author>,
    /// When a snapshot is due.
    pub(super) due: Due,
    /// Entries applied since this node last knew of a snapshot.
    pub(super) entries: u64,
    /// Bytes of chunks that a snapshot would give back, at the last look.
    pub(super) garbage: u64,
    /// The last snapshot could not be written.
    pub(super) again: bool,
    /// The last entry in the snapshot whose chunks this node refers to.
    pub(super) adopted: Index,
    /// Whether Redis has memory for what is large.
    pub(super) room: Arc<Room>,
    /// Entries that one read asks for.
    pub(super) read_at_once: u32,
    /// The entry up to which a snapshot was last written, or tried.
    pub(super) attempted: Index,
    /// An append was refused for want of memory, and nothing has been given back since.
    pub(super) out_of_memory: bool,
    /// The last one was.
    pub(super) refused: bool,
    /// While memory is short, one snapshot of all this node's shards is written at a time.
    pub(super) turns: Arc<Semaphore>,
    /// The last applied index, for those who wait for just that.
    pub(super) applied: watch::Sender<Index>,
}

/// Why following or leading ended.
pub(super) enum End {
    /// Nobody leads: this node should stand.
    Stand,
    /// This node no longer leads.
    Follow,
    /// It was told to stop.
    Stop,
}

impl Driver {
    /// One that is asked instead of running: nobody can propose anything to it.
    pub(super) fn idle(server: &Arc<Server>, node: NodeId, shard: ShardId, state: Arc<State>) -> Self {
        let settings = Settings::default();
        let keys = Keys::new(&server.address().prefix(), shard);
        let link = Link::new(server, keys.log(), settings.election_max);
        Self {
            node,
            shard,
            settings,
            keys,
            state,
            status: watch::Sender::new(Status::default()),
            commands: mpsc::channel(1).1,
            orders: mpsc::channel(1).1,
            log_time: LogTime::new(Clock::boot()),
            reader: link.another(),
            link,
            tail: Position::default(),
            author: None,
            due: Due::new(super::LOG_PER_SNAPSHOT),
            entries: 0,
            garbage: 0,
            again: false,
            adopted: Index(0),
            room: Room::new(100),
            read_at_once: READ,
            attempted: Index(0),
            out_of_memory: false,
            refused: false,
            turns: Arc::new(Semaphore::new(1)),
            applied: watch::Sender::new(Index(0)),
        }
    }

    /// Runs until told to stop, or until the stream is not what it should be.
    pub(super) async fn run(mut self) {
        let mut next = End::Follow;
        loop {
            let ended = match next {
                End::Follow => self.follow().await,
                End::Stand => self.stand_and_lead().await,
                End::Stop => break,
            };
            next = match ended {
                Ok(end) => end,
                Err(Fault::Away(why)) => match self.away(why).await {
                    Ok(end) => end,
                    Err(why) => return self.fail(why),
                },
                Err(Fault::Broken(why)) => return self.fail(why),
            };
        }
        self.tell(|status| {
            status.leading = false;
            status.leader = None;
        });
    }

    /// Redis cannot be used for now: everybody who asks is told so, until it can. The error is for good.
    async fn away(&mut self, why: String) -> Result<End, String> {
        self.tell(|status| {
            status.leading = false;
            status.leader = None;
            status.away = Some(why.as_str().into());
        });
        let pause = tokio::time::sleep(RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(End::Follow),
                Some((_, caller)) = self.commands.recv() => {
                    let _ = caller.send(Err(ProposeError::Away));
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Stop => return Ok(End::Stop),
                    Order::Fail(why) => return Err(why),
                    Order::HandOver(_) | Order::Stand => {}
                },
            }
        }
    }

    /// Applies an entry. Answers the replies to the commands in it.
    pub(super) fn apply(&mut self, entry: Entry) -> Result<Vec<Reply>, Fault> {
        let Entry { at, author, content } = entry;
        let replies = match &content {
            Content::Pack(bytes) => {
                let pack = Pack::decode(bytes).map_err(|error| {
                    Fault::Broken(format!("entry {} of {}: {error}", at.id(), self.keys.log()))
                })?;
                self.due.applied(bytes.len());
                self.state.apply(at.index, at.epoch, &pack)
            }
            Content::Reign | Content::HandOver(_) | Content::Stored => {
                self.state.apply_blank(at.index, at.epoch);
                Vec::new()
            }
        };
        self.due.applied(64);
        self.entries += 1;
        self.tail = at;
        self.author = Some(author);
        Ok(replies)
    }

    /// Changes what others see of this shard here.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Status)) {
        let (mut was, mut is) = (false, false);
        // Thousands may wait for a change of leader: entry after entry is none.
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            status.epoch = self.tail.epoch;
            status.applied = self.tail.index;
            (was, is) = (before.leading, status.leading);
            !status.only_went_on(&before)
        });
        self.applied.send_replace(self.tail.index);
        let (shard, epoch) = (self.shard.0, self.tail.epoch.0);
        if was && !is {
            tracing::info!(shard, epoch, "no longer leading");
            self.state.waiters().wake_all();
        }
        if !was && is {
            tracing::info!(shard, epoch, "leading");
        }
    }

    fn fail(&mut self, why: String) {
        tracing::error!(shard = self.shard.0, "{why}");
        self.tell(|status| *status = Status { failed: Some(why), ..Status::default() });
    }
}
