//! Packs: every command that waits for a shard goes into one log entry, one entry in flight.
//!
//! An entry costs the cluster four messages and a sync at each member; a command inside one is
//! nearly free. It also stamps log time, because stamping belongs where entries are ordered.

use std::sync::Arc;
use std::time::Duration;

use lockstep_core::command::{Op, QueueOp};
use lockstep_core::{Command, Index, Pack, Reply};
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use super::types::{Config, Payload, Raft};
use super::{Applied, ProposeError, Settings, Status};
use crate::clock::Clock;
use crate::log::time::LogTime;
use crate::state::State;

/// A command, and who waits for its reply.
pub(super) type Waiting = (Command, oneshot::Sender<Result<Applied, ProposeError>>);

/// While something has a deadline, log time is written down at least this often.
const TICK_MAX: Duration = Duration::from_secs(1);
/// After a refused entry, how long until another is tried although nobody asks for one: a leader that
/// is handing over refuses for a while, and keeps saying that it leads.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
const PACK_COMMANDS: usize = 8_192;

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
                        let pack = self.gather(first);
                        self.propose(pack).await;
                    }
                    None => return,
                },
                () = sleep(tick) => self.propose(Vec::new()).await,
                _ = leadership(&mut self.status) => {}
            }
        }
    }

    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = weight(&first.0);
        let mut pack = vec![first];
        while bytes < self.pack_bytes && pack.len() < PACK_COMMANDS {
            let Ok(next) = self.waiting.try_recv() else { break };
            bytes += weight(&next.0);
            pack.push(next);
        }
        // Nobody waits for these any more, and none of them was ever proposed.
        pack.retain(|(_, caller)| !caller.is_closed());
        pack
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
        let (due, last, max_step) =
            self.state.read(|shard| (shard.next_deadline(), shard.now(), shard.max_step()));
        let now = self.log_time.now(epoch, last, max_step);
        let least = if self.refused { REFUSED_PAUSE } else { Duration::ZERO };
        // An entry moves log time by one step at most: rarer ticks would make it lag behind.
        let most = TICK_MAX.min(Duration::from_millis(max_step.0 / 2)).max(least);
        due.map(|due| Duration::from_millis(due.since(now).0).clamp(least, most))
    }
}

fn answer(callers: Vec<oneshot::Sender<Result<Applied, ProposeError>>>, index: Index, replies: Vec<Reply>) {
    for (caller, reply) in callers.into_iter().zip(replies) {
        let _ = caller.send(Ok(Applied { index, reply }));
    }
}

fn fail(callers: Vec<oneshot::Sender<Result<Applied, ProposeError>>>, error: &ProposeError) {
    for caller in callers {
        let _ = caller.send(Err(error.clone()));
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

fn weight(command: &Command) -> usize {
    match &command.op {
        Op::Queue(QueueOp::Push { messages, .. }) => {
            messages.iter().map(|message| message.body.len() + 64).sum()
        }
        _ => 128,
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when this node begins or ceases to lead.
async fn leadership(status: &mut watch::Receiver<Status>) {
    let before = status.borrow_and_update().leading;
    if status.wait_for(|status| status.leading != before).await.is_err() {
        std::future::pending().await
    }
}
