//! Proposes packs to raft. An entry costs the cluster four messages and a sync at each member, so
//! under load what comes while one is in flight waits for the next; where little is asked, entries
//! follow each other without waiting.
//!
//! It also stamps log time, because stamping belongs where entries are ordered.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
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

/// Another entry may leave while those in flight carry fewer commands than this. A lock that goes from
/// hand to hand is such a case: the next holder's release need not wait until the last one's next
/// request is on disk.
const IN_FLIGHT_COMMANDS: usize = 8;

pub(super) struct Proposer {
    raft: Raft,
    state: Arc<State>,
    log_time: LogTime,
    status: watch::Receiver<Status>,
    waiting: mpsc::Receiver<Waiting>,
    pack_bytes: usize,
    in_flight: FuturesUnordered<BoxFuture<'static, Written>>,
    /// Commands in them; an entry without any counts as one.
    carried: usize,
    /// Whether the last entry was refused.
    refused: bool,
}

/// What became of an entry whose callers have been told.
struct Written {
    carried: usize,
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
        let pack_bytes = settings.pack_bytes;
        let in_flight = FuturesUnordered::new();
        Self { raft, state, log_time, status, waiting, pack_bytes, in_flight, carried: 0, refused: false }
    }

    /// Runs until every sender has gone.
    pub(super) async fn run(mut self) {
        loop {
            let tick = if self.in_flight.is_empty() { self.until_tick() } else { None };
            let room = self.carried < IN_FLIGHT_COMMANDS;
            tokio::select! {
                biased;
                Some(written) = self.in_flight.next(), if !self.in_flight.is_empty() => self.landed(&written),
                first = self.waiting.recv(), if room => match first {
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
        let carried = pack.commands.len().max(1);
        let (raft, bytes) = (self.raft.clone(), pack.encode());
        let mut write = Box::pin(async move {
            let written = raft.client_write(Payload(bytes)).await;
            let refused = written.is_err();
            match written {
                Ok(done) => answer(callers, Index(done.log_id.index), done.data.0),
                Err(error) => fail(callers, &why_refused(error)),
            }
            Written { carried, refused }
        });
        self.carried += carried;
        // Here, so that entries are handed over in the order of their stamps.
        match futures::poll!(&mut write) {
            Poll::Ready(written) => self.landed(&written),
            Poll::Pending => self.in_flight.push(write),
        }
    }

    fn landed(&mut self, written: &Written) {
        self.carried -= written.carried;
        self.refused = written.refused;
        if written.refused {
            // A leader that does not get rid of its reign goes on with it: what it could not write has not passed.
            self.log_time.forget();
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

fn why_refused(error: RaftError<Config, ClientWriteError<Config>>) -> ProposeError {
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
