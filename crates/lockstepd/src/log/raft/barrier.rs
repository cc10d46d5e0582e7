//! Linearizable read points: one question to a majority serves everybody who waits.
//!
//! A caller may only share a round that begins after it asked; one round is under way at a time.

use std::time::Duration;

use lockstep_core::Index;
use lockstep_core::names::NodeId;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use super::machine::Applied;
use super::types::Raft;
use crate::log::BarrierError;

pub(super) type Waiting = oneshot::Sender<Result<Index, BarrierError>>;

/// Serves barriers until every sender has gone. A round without an answer in `patience` fails.
pub(super) async fn run(
    raft: Raft,
    mut applied: watch::Receiver<Applied>,
    mut waiting: mpsc::UnboundedReceiver<Waiting>,
    patience: Duration,
) {
    while let Some(first) = waiting.recv().await {
        tokio::task::yield_now().await;
        let mut callers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            callers.push(next);
        }
        let reached = match tokio::time::timeout(patience, round(&raft, &mut applied)).await {
            Ok(reached) => reached,
            Err(_) => Err(BarrierError::Unavailable),
        };
        for caller in callers {
            let _ = caller.send(reached.clone());
        }
    }
}

async fn round(raft: &Raft, applied: &mut watch::Receiver<Applied>) -> Result<Index, BarrierError> {
    let linearizer = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            BarrierError::NotLeader { hint: to.leader_id.map(NodeId) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => BarrierError::Unavailable,
        RaftError::Fatal(_) => BarrierError::Stopped,
    })?;
    let index = Index(linearizer.read_log_id().log_id().index);
    applied.wait_for(|(_, at)| *at >= index).await.map_err(|_| BarrierError::Stopped)?;
    Ok(index)
}
