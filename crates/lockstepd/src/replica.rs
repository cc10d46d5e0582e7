//! One shard at this node: commit first, then look at what came of it.
//!
//! It serves only while its log leads; whoever asks elsewhere is told who to ask. It knows nothing
//! of peers or HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::dedup::delivered;
use lockstep_core::names::{MessageId, NodeId, QueueName, SessionId, ShardId, Ticket};
use lockstep_core::query::{Answer, Outcome, Query};
use lockstep_core::{Command, Millis, Reply, Shard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::blocking;
use crate::clock::Clock;
use crate::log::{BarrierError, Log, ProposeError, Status};
use crate::rates::{self, Rate, Rates};
use crate::state::State;
use crate::store::bodies::Found;

/// A replica of one shard, and its log.
pub struct Replica {
    state: Arc<State>,
    log: Arc<dyn Log>,
    status: watch::Receiver<Status>,
    clock: Clock,
    rates: Rates,
}

/// What a shard's leader told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The machine's own reply.
    pub reply: Reply,
    /// Payloads of the messages in it, in order.
    pub bodies: Vec<Bytes>,
    /// Log time as of the reply.
    pub now: Millis,
}

/// Why this node's replica did not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Certainly not done.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// May have been done.
    #[error("outcome unknown")]
    Unknown,
    /// Certainly not done: too much waits.
    #[error("log is full")]
    Full,
    /// Certainly not done: where the log is kept is away.
    #[error("the store is away")]
    Away,
    /// Certainly not done: a member's disk has no room for it.
    #[error("storage is full")]
    StorageFull,
    /// Certainly not done: no majority, or stopping.
    #[error("unavailable")]
    Unavailable,
}

impl Replica {
    /// Joins a state with the log that feeds it.
    pub fn new(state: Arc<State>, log: Arc<dyn Log>, clock: Clock) -> Self {
        let status = log.status();
        Self { state, log, status, clock, rates: Rates::default() }
    }

    /// Which shard this is.
    pub fn shard(&self) -> ShardId {
        self.state.id()
    }

    /// The local state: as fresh as what has been applied here.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The log, for whoever manages leadership.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// Where the log stands now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.status.borrow().leader
    }

    /// Whether this node leads and may serve.
    pub fn leads(&self) -> bool {
        self.status.borrow().leading
    }

    /// Follows the log's status.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Looks at the counters of this shard's queues, so that there are rates to show. For ever.
    pub async fn count(self: Arc<Self>) {
        let mut status = self.watch();
        loop {
            let leads = status.borrow_and_update().leading;
            self.rates.look(&self.clock, leads, || self.state.read(rates::counters));
            // What comes before the first look of a new leader is in no rate.
            tokio::select! {
                () = tokio::time::sleep(rates::EVERY) => {}
                changed = status.wait_for(|status| status.leading != leads) => if changed.is_err() { return },
            }
        }
    }

    /// How fast a queue moves. Errors: this node does not lead.
    pub fn rates(&self, queue: &QueueName) -> Result<Rate, Failure> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        let totals = self.state.read(|shard| shard.queues().query(queue).totals);
        Ok(self.rates.of(&self.clock, queue, totals))
    }

    /// Commits one command and answers with its reply.
    pub async fn execute(&self, command: Command) -> Result<Told, Failure> {
        let applied = self.log.propose(command).await?;
        // The memo of this very request keeps its messages' bodies until its node has settled it.
        let mut bodies = Vec::new();
        for message in delivered(&applied.reply) {
            bodies.push(self.body(message.id).await?);
        }
        Ok(Told { reply: applied.reply, bodies, now: self.state.read(|shard| shard.now()) })
    }

    /// A message's payload; `None` where the message is done.
    pub async fn body_if_alive(&self, id: MessageId) -> Result<Option<Bytes>, Failure> {
        let lives = || self.state.read(|shard| shard.body_lives(id));
        match if lives() { self.body(id).await.map(Some) } else { Ok(None) } {
            Err(_) if !lives() => Ok(None),
            found => found,
        }
    }

    /// A message's payload; another member's copy of it where this node's is damaged.
    async fn body(&self, id: MessageId) -> Result<Bytes, Failure> {
        let found = match self.state.find_body(id) {
            Found::Here(body) => return Ok(body),
            Found::Gone => Ok(None),
            Found::There(place) => {
                let state = Arc::clone(&self.state);
                let read = move || state.read_body(&place).map_err(io::Error::other);
                blocking::run(self.state.is_in_memory(), read).await
            }
        };
        match found {
            Ok(Some(body)) => return Ok(body),
            Ok(None) => tracing::error!(shard = self.shard().0, id = id.0, "the body of a message is gone"),
            Err(error) => tracing::error!(shard = self.shard().0, %error, "asking another member for it"),
        }
        // It was delivered, so asking again under the same request key finds the same message.
        let body = self.log.fetch_body(id).await.ok_or(Failure::Unknown)?;
        if let Err(error) = self.state.mend(id, &body) {
            tracing::error!(shard = self.shard().0, id = id.0, %error, "cannot mend the body of a message");
        }
        Ok(body)
    }

    /// Like [`Self::execute`] for a pop or receive, but proposes nothing where nothing could be
    /// delivered: an empty queue that is polled costs the log nothing. `None` proves nothing. A
    /// request that was answered before gets its first answer, whatever the queue holds by now.
    pub async fn take(&self, queue: &QueueName, command: Command) -> Result<Option<Told>, Failure> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        let answered = self.state.read(|shard| shard.knows(&command.request));
        if !answered && self.deliverable(queue) == 0 {
            return Ok(None);
        }
        self.execute(command).await.map(Some)
    }

    /// Like [`Self::execute`] for a heartbeat of sessions, but proposes nothing where none of them holds
    /// receipts.
    pub async fn keep(&self, sessions: &[SessionId], command: Command) -> Result<Option<Told>, Failure> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if !self.state.read(|shard| shard.queues().hold_receipts(sessions)) {
            return Ok(None);
        }
        self.execute(command).await.map(Some)
    }

    /// Answers from a state that holds everything acknowledged before this call.
    pub async fn query(&self, query: &Query) -> Result<Answer, Failure> {
        self.log.barrier().await?;
        Ok(self.state.read(|shard| shard.query(query)))
    }

    /// Sleeps until the fate of `ticket` is decided, at most `at_most`.
    pub async fn await_ticket(&self, ticket: Ticket, at_most: Duration) -> Result<Outcome, Failure> {
        let mut bell = self.state.waiters().ticket(ticket);
        let mut status = self.watch();
        let sleep = tokio::time::sleep(at_most);
        tokio::pin!(sleep);
        loop {
            if !status.borrow_and_update().leading {
                return Err(self.not_leader());
            }
            bell.hear();
            let outcome = self.state.read(|shard| shard.outcome(ticket));
            if outcome != Outcome::Waiting {
                return Ok(outcome);
            }
            tokio::select! {
                biased;
                () = bell.rings() => {}
                _ = status.changed() => {}
                () = &mut sleep => return Ok(Outcome::Waiting),
            }
        }
    }

    /// Messages that wait in `queue` now, with their bodies; none of them is taken.
    pub async fn peek(&self, queue: &QueueName, max: u32) -> Result<Told, Failure> {
        self.log.barrier().await?;
        let (waiting, now) = self.state.read(|shard| (shard.queues().peek(queue, max as usize), shard.now()));
        let (mut found, mut bodies) = (Vec::new(), Vec::new());
        for message in waiting {
            // What was taken by somebody meanwhile waits no longer.
            if let Some(body) = self.body_if_alive(message.id).await? {
                found.push(message);
                bodies.push(body);
            }
        }
        Ok(Told { reply: Reply::Received(found), bodies, now })
    }

    /// Sleeps until `to` has taken the letter `seq` of this shard, at most `at_most`. Says whether it has.
    pub async fn await_letter(&self, to: ShardId, seq: u64, at_most: Duration) -> Result<bool, Failure> {
        self.await_carried(at_most, |shard| shard.queues().is_confirmed(to, seq)).await
    }

    /// Sleeps until every queue shard knows that `session` has ended, at most `at_most`. Says whether all
    /// do.
    pub async fn await_end(&self, session: SessionId, at_most: Duration) -> Result<bool, Failure> {
        self.await_carried(at_most, |shard| shard.locks().end_is_known(session)).await
    }

    async fn await_carried(
        &self,
        at_most: Duration,
        is_carried: impl Fn(&Shard) -> bool,
    ) -> Result<bool, Failure> {
        let mut outbox = self.state.waiters().outbox();
        let mut status = self.watch();
        let sleep = tokio::time::sleep(at_most);
        tokio::pin!(sleep);
        loop {
            outbox.borrow_and_update();
            if !status.borrow_and_update().leading {
                return Err(self.not_leader());
            }
            if self.state.read(&is_carried) {
                return Ok(true);
            }
            tokio::select! {
                biased;
                _ = outbox.changed() => {}
                _ = status.changed() => {}
                () = &mut sleep => return Ok(false),
            }
        }
    }

    /// Sleeps until `queue` has something to deliver, at most `at_most`. Says how much.
    pub async fn await_queue(&self, queue: &QueueName, at_most: Duration) -> Result<u64, Failure> {
        let mut bell = self.state.waiters().queue(queue);
        let mut status = self.watch();
        let sleep = tokio::time::sleep(at_most);
        tokio::pin!(sleep);
        loop {
            if !status.borrow_and_update().leading {
                return Err(self.not_leader());
            }
            bell.hear();
            match self.deliverable(queue) {
                0 => {}
                count => return Ok(count),
            }
            tokio::select! {
                biased;
                () = bell.rings() => {}
                _ = status.changed() => {}
                () = &mut sleep => return Ok(0),
            }
        }
    }

    fn deliverable(&self, queue: &QueueName) -> u64 {
        self.state.read(|shard| shard.queues().deliverable(queue))
    }

    fn not_leader(&self) -> Failure {
        let status = self.status.borrow();
        if status.away.is_some() { Failure::Away } else { Failure::NotLeader { hint: status.leader } }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { hint } => Self::NotLeader { hint },
            ProposeError::Unknown => Self::Unknown,
            ProposeError::Full => Self::Full,
            ProposeError::Away => Self::Away,
            ProposeError::StorageFull => Self::StorageFull,
            ProposeError::Stopped => Self::Unavailable,
        }
    }
}

impl From<BarrierError> for Failure {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::NotLeader { hint } => Self::NotLeader { hint },
            BarrierError::Away => Self::Away,
            BarrierError::Unavailable | BarrierError::Stopped => Self::Unavailable,
        }
    }
}
