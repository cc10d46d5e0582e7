//! Takes messages from all shards: older messages first where that is known, no shard left out,
//! and nothing only when each shard proved empty.
//!
//! Messages are taken from one shard at a time, so nothing is ever taken in excess and given back.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use lockstep_core::command::QueueOp;
use lockstep_core::dedup::delivered;
use lockstep_core::guards::Guard;
use lockstep_core::names::{QueueName, ShardId};
use lockstep_core::query::{Answer, Query};
use lockstep_core::{Millis, Op, Refusal, Reply};
use tokio::sync::oneshot;

use super::super::attempt::Request;
use super::super::wire::{Said, What};
use super::super::{Asked, Error, Router};
use super::Message;
use super::sessions::session_of;

/// How long a shard without a leader keeps a consumer from looking at the others.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// One in so many takes goes by turn instead of by age: clocks of pushing nodes may differ.
const BY_TURN: u64 = 4;

/// What a request wants to take.
#[derive(Clone)]
pub(super) struct Want {
    pub(super) queue: QueueName,
    pub(super) op: QueueOp,
    pub(super) wait: Millis,
    pub(super) asked: Asked,
}

impl Router {
    /// Takes what is there, or waits for it as long as is wanted and the caller is there.
    pub(super) async fn take<T>(
        self: &Arc<Self>,
        want: &Want,
        caller: &mut oneshot::Sender<T>,
    ) -> Result<Vec<Message>, Error> {
        let until = self.clock.now() + Duration::from_millis(want.wait.0);
        let mut round = 0;
        let now = match want.asked.id.is_some() {
            true => self.take_named(want, &mut round).await?,
            false => self.take_now(want).await?,
        };
        if let Some(taken) = now {
            return Ok(taken);
        }
        self.look_at_guard(want).await?;
        // Shards that have nothing do not look at the session.
        let session = session_of(&want.op);
        if let Some(session) = session {
            self.check_session(session, want.asked.timeout).await?;
        }
        // Each shard has proved empty within this call. From now on a hint is enough to look again.
        loop {
            let left = until.saturating_sub(self.clock.now());
            if left.is_zero() || self.is_draining() {
                return Ok(Vec::new());
            }
            let woken = tokio::select! {
                woken = self.watches.sleep(self, &want.queue, left) => woken,
                () = caller.closed() => return Ok(Vec::new()),
                // Every shard has proved empty: the caller may wait on at another node.
                () = self.drained() => return Ok(Vec::new()),
            };
            let Some(woken) = woken else { continue };
            let taken = match want.asked.id.is_some() {
                true => self.take_named(want, &mut round).await?,
                false => self.take_from(woken.shard, want, self.deadline(want.asked.timeout)).await?,
            };
            if let Some(taken) = taken {
                return Ok(taken);
            }
        }
    }

    /// Where there is nothing to take, nothing is written that would check the guard.
    async fn look_at_guard(&self, want: &Want) -> Result<(), Error> {
        let (claim, timeout) = (want.asked.guard.as_ref(), want.asked.timeout);
        self.guarded(claim, timeout, async |guard| {
            let Some(guard) = guard else { return Ok(()) };
            let looks = self.queue_shards().into_iter();
            let looks = looks.map(|shard| self.query(shard, Query::Guard { guard: guard.clone() }, timeout));
            join_all(looks).await.into_iter().try_for_each(|answer| answer.map(drop))
        })
        .await
    }

    /// `None`: each shard proved empty.
    async fn take_now(&self, want: &Want) -> Result<Option<Vec<Message>>, Error> {
        let deadline = self.deadline(want.asked.timeout);
        let mut candidates = self.candidates(&want.queue);
        loop {
            for shard in candidates {
                if let Some(taken) = self.take_from(shard, want, deadline).await? {
                    return Ok(Some(taken));
                }
            }
            // Looking cost the log nothing and proved nothing: now ask behind a barrier.
            let left = deadline.saturating_sub(self.clock.now());
            let views: Result<Vec<_>, _> = self.views(&want.queue, left).await.into_iter().collect();
            let mut full: Vec<_> = views?.into_iter().filter(|(_, view)| view.deliverable > 0).collect();
            full.sort_by_key(|(_, view)| view.oldest_enqueued_at);
            candidates = full.into_iter().map(|(shard, _)| shard).collect();
            if candidates.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Like [`Self::take_now`], so that asking again under the same id never takes twice. Shards are
    /// asked in an order that the id decides, and each answer is remembered, also that there was
    /// nothing: a second walk ends where the first one did. A walk in which others were faster
    /// everywhere ends a round, and the next one has an id of its own.
    async fn take_named(&self, want: &Want, round: &mut u32) -> Result<Option<Vec<Message>>, Error> {
        let deadline = self.deadline(want.asked.timeout);
        loop {
            let want = Want { asked: want.asked.step(*round), ..want.clone() };
            let left = deadline.saturating_sub(self.clock.now());
            let Some(id) = want.asked.id.clone() else { return Ok(None) };
            let asks = self.queue_shards().into_iter().map(|shard| {
                let query = Query::Take { queue: want.queue.clone(), request: id.id.as_str().into() };
                self.query(shard, query, left)
            });
            let mut worth_it = false;
            for answer in join_all(asks).await {
                worth_it |=
                    matches!(answer?, Answer::Take { deliverable, known } if deliverable > 0 || known);
            }
            if !worth_it {
                return Ok(None);
            }
            let mut shards = self.queue_shards();
            let nth = id.fingerprint % shards.len().max(1) as u64;
            shards.rotate_left(usize::try_from(nth).unwrap_or(0));
            for shard in shards {
                let run = |op| self.run(shard, Op::Queue(op), &want.asked);
                let told = self.in_session(shard, &want.op, left, run).await?;
                if let Some(taken) = taken(shard, &told.reply, told.bodies) {
                    return Ok(Some(taken));
                }
            }
            *round += 1;
        }
    }

    /// `None` where nothing was deliverable at the moment of asking, or the shard did not answer
    /// and certainly gave nothing: the proof that follows will tell.
    async fn take_from(
        &self,
        shard: ShardId,
        want: &Want,
        deadline: Duration,
    ) -> Result<Option<Vec<Message>>, Error> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        let request = self.request(shard, &want.asked);
        self.in_session(shard, &want.op, want.asked.timeout, |op| {
            self.take_guarded(shard, Want { op, ..want.clone() }, &request, deadline)
        })
        .await
    }

    async fn take_guarded(
        &self,
        shard: ShardId,
        want: Want,
        request: &Request,
        deadline: Duration,
    ) -> Result<Option<Vec<Message>>, Error> {
        self.guarded(want.asked.guard.as_ref(), want.asked.timeout, |guard| {
            self.take_under(shard, &want, request, deadline, guard)
        })
        .await
    }

    async fn take_under(
        &self,
        shard: ShardId,
        want: &Want,
        request: &Request,
        deadline: Duration,
        guard: Option<Guard>,
    ) -> Result<Option<Vec<Message>>, Error> {
        let patience = self.deadline(PATIENCE);
        loop {
            let command = request.command(self, shard, guard.clone(), Op::Queue(want.op.clone()));
            let what = What::Take(want.queue.clone(), command);
            let told = match self.ask_patiently(shard, what, patience, deadline).await {
                Ok(Said::Taken(Some(told)) | Said::Executed(told)) => told,
                Ok(_) | Err(Error::NoLeader { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            match told.reply {
                // This node knew too old a log time; by the answer it knows a newer one.
                Reply::Refused(Refusal::TooLate) if self.clock.now() < deadline => {}
                Reply::Refused(refusal) => return Err(refusal.into()),
                reply => return Ok(taken(shard, &reply, told.bodies)),
            }
        }
    }

    /// The shards worth asking, as far as this node's own replicas know, then those that it knows
    /// nothing of. Never wrong for long: a proof follows.
    fn candidates(&self, queue: &QueueName) -> Vec<ShardId> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut shards = self.queue_shards();
        let by = usize::try_from(turn % shards.len().max(1) as u64).unwrap_or(0);
        shards.rotate_left(by);
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for shard in shards {
            match self.replica(shard) {
                Some(replica) => {
                    let head = replica.state().read(|state| state.queues().head(queue));
                    known.extend(head.map(|(priority, at)| (Reverse(priority), at, shard)));
                }
                None => unknown.push(shard),
            }
        }
        if !turn.is_multiple_of(BY_TURN) {
            known.sort_by_key(|(priority, at, _)| (*priority, *at));
        }
        known.into_iter().map(|(_, _, shard)| shard).chain(unknown).collect()
    }
}

/// The messages in a reply with their bodies, if there are any.
pub(super) fn taken(shard: ShardId, reply: &Reply, bodies: Vec<Bytes>) -> Option<Vec<Message>> {
    let messages = delivered(reply).iter().cloned().zip(bodies);
    let taken: Vec<_> = messages.map(|(delivered, body)| Message { shard, delivered, body }).collect();
    (!taken.is_empty()).then_some(taken)
}
