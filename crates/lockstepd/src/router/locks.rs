//! Locks: the one kind of request that may sleep in the shard itself.
//!
//! A waiting acquire has a ticket in the log; this node sleeps on it wherever shard 0 is led. When
//! the caller hangs up, the ticket is cancelled, or what it got is given back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lockstep_core::command::{Acquire, Attempt, Claimant, Grant, LockOp, SessionOp};
use lockstep_core::names::{LockName, ShardId, Ticket};
use lockstep_core::query::Outcome;
use lockstep_core::{Millis, Op, Reply};

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
        let mut caller = Caller::new(Arc::clone(self), op, attempt, asked.clone());
        let ticket = match caller.asked().await? {
            Reply::Waiting { ticket } => ticket,
            reply => return granted(reply),
        };
        match self.sleep_on(ticket, wait, asked.timeout).await {
            Err(error) if !error.is_decided() => {
                // Who asks again under the same request id finds the place, or what came of it.
                if asked.id.is_some() {
                    caller.told();
                }
                Err(Error::OutcomeUnknown)
            }
            outcome => {
                caller.told();
                outcome
            }
        }
    }

    async fn hand_back(&self, course: Course, attempt: Attempt) {
        let ticket = match course {
            Course::Asking(asking) => match asking.await {
                Ok(Reply::Waiting { ticket }) => Some(ticket),
                // None: its holder knows of it already.
                Ok(Reply::Granted(grant)) => grant.ticket,
                _ => None,
            },
            Course::Waiting(ticket) => Some(ticket),
            Course::Told => None,
        };
        let Some(ticket) = ticket else { return };
        let cancel = LockOp::Cancel { ticket, attempt };
        if let Err(error) = self.lock(cancel, &Asked::plain(GIVE_BACK)).await {
            tracing::info!(%error, "could not give back what a caller that hung up had asked for");
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
                // Log time stands still without a leader: the wait may go on longer than anybody listens.
                _ => return Err(Error::OutcomeUnknown),
            }
        }
    }
}

/// A caller who may hang up before it was told what came of its request: then the request goes on to
/// its end without it, and its place or its grant is given back.
struct Caller {
    router: Arc<Router>,
    attempt: Attempt,
    course: Course,
}

enum Course {
    Asking(Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>),
    Waiting(Ticket),
    Told,
}

impl Caller {
    fn new(router: Arc<Router>, op: LockOp, attempt: Attempt, asked: Asked) -> Self {
        let asking = Arc::clone(&router);
        let course = Course::Asking(Box::pin(async move { asking.lock(op, &asked).await }));
        Self { router, attempt, course }
    }

    /// What the shard says to it. Whoever is to wait has not been told anything yet.
    async fn asked(&mut self) -> Result<Reply, Error> {
        let Course::Asking(asking) = &mut self.course else { return Err(Error::OutcomeUnknown) };
        let reply = asking.await;
        self.course = match &reply {
            Ok(Reply::Waiting { ticket }) => Course::Waiting(*ticket),
            _ => Course::Told,
        };
        reply
    }

    fn told(&mut self) {
        self.course = Course::Told;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let course = std::mem::replace(&mut self.course, Course::Told);
        if matches!(course, Course::Told) {
            return;
        }
        // Without a runtime the process is at its end, and so is what it waits for.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (router, attempt) = (Arc::clone(&self.router), self.attempt);
        runtime.spawn(async move { router.hand_back(course, attempt).await });
    }
}

fn granted(reply: Reply) -> Result<Grant, Error> {
    match reply {
        Reply::Granted(grant) => Ok(grant),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Error::OutcomeUnknown),
    }
}
