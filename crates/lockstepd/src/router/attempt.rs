//! One question to a shard's leader, asked until it is answered or the deadline has passed.
//!
//! The same bytes go out each time, under the same request key: asking twice is harmless.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_core::command::RequestKey;
use lockstep_core::dedup;
use lockstep_core::guards::Guard;
use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::{Command, Millis, Op, Shard};

use super::ledger::{Entry, Ledger};
use super::wire::{Ask, Said, What, decode, encode};
use super::{Asked, Error, Router};
use crate::peer::{Lane, Service};
use crate::replica::{Failure, Replica};

/// The pause before a question is asked again, unless the leader changes meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// The longest wait for one answer, so that a leader that went silent is not waited for alone.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a question is asked again while those who are asked say that the store is away: longer
/// than one node's broken connection needs to be noticed, shorter than a caller likes to wait.
const AWAY_PATIENCE: Duration = Duration::from_secs(1);

/// What this node knows of the way to one shard.
#[derive(Default)]
pub(super) struct Route {
    ledger: Ledger,
    /// The node that last answered, or was named as leader; 0 for none.
    guess: AtomicU64,
    /// The latest log time that any answer showed.
    now: AtomicU64,
}

/// A request's identity over all its attempts.
pub(super) struct Request {
    key: Key,
}

enum Key {
    Named(RequestKey),
    Node(Entry),
}

impl Request {
    /// The command that asks for `op` under this request's key.
    pub(super) fn command(&self, router: &Router, shard: ShardId, guard: Option<Guard>, op: Op) -> Command {
        let request = match &self.key {
            Key::Named(key) => key.clone(),
            Key::Node(entry) => entry.key(router.origin()),
        };
        Command { request, not_after: router.log_now(shard).plus(dedup::WINDOW), guard, op }
    }
}

impl Router {
    pub(super) fn request(&self, shard: ShardId, asked: &Asked) -> Request {
        let key = match &asked.id {
            Some(id) => {
                Key::Named(RequestKey::Named { id: id.id.as_str().into(), fingerprint: id.fingerprint })
            }
            None => Key::Node(self.routes[&shard].ledger.open()),
        };
        Request { key }
    }

    /// Log time as far as this node knows: never ahead of the shard's own.
    fn log_now(&self, shard: ShardId) -> Millis {
        let heard = self.routes[&shard].now.load(Ordering::Relaxed);
        let applied = self.replica(shard).map_or(0, |replica| replica.state().read(Shard::now).0);
        Millis(heard.max(applied))
    }

    /// Asks the leader of `shard`, whoever that becomes, until `deadline` (of this node's clock).
    pub(super) async fn ask(&self, shard: ShardId, what: What, deadline: Duration) -> Result<Said, Error> {
        self.ask_patiently(shard, what, deadline, deadline).await
    }

    /// Like [`Self::ask`], but gives up at `patience` already where certainly nothing was done.
    pub(super) async fn ask_patiently(
        &self,
        shard: ShardId,
        what: What,
        patience: Duration,
        deadline: Duration,
    ) -> Result<Said, Error> {
        let mut maybe_done = false;
        let mut other = 0;
        let mut away = None;
        let mut ask = Ask { shard, what };
        loop {
            let until = if maybe_done { deadline } else { patience.min(deadline) };
            let left = until.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Err(if maybe_done { Error::OutcomeUnknown } else { Error::NoLeader { shard } });
            }
            let target = self.target(shard, other);
            match self.ask_once(target, &ask, left).await {
                Said::Failed(Failure::NotLeader { hint }) => {
                    let known = hint.filter(|hint| *hint != target);
                    self.guess(shard, known);
                    if known.is_some() && other == 0 {
                        other += 1;
                        continue;
                    }
                }
                Said::Failed(Failure::Unknown) => {
                    maybe_done |= ask.what.changes();
                    // Looking first would miss that it was done: the log knows.
                    if let What::Take(_, command) | What::Keep(_, command) = ask.what {
                        ask.what = What::Execute(command);
                    }
                    self.guess(shard, None);
                }
                Said::Failed(Failure::Full) if !maybe_done => return Err(Error::Overloaded),
                Said::Failed(Failure::Away) => {
                    self.guess(shard, None);
                    let since = *away.get_or_insert(self.clock.now());
                    if self.clock.now() >= since + AWAY_PATIENCE {
                        return Err(if maybe_done {
                            Error::OutcomeUnknown
                        } else {
                            Error::StoreAway { shard }
                        });
                    }
                }
                Said::Failed(Failure::StorageFull) if !maybe_done => return Err(Error::StorageFull),
                Said::Failed(_) => self.guess(shard, None),
                said => {
                    self.guess(shard, Some(target));
                    self.hear(shard, &said);
                    return Ok(said);
                }
            }
            other += 1;
            self.pause(shard, left).await;
        }
    }

    async fn ask_once(&self, target: NodeId, ask: &Ask, left: Duration) -> Said {
        let longest = ATTEMPT + ask.what.sleeps();
        if target == self.node {
            return match self.replica(ask.shard) {
                Some(replica) => tokio::time::timeout(left.min(longest), serve_here(&replica, &ask.what))
                    .await
                    .unwrap_or(Said::Failed(Failure::Unknown)),
                None => Said::Failed(Failure::NotLeader { hint: None }),
            };
        }
        let call = self.peers.call(target, Lane::Request, Service::Router, encode(ask), left.min(longest));
        match call.await {
            Ok(bytes) => decode(&bytes).unwrap_or(Said::Failed(Failure::Unknown)),
            Err(crate::peer::Error::NoAnswer) => Said::Failed(Failure::Unknown),
            Err(_) => Said::Failed(Failure::Unavailable),
        }
    }

    /// Whom to ask: this node if it leads, else whoever is thought to lead, else one after another.
    fn target(&self, shard: ShardId, round: usize) -> NodeId {
        if let Some(replica) = self.replica(shard) {
            let status = replica.status();
            if status.leading {
                return self.node;
            }
            if let Some(leader) = status.leader.filter(|leader| *leader != self.node) {
                return leader;
            }
        }
        match self.routes[&shard].guess.load(Ordering::Relaxed) {
            0 => {
                let replicas = &self.placement.replicas[&shard];
                replicas[round % replicas.len()]
            }
            guess => NodeId(guess),
        }
    }

    fn guess(&self, shard: ShardId, leader: Option<NodeId>) {
        self.routes[&shard].guess.store(leader.map_or(0, |node| node.0), Ordering::Relaxed);
    }

    fn hear(&self, shard: ShardId, said: &Said) {
        if let Said::Executed(told) | Said::Taken(Some(told)) = said {
            self.routes[&shard].now.fetch_max(told.now.0, Ordering::Relaxed);
        }
    }

    async fn pause(&self, shard: ShardId, left: Duration) {
        let pause = tokio::time::sleep(RETRY_PAUSE.min(left));
        match self.replica(shard).map(|replica| replica.watch()) {
            Some(mut status) => {
                let leader = status.borrow_and_update().leader;
                let changed = status.wait_for(|status| status.leader.is_some() && status.leader != leader);
                tokio::select! { _ = changed => {}, () = pause => {} }
            }
            None => pause.await,
        }
    }
}

/// Answers a question from this node's replica.
pub(super) async fn serve_here(replica: &Arc<Replica>, what: &What) -> Said {
    let said = match what {
        What::Execute(command) => replica.execute(command.clone()).await.map(Said::Executed),
        What::Take(queue, command) => replica.take(queue, command.clone()).await.map(Said::Taken),
        What::Keep(sessions, command) => replica.keep(sessions, command.clone()).await.map(Said::Taken),
        What::Query(query) => replica.query(query).await.map(Said::Answer),
        What::AwaitTicket(ticket, ms) => {
            replica.await_ticket(*ticket, Duration::from_millis(*ms)).await.map(Said::Outcome)
        }
        What::AwaitQueue(queue, ms) => {
            replica.await_queue(queue, Duration::from_millis(*ms)).await.map(Said::Deliverable)
        }
        What::Rates(queue) => replica.rates(queue).map(Said::Rates),
        What::Peek(queue, max) => replica.peek(queue, *max).await.map(|told| Said::Taken(Some(told))),
        What::AwaitLetter(to, seq, ms) => {
            replica.await_letter(*to, *seq, Duration::from_millis(*ms)).await.map(Said::Carried)
        }
        What::AwaitEnd(session, ms) => {
            replica.await_end(*session, Duration::from_millis(*ms)).await.map(Said::Carried)
        }
    };
    said.unwrap_or_else(Said::Failed)
}

impl What {
    fn changes(&self) -> bool {
        matches!(self, Self::Execute(_) | Self::Take(..) | Self::Keep(..))
    }

    /// How long the leader may sleep over it.
    fn sleeps(&self) -> Duration {
        match self {
            Self::AwaitTicket(_, ms)
            | Self::AwaitQueue(_, ms)
            | Self::AwaitLetter(_, _, ms)
            | Self::AwaitEnd(_, ms) => Duration::from_millis(*ms),
            Self::Execute(_)
            | Self::Take(..)
            | Self::Keep(..)
            | Self::Query(_)
            | Self::Rates(_)
            | Self::Peek(..) => Duration::ZERO,
        }
    }
}
