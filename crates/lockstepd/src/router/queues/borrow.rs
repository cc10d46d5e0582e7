//! A shard whose share of a queue's limits is used up gets room that other shards do not use.
//!
//! What is lent travels through the lender's outbox, exactly once; here somebody only asks for it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use lockstep_core::command::{NewMessage, QueueOp, Room};
use lockstep_core::names::{QueueName, ShardId};
use lockstep_core::query::QueueView;
use lockstep_core::{Op, Refusal, Reply};

use super::super::{Asked, Error, Router};

/// A queue that was full everywhere is not asked about again so soon.
const FULL_FOR: Duration = Duration::from_millis(250);
/// Queues that are remembered as full at once.
const FULL_MAX: usize = 1_024;
/// How long borrowing may take, all in all.
const PATIENCE: Duration = Duration::from_secs(3);

/// Queues that were full over all shards, and until when that is believed.
#[derive(Default)]
pub(in super::super) struct Borrowing(Mutex<BTreeMap<QueueName, Duration>>);

/// The room that messages take.
pub(super) fn need(messages: &[NewMessage]) -> Room {
    let bytes = messages.iter().map(|message| message.body.len() as u64).sum();
    Room { messages: messages.len() as u64, bytes }
}

impl Router {
    /// Does `work`, and once more with borrowed room where it was refused for want of it.
    pub(super) async fn with_borrowed_room<W: Future<Output = Result<Reply, Error>>>(
        &self,
        shard: ShardId,
        queue: &QueueName,
        need: Room,
        work: impl Fn() -> W,
    ) -> Result<Reply, Error> {
        let full = Err(Error::Refused(Refusal::QueueFull));
        let first = work().await;
        if first != full || self.borrowing.is_full(queue, self.clock.now()) {
            return first;
        }
        if self.borrow(shard, queue, need).await {
            return work().await;
        }
        self.borrowing.remember(queue, self.clock.now() + FULL_FOR);
        full
    }

    /// Says whether anything was lent and has arrived.
    async fn borrow(&self, shard: ShardId, queue: &QueueName, need: Room) -> bool {
        let views: Vec<_> = self.views(queue, PATIENCE).await.into_iter().flatten().collect();
        let Some((_, own)) = views.iter().find(|(at, _)| *at == shard) else { return false };
        let version = own.version;
        let mut wanted = lacking(need, own);
        if wanted == Room::default() {
            return true;
        }
        let unused: u64 = views.iter().map(|(_, view)| spare(view).messages).sum();
        let bytes: u64 = views.iter().map(|(_, view)| spare(view).bytes).sum();
        if unused < need.messages || bytes < need.bytes {
            return false;
        }
        let mut lenders: Vec<_> = views.iter().filter(|(at, _)| *at != shard).collect();
        lenders.sort_by_key(|(_, view)| std::cmp::Reverse((spare(view).messages, spare(view).bytes)));
        for (lender, _) in lenders {
            if wanted == Room::default() {
                break;
            }
            let op = QueueOp::Lend { queue: queue.clone(), version, to: shard, room: wanted };
            let lent = self.execute(*lender, Op::Queue(op), &Asked::plain(PATIENCE)).await;
            if let Ok(Reply::Lent { room, seq }) = lent
                && room != Room::default()
            {
                wanted.messages = wanted.messages.saturating_sub(room.messages);
                wanted.bytes = wanted.bytes.saturating_sub(room.bytes);
                self.await_letter(*lender, shard, seq, PATIENCE).await;
            }
        }
        wanted == Room::default()
    }
}

impl Borrowing {
    fn is_full(&self, queue: &QueueName, now: Duration) -> bool {
        let full = self.0.lock().expect("nothing panics while it holds this");
        full.get(queue).is_some_and(|until| *until > now)
    }

    fn remember(&self, queue: &QueueName, until: Duration) {
        let mut full = self.0.lock().expect("nothing panics while it holds this");
        if full.len() >= FULL_MAX {
            full.clear();
        }
        full.insert(queue.clone(), until);
    }
}

fn spare(view: &QueueView) -> Room {
    Room {
        messages: view.room.messages.saturating_sub(view.used.messages),
        bytes: view.room.bytes.saturating_sub(view.used.bytes),
    }
}

fn lacking(need: Room, own: &QueueView) -> Room {
    let have = spare(own);
    Room {
        messages: need.messages.saturating_sub(have.messages),
        bytes: need.bytes.saturating_sub(have.bytes),
    }
}
