//! Carries letters from one shard's outbox to another shard, and the confirmation back.
//!
//! Only the leader of the sending shard does, but it does no harm if two think they are: letters are
//! numbered, and taken once.

use std::sync::Arc;
use std::time::Duration;

use lockstep_core::command::{Cargo, Letter, NewMessage, QueueOp};
use lockstep_core::names::{MessageId, ShardId};
use lockstep_core::{Op, Reply};

use super::super::wire::What;
use super::super::{Asked, Error, Router};
use crate::replica::Replica;

/// Letters, and bytes of payloads, that go in one command.
const LETTERS: usize = 256;
const BYTES: usize = 1 << 20;
/// One try to carry takes at most this long.
const TRY: Duration = Duration::from_secs(5);
/// The pause after a try that failed.
const PAUSE: Duration = Duration::from_millis(100);

impl Router {
    /// Carries what `replica`'s shard sends, whenever this node leads it. For ever.
    pub async fn carry(self: Arc<Self>, replica: Arc<Replica>) {
        let mut outbox = replica.state().waiters().outbox();
        let mut status = replica.watch();
        loop {
            outbox.borrow_and_update();
            let leads = status.borrow_and_update().leading;
            let lanes =
                if leads { replica.state().read(|shard| shard.queues().outbox(LETTERS)) } else { Vec::new() };
            if lanes.is_empty() {
                tokio::select! {
                    changed = outbox.changed() => if changed.is_err() { return },
                    changed = status.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let carries = lanes.into_iter().map(|(to, letters)| self.carry_to(&replica, to, letters));
            let failed = futures::future::join_all(carries).await.into_iter().any(|carried| carried.is_err());
            if failed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn carry_to(
        &self,
        replica: &Replica,
        to: ShardId,
        letters: Vec<(Letter, Option<MessageId>)>,
    ) -> Result<(), Error> {
        let from = replica.shard();
        let letters = with_bodies(replica, letters).await;
        if letters.is_empty() {
            return Err(Error::NoLeader { shard: from });
        }
        let asked = Asked::plain(TRY);
        let arrive = Op::Queue(QueueOp::Arrive { from, letters });
        let Reply::Arrived { up_to, .. } = self.carry_out(to, arrive, &asked).await? else {
            return Err(Error::OutcomeUnknown);
        };
        self.carry_out(from, Op::Queue(QueueOp::Confirm { to, up_to }), &asked).await.map(|_| ())
    }

    /// Sleeps until `from` knows that `to` has taken its letter `seq`. Says whether it does.
    pub(super) async fn await_letter(&self, from: ShardId, to: ShardId, seq: u64, timeout: Duration) -> bool {
        use super::super::wire::Said;
        let deadline = self.deadline(timeout);
        while self.clock.now() < deadline {
            let left = deadline.saturating_sub(self.clock.now());
            let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            match self.ask(from, What::AwaitLetter(to, seq, ms), deadline).await {
                Ok(Said::Carried(true)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// A node that stops still carries what it has begun.
    async fn carry_out(&self, shard: ShardId, op: Op, asked: &Asked) -> Result<Reply, Error> {
        self.execute(shard, op, asked).await
    }
}

async fn with_bodies(replica: &Replica, letters: Vec<(Letter, Option<MessageId>)>) -> Vec<Letter> {
    let mut bytes = 0;
    let mut ready = Vec::with_capacity(letters.len());
    for (Letter { seq, queue, cargo }, id) in letters {
        let cargo = match (cargo, id) {
            (Cargo::Message(message), Some(id)) => {
                // Gone only if it was confirmed meanwhile.
                let Ok(Some(body)) = replica.body_if_alive(id).await else { break };
                bytes += body.len();
                Cargo::Message(NewMessage { body, ..message })
            }
            (cargo, _) => cargo,
        };
        ready.push(Letter { seq, queue, cargo });
        if bytes > BYTES {
            break;
        }
    }
    ready
}
