//! Proposes packs to raft, one entry in flight: it costs the cluster four messages and a sync at
//! each member.
//!
//! It also stamps log time, because stamping belongs where entries are ordered.

use std::sync::Arc;
use std::time::Duration;

use lockstep_core::{Index, Pack};
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use tokio::sync::{mpsc, watch};

use super::types::{Config, Payload, Raft};
use super::{ProposeError, Settings, Status};
use crate::clock::Clock;
use crate::log::pack::{Waiting, answer, fail, gather, sleep, until_tick};
use crate::log::time::LogTime;
use crate::state::State;

/// After a refused entry, how long until another is tried although nobody asks for one: a leader that
/// is handing over refuses for a while, and keeps saying that it leads.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Proposer {
    raft: Raft,
    state: Arc<State>,
    log_time: LogTime,
    status: watch::Receiver<Status>,
    waiting: mpsc::Receiver<Waiting>,
    pack_bytes: usize,
    /// Whether the last entry was refused.
    refused: bool,
}

impl Proposer {
    pub(super) fn new(
        raft: Raft,
        state: Arc<State>,
        clock: Clock,
        status: watch::Receiver<Status>,
        waiting: mpsc::Receiver<Waiting>,
        settings: &Settings,
    ) -> Self {
        let log_time = LogTime::new(clock);
        Self { raft, state, log_time, status, waiting, pack_bytes: settings.pack_bytes, refused: false }
    }

    /// Runs until every sender has gone.
    pub(super) async fn run(mut self) {
        loop {
            let tick = self.until_tick();
            tokio::select! {
                biased;
                first = self.waiting.recv() => match first {
                    Some(first) => {
                        // Whoever is about to propose in this turn joins the pack.
                        tokio::task::yield_now().await;
                        let pack = gather(first, &mut self.waiting, self.pack_bytes);
                        self.propose(pack).await;
                    }
                    None => return,
                },
                () = sleep(tick) => self.propose(Vec::new()).await,
                _ = leadership(&mut self.status) => {}
            }
        }
    }

    async fn propose(&mut self, waiting: Vec<Waiting>) {
        let (leading, hint, epoch) = {
            let status = self.status.borrow();
            (status.leading, status.leader, status.epoch)
        };
        let (commands, callers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        if !leading {
            return fail(callers, &ProposeError::NotLeader { hint });
        }
        let (last, max_step) = self.state.read(|shard| (shard.now(), shard.max_step()));
        let now = self.log_time.stamp(epoch, last, max_step);
        let pack = Pack { now, settings: self.state.settings_due(), commands };
        let written = self.raft.client_write(Payload(pack.encode())).await;
        self.refused = written.is_err();
        match written {
            Ok(done) => answer(callers, Index(done.log_id.index), done.data.0),
            Err(error) => fail(callers, &refused(error)),
        }
    }

    /// How long until log time should be written down although nothing is asked.
    fn until_tick(&mut self) -> Option<Duration> {
        let (leading, epoch) = {
            let status = self.status.borrow();
            (status.leading, status.epoch)
        };
        if !leading {
            return None;
        }
        let least = if self.refused { REFUSED_PAUSE } else { Duration::ZERO };
        until_tick(&self.state, &mut self.log_time, epoch, least)
    }
}

fn refused(error: RaftError<Config, ClientWriteError<Config>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. })) => {
            ProposeError::NotLeader { hint: leader_id.map(lockstep_core::names::NodeId) }
        }
        // Its entry is in this node's log, or was: another leader may still commit it.
        _ => ProposeError::Unknown,
    }
}

/// Returns when this node begins or ceases to lead.
async fn leadership(status: &mut watch::Receiver<Status>) {
    let before = status.borrow_and_update().leading;
    if status.wait_for(|status| status.leading != before).await.is_err() {
        std::future::pending().await
    }
}
