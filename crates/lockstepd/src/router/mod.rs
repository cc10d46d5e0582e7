//! Serve here or forward: any node answers any request, whichever node leads its shard.
//!
//! It retries under one request key until the deadline, and tells a certain failure from an
//! unknown outcome. It knows shards and commands, not HTTP.

mod attempt;
mod cluster;
mod guards;
mod ledger;
mod locks;
mod queues;
mod serve;
mod watching;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use lockstep_core::command::{LockOp, QueueOp};
use lockstep_core::guards::Guard;
use lockstep_core::names::{Incarnation, NodeId, Origin, ShardId};
use lockstep_core::query::{Answer, Query};
use lockstep_core::{Op, Refusal, Reply};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::peer::Peers;
use crate::replica::{Replica, Told};

pub use cluster::{Leader, MemberView, ShardView};
pub use guards::Claim;
pub use queues::{Heartbeat, Message, Onwards, Page, Receive, Received, Stats};
pub use watching::{Change, Watch};
use wire::{Said, What};

/// What a request carries beside its meaning.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client's `request_id` and a hash of the body that came with it.
    pub id: Option<RequestId>,
    /// How long the caller is willing to wait for the outcome, waiting in queues not counted.
    pub timeout: Duration,
    /// The lock under which it is done: refused where a newer token of it was seen.
    pub guard: Option<Claim>,
}

impl Asked {
    /// A request of this node's own, under no lock.
    pub const fn plain(timeout: Duration) -> Self {
        Self { id: None, timeout, guard: None }
    }

    /// A further step of the same request, told apart from the first.
    #[must_use]
    pub fn step(&self, nth: u32) -> Self {
        let mut step = self.clone();
        if let Some(id) = step.id.as_mut().filter(|_| nth > 0) {
            id.id = format!("{}\u{1}{nth}", id.id);
        }
        step
    }

    /// The same request, to be done under a lock.
    #[must_use]
    pub fn guarded(self, guard: Option<Claim>) -> Self {
        Self { guard, ..self }
    }
}

/// A `request_id` as a client chose it.
#[derive(Clone, Debug)]
pub struct RequestId {
    /// At most 128 bytes.
    pub id: String,
    /// Of route and body.
    pub fingerprint: u64,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Refused by the state; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader could be reached in time; certainly nothing was done.
    #[error("shard {shard} has no leader that can be reached")]
    NoLeader {
        /// Which.
        shard: ShardId,
    },
    /// Where the shard's log is kept is away; certainly nothing was done.
    #[error("the store of shard {shard} is away")]
    StoreAway {
        /// Which.
        shard: ShardId,
    },
    /// It may have been done, or may still be.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// Too much waits already; certainly nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// A member's disk has no room for it; certainly nothing was done.
    #[error("storage is full")]
    StorageFull,
    /// This node is stopping.
    #[error("draining")]
    Draining,
}

impl Error {
    /// Whether nothing was done because of how the shard is: another one may well do it.
    const fn is_of_the_shard(&self) -> bool {
        matches!(self, Self::NoLeader { .. } | Self::StoreAway { .. } | Self::Overloaded | Self::StorageFull)
    }

    /// Whether the state itself has decided: asking again changes nothing.
    const fn is_decided(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Where everything is.
pub struct Placement {
    /// Every member, and where peers reach it.
    pub members: BTreeMap<NodeId, String>,
    /// Every shard's replicas; the first should lead.
    pub replicas: BTreeMap<ShardId, Vec<NodeId>>,
}

/// Routes requests of this node.
pub struct Router {
    node: NodeId,
    incarnation: AtomicU64,
    attempts: AtomicU64,
    guards: guards::Guards,
    turn: AtomicU64,
    loose: AtomicU64,
    draining: watch::Sender<bool>,
    borrowing: queues::Borrowing,
    watches: queues::Watches,
    enlisted: queues::Enlisted,
    placement: Placement,
    ring: lockstep_core::ring::ShardRing,
    clock: Clock,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    routes: BTreeMap<ShardId, attempt::Route>,
    peers: Arc<dyn Peers>,
}

impl Router {
    /// A router that knows its peers, and no replicas yet.
    pub fn new(origin: Origin, placement: Placement, peers: Arc<dyn Peers>, clock: Clock) -> Arc<Self> {
        let routes = placement.replicas.keys().map(|shard| (*shard, attempt::Route::default())).collect();
        let queue_shards = placement.replicas.len().saturating_sub(1);
        Arc::new(Self {
            node: origin.node,
            incarnation: AtomicU64::new(origin.incarnation.0),
            attempts: AtomicU64::new(0),
            guards: guards::Guards::default(),
            turn: AtomicU64::new(0),
            loose: AtomicU64::new(0),
            draining: watch::Sender::new(false),
            borrowing: queues::Borrowing::default(),
            watches: queues::Watches::default(),
            enlisted: queues::Enlisted::default(),
            ring: lockstep_core::ring::ShardRing::new(u32::try_from(queue_shards).unwrap_or(u32::MAX)),
            placement,
            clock,
            replicas: RwLock::default(),
            routes,
            peers,
        })
    }

    /// A replica of this node has started.
    pub fn add(&self, replica: Arc<Replica>) {
        self.replicas.write().expect("nothing panics while it holds this").insert(replica.shard(), replica);
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This process, as the log knows it.
    pub fn origin(&self) -> Origin {
        Origin { node: self.node, incarnation: Incarnation(self.incarnation.load(Ordering::Relaxed)) }
    }

    /// The process goes on as another incarnation: its membership lease had run out.
    pub fn reincarnate(&self, incarnation: Incarnation) {
        self.incarnation.store(incarnation.0, Ordering::Relaxed);
    }

    /// Refuses new requests from now on; those in flight go on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether this node stops, for streams that would go on for ever.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Returns once this node stops: whoever only waits should not.
    async fn drained(&self) {
        // The sender lives as long as this router.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// This node's replica of `shard`, if it holds one.
    pub fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas.read().expect("nothing panics while it holds this").get(&shard).cloned()
    }

    /// Every replica of this node.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().expect("nothing panics while it holds this").values().cloned().collect()
    }

    /// Runs one command at its shard's leader. For everything that does not wait in the shard.
    pub async fn execute(&self, shard: ShardId, op: Op, asked: &Asked) -> Result<Reply, Error> {
        Ok(self.run(shard, op, asked).await?.reply)
    }

    /// Reads linearizably at the shard's leader.
    pub async fn query(&self, shard: ShardId, query: Query, timeout: Duration) -> Result<Answer, Error> {
        match self.ask(shard, What::Query(query), self.deadline(timeout)).await? {
            Said::Answer(Answer::Refused(refusal)) => Err(refusal.into()),
            Said::Answer(answer) => Ok(answer),
            _ => Err(Error::NoLeader { shard }),
        }
    }

    /// Like [`Self::execute`], with the bodies of the messages in the reply.
    async fn run(&self, shard: ShardId, op: Op, asked: &Asked) -> Result<Told, Error> {
        // A node that stops still has to say so, and to give back what nobody is left to hear of.
        let ends_something = matches!(
            op,
            Op::Member(_) | Op::Lock(LockOp::Cancel { .. }) | Op::Queue(QueueOp::Nack { failed: false, .. })
        );
        if self.is_draining() && !ends_something {
            return Err(Error::Draining);
        }
        let request = self.request(shard, asked);
        let deadline = self.deadline(asked.timeout);
        self.guarded(asked.guard.as_ref(), asked.timeout, |guard| {
            self.run_under(shard, &op, &request, deadline, guard)
        })
        .await
    }

    async fn run_under(
        &self,
        shard: ShardId,
        op: &Op,
        request: &attempt::Request,
        deadline: Duration,
        guard: Option<Guard>,
    ) -> Result<Told, Error> {
        loop {
            let command = request.command(self, shard, guard.clone(), op.clone());
            match self.ask(shard, What::Execute(command), deadline).await? {
                Said::Executed(Told { reply: Reply::Refused(Refusal::TooLate), .. })
                    if self.clock.now() < deadline => {}
                Said::Executed(Told { reply: Reply::Refused(refusal), .. }) => return Err(refusal.into()),
                Said::Executed(told) => return Ok(told),
                _ => return Err(Error::OutcomeUnknown),
            }
        }
    }

    fn deadline(&self, timeout: Duration) -> Duration {
        self.clock.now() + timeout
    }
}
