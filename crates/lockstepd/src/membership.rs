//! Keeps this node's membership lease alive, and tells the cache what the ring looks like.
//!
//! The lease is granted by the log and counted here from the moment of asking, less a margin for
//! clocks that differ: this node always thinks it over before the log does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_core::command::MemberOp;
use lockstep_core::names::ShardId;
use lockstep_core::{Millis, Op, Refusal, Reply};

use crate::cache::{Cache, View};
use crate::clock::Clock;
use crate::engine::Incarnations;
use crate::router::{Asked, Error, Router};

/// A quarter of the lease between renewals: three may fail before it ends.
const RENEWALS: u32 = 4;
/// What clocks may drift apart in one lease: a hundredth of it, and this for rounding.
const MARGIN: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_millis(100);

/// This node's membership.
pub struct Membership {
    router: Arc<Router>,
    cache: Arc<Cache>,
    incarnations: Arc<dyn Incarnations>,
    clock: Clock,
    url: String,
    lease: Duration,
    until: Mutex<Duration>,
    leaving: AtomicBool,
}

impl Membership {
    /// A node that has not joined yet. `url` is where clients reach it.
    pub fn new(
        router: Arc<Router>,
        cache: Arc<Cache>,
        incarnations: Arc<dyn Incarnations>,
        clock: Clock,
        url: String,
        lease: Duration,
    ) -> Arc<Self> {
        let (until, leaving) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { router, cache, incarnations, clock, url, lease, until, leaving })
    }

    /// Renews the lease, until this node leaves.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let pause = match self.heartbeat().await {
                // It would come back as another, and take homes over that it is about to drop.
                _ if self.leaving.load(Ordering::Relaxed) => return,
                Ok(()) => self.lease / RENEWALS,
                Err(Error::Refused(Refusal::FormerIncarnation { left })) => {
                    tracing::info!(
                        left_ms = left.0,
                        "waiting for the lease of this node's former process to end"
                    );
                    Duration::from_millis(left.0.clamp(50, 1_000))
                }
                Err(Error::Refused(Refusal::IncarnationOver)) => {
                    self.come_back().await;
                    RETRY
                }
                Err(_) => RETRY,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Tells the cache of every ring that this node's copy of shard 0 comes to know.
    pub async fn follow(self: Arc<Self>) {
        let Some(replica) = self.router.replica(ShardId::COORDINATION) else { return };
        let mut epochs = replica.state().waiters().ring_epoch();
        loop {
            epochs.borrow_and_update();
            self.cache.set_view(&self.view());
            if epochs.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the lease now, so that the others need not wait for it. Before that, the cache must
    /// have let go of everything: others take its keys over at once.
    pub async fn leave(&self) {
        if tokio::time::timeout(self.lease, self.cache.retire()).await.is_err() {
            return;
        }
        self.leaving.store(true, Ordering::Relaxed);
        let op = Op::Member(MemberOp::Leave { origin: self.router.origin() });
        let asked = Asked::plain(Duration::from_secs(2));
        if let Err(error) = self.router.execute(ShardId::COORDINATION, op, &asked).await {
            tracing::info!(%error, "could not give the membership lease back; it ends by itself");
        }
    }

    async fn heartbeat(&self) -> Result<(), Error> {
        let lease = Millis(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        let origin = self.router.origin();
        let op = Op::Member(MemberOp::Heartbeat { origin, url: self.url.as_str().into(), lease });
        let asked_at = self.clock.now();
        let asked = Asked::plain(self.lease / RENEWALS);
        if let Reply::Member { ring_epoch } = self.router.execute(ShardId::COORDINATION, op, &asked).await? {
            let until = asked_at + self.lease - self.lease / 100 - MARGIN;
            *self.until.lock().expect("nothing panics while it holds this") = until;
            self.cache.membership_renewed(until, ring_epoch);
        }
        Ok(())
    }

    /// The lease had run out, and the others have gone on without this node: it comes back as another.
    async fn come_back(&self) {
        match self.incarnations.next().await {
            Ok(incarnation) => {
                tracing::warn!(
                    incarnation = incarnation.0,
                    "the membership lease had run out; joining again"
                );
                self.router.reincarnate(incarnation);
            }
            Err(error) => tracing::error!(%error, "cannot join again"),
        }
    }

    fn view(&self) -> View {
        let (ring_epoch, members) = self.router.live();
        let origin = self.router.origin();
        let me = members
            .iter()
            .find(|member| member.node == origin.node && member.incarnation == origin.incarnation)
            .map(|member| (member.incarnation, member.since_epoch));
        let until = *self.until.lock().expect("nothing panics while it holds this");
        View { ring_epoch, me, members, spaces: self.router.spaces(), until }
    }
}
