//! Locks: the one kind of request that may sleep in the shard itself.
//!
//! A waiting acquire has a ticket in the log; this node sleeps on it wherever shard 0 is led. When
//! the caller hangs up, the ticket is cancelled, or what it got is given back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lockstep_core::command::{Acquire, Attempt, Claimant, Grant, LockOp, SessionOp};
use lockstep_core::names::{LockName, ShardId, Ticket};
use lockstep_core::query::Outcome;
use lockstep_core::{Millis, Op, Refusal, Reply};

use super::wire::{Said, What};
use super::{Asked, Error, Router};

const SHARD: ShardId = ShardId::COORDINATION;
/// How long giving back is tried after a caller has hung up; then the lease ends it.
const GIVE_BACK: Duration = Duration::from_secs(30);

impl Router {
    /// Grants locks, waiting as long as `want` says. Dropping the future leaves the queue, or gives
    /// an undelivered grant back.
    pub async fn acquire(self: &Arc<Self>, want: Acquire, asked: &Asked) -> Result<Grant, Error> {
        let (attempt, wait) = (self.attempt(), want.wait);
        self.grant(LockOp::Acquire(Box::new(Acquire { attempt, ..want })), attempt, wait, asked).await
    }

    /// Makes a shared hold exclusive, waiting up to `wait` for the others. Dropping the future leaves
    /// the queue; the shared hold stays.
    pub async fn upgrade(
        self: &Arc<Self>,
        name: LockName,
        by: Claimant,
        wait: Millis,
        fail_on_deadlock: bool,
        asked: &Asked,
    ) -> Result<Grant, Error> {
        let attempt = self.attempt();
        self.grant(LockOp::Upgrade { name, by, wait, fail_on_deadlock, attempt }, attempt, wait, asked).await
    }

    /// A lock operation that never waits.
    pub async fn lock(&self, op: LockOp, asked: &Asked) -> Result<Reply, Error> {
        self.execute(SHARD, Op::Lock(op), asked).await
    }

    /// An operation on sessions.
    pub async fn session(&self, op: SessionOp, asked: &Asked) -> Result<Reply, Error> {
        self.execute(SHARD, Op::Session(op), asked).await
    }

    fn attempt(&self) -> Attempt {
        Attempt { origin: self.origin(), number: 1 + self.attempts.fetch_add(1, Ordering::Relaxed) }
    }

    async fn grant(
        self: &Arc<Self>,
        op: LockOp,
        attempt: Attempt,
        wait: Millis,
        asked: &Asked,
    ) -> Result<Grant, Error> {
        if wait == Millis(0) {
            return granted(self.lock(op, asked).await?);
        }
        // Only a request that may wait is worth a task of its own: it outlives a caller that hangs
        // up before the ticket's number is known.
        let (router, asked) = (Arc::clone(self), asked.clone());
        let (answer, caller) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { router.wait_for(op, attempt, wait, asked, answer).await });
        caller.await.unwrap_or(Err(Error::OutcomeUnknown))
    }

    async fn wait_for(
        self: Arc<Self>,
        op: LockOp,
        attempt: Attempt,
        wait: Millis,
        asked: Asked,
        mut answer: tokio::sync::oneshot::Sender<Result<Grant, Error>>,
    ) {
        let mut ticket = None;
        let outcome = match self.lock(op, &asked).await {
            Ok(Reply::Waiting { ticket: place }) => {
                ticket = Some(place);
                tokio::select! {
                    outcome = self.sleep_on(place, wait, asked.timeout) => outcome,
                    () = answer.closed() => Err(Error::OutcomeUnknown),
                }
            }
            Ok(reply) => granted(reply),
            Err(error) => Err(error),
        };
        let place = outcome.as_ref().ok().and_then(|grant| grant.ticket).or(ticket);
        if answer.send(outcome).is_err()
            && let Some(ticket) = place
        {
            let cancel = LockOp::Cancel { ticket, attempt };
            if let Err(error) = self.lock(cancel, &Asked::plain(GIVE_BACK)).await {
                tracing::info!(%error, "could not give back the place of a caller that hung up");
            }
        }
    }

    async fn sleep_on(&self, ticket: Ticket, wait: Millis, grace: Duration) -> Result<Grant, Error> {
        let deadline = self.deadline(Duration::from_millis(wait.0) + grace);
        loop {
            let left = deadline.saturating_sub(self.clock.now());
            let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(1, wait.0.max(1));
            match self.ask(SHARD, What::AwaitTicket(ticket, ms), deadline).await? {
                Said::Outcome(Outcome::Granted(grant)) => return Ok(grant),
                Said::Outcome(Outcome::Refused(refusal)) => return Err(refusal.into()),
                Said::Outcome(Outcome::Waiting) if self.clock.now() < deadline => {}
                _ => return Err(Refusal::WaitTimeout.into()),
            }
        }
    }
}

fn granted(reply: Reply) -> Result<Grant, Error> {
    match reply {
        Reply::Granted(grant) => Ok(grant),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Error::OutcomeUnknown),
    }
}
