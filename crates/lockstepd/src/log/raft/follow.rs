//! Watches one group: who leads, whether this node may serve, and when a snapshot is due.
//!
//! It decides nothing about consensus. A leader that no majority has answered for an election
//! time-out says that it does not lead, and a follower that has not heard of one for so long names
//! none: callers should look elsewhere.

use std::sync::Arc;

use lockstep_core::Epoch;
use lockstep_core::names::{NodeId, ShardId};
use openraft::async_runtime::WatchReceiver;
use openraft::{ServerState, async_runtime::Instant};
use tokio::sync::watch;

use super::machine::Applied;
use super::receiver::Heard;
use super::storage::Storage;
use super::types::{Config, Raft};
use super::{Settings, Status};
use crate::log::due::Due;
use crate::space::Space;
use crate::state::State;
use crate::store::wal::Wal;

pub(super) struct Follow {
    pub(super) node: NodeId,
    pub(super) shard: ShardId,
    pub(super) raft: Raft,
    pub(super) state: Arc<State>,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) status: watch::Sender<Status>,
    pub(super) wal: Wal,
    pub(super) storage: Storage,
    pub(super) due: Arc<Due>,
    pub(super) space: Arc<Space>,
    pub(super) heard: Heard,
    pub(super) settings: Settings,
}

impl Follow {
    /// Runs until the group has stopped.
    pub(super) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut look = tokio::time::interval(self.settings.heartbeat);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let status = self.look(&metrics.borrow_watched());
            self.tell(status);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    return self.fail("the log has stopped".into());
                },
                _ = self.applied.changed() => {}
                _ = look.tick() => {
                    self.snapshot_if_due().await;
                    let (snapshot, purged) = {
                        let metrics = metrics.borrow_watched();
                        (metrics.snapshot.map(|id| id.index), metrics.purged.map(|id| id.index))
                    };
                    self.purge(snapshot, purged).await;
                }
            }
        }
    }

    fn look(&self, metrics: &openraft::RaftMetrics<Config>) -> Status {
        let (epoch, applied) = *self.applied.borrow();
        let term = Epoch(metrics.current_term);
        let patience = self.settings.election_max;
        let alone = metrics.membership_config.voter_ids().eq([self.node.0]);
        // Nobody answers a member that is alone.
        let followed = alone || metrics.last_quorum_acked.is_none_or(|at| at.elapsed() < patience);
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.node.0);
        // A leader that went silent is nobody to send callers to, until another is elected.
        let alive = if leads { followed } else { self.heard.within(patience) };
        Status {
            leader: metrics.current_leader.map(NodeId).filter(|_| alive),
            // Only an entry of this very reign proves that everything before it is here.
            leading: leads && followed && epoch == term,
            epoch: term,
            applied,
            away: None,
            failed: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    fn tell(&self, status: Status) {
        let (leading, epoch) = (status.leading, status.epoch.0);
        let mut led = false;
        // Thousands may wait for a change of leader: entry after entry is none.
        self.status.send_if_modified(|now| {
            led = now.leading;
            let news = !status.only_went_on(now);
            *now = status;
            news
        });
        if led && !leading {
            tracing::info!(shard = self.shard.0, epoch, "no longer leading");
            self.state.waiters().wake_all();
        }
        if !led && leading {
            tracing::info!(shard = self.shard.0, epoch, "leading");
        }
    }

    fn fail(&self, why: String) {
        self.tell(Status { failed: Some(why), ..Status::default() });
    }

    /// Drops log that is in the snapshot, but for what followers that lag a little may ask for. One
    /// that lags further is sent the snapshot.
    async fn purge(&self, snapshot: Option<u64>, purged: Option<u64>) {
        if self.due.holds_log(self.space.is_full()) {
            return;
        }
        let pinned = self.wal.pinned_by() == Some(self.shard);
        let kept_from = if pinned { u64::MAX } else { self.storage.oldest_in_memory().unwrap_or(0) };
        let upto = snapshot.unwrap_or(0).min(kept_from.saturating_sub(1));
        if upto > purged.unwrap_or(0)
            && let Err(error) = self.raft.trigger().purge_log(upto).await
        {
            tracing::debug!(shard = self.shard.0, %error, "cannot purge the log");
        }
    }

    async fn snapshot_if_due(&self) {
        let pinned = self.wal.pinned_by() == Some(self.shard);
        let full = self.space.is_full();
        if self.due.is(self.settings.snapshot_bytes, self.state.garbage(), pinned, full)
            && let Err(error) = self.raft.trigger().snapshot().await
        {
            tracing::warn!(shard = self.shard.0, %error, "cannot take a snapshot");
        }
    }
}
