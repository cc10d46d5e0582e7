//! Read points: one look at the stream's last id serves everybody who waits. Still this reign's?
//!
//! A caller may only share a look that begins after it asked; one is under way at a time.

use lockstep_core::{Epoch, Index};
use redis::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::entry::parse_id;
use super::keys::Keys;
use super::link::Link;
use crate::log::{BarrierError, Status};

pub(super) type Waiting = oneshot::Sender<Result<Index, BarrierError>>;

/// Serves barriers until every sender has gone.
pub(super) async fn run(
    mut link: Link,
    keys: Keys,
    mut status: watch::Receiver<Status>,
    mut applied: watch::Receiver<Index>,
    mut waiting: mpsc::UnboundedReceiver<Waiting>,
) {
    while let Some(first) = waiting.recv().await {
        tokio::task::yield_now().await;
        let mut callers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            callers.push(next);
        }
        let reached = look(&mut link, &keys, &mut status, &mut applied).await;
        for caller in callers {
            let _ = caller.send(reached.clone());
        }
    }
}

async fn look(
    link: &mut Link,
    keys: &Keys,
    status: &mut watch::Receiver<Status>,
    applied: &mut watch::Receiver<Index>,
) -> Result<Index, BarrierError> {
    let before = status.borrow().clone();
    if !before.leading {
        return Err(not_leading(&before));
    }
    let mut last = redis::cmd("EVAL");
    last.arg(include_str!("last.lua")).arg(1).arg(keys.log());
    let value = link.ask(&last).await.map_err(|_| BarrierError::Away)?;
    let Some((epoch, index)) = read(value) else { return Err(BarrierError::Unavailable) };
    if epoch != before.epoch {
        return Err(BarrierError::NotLeader { hint: None });
    }
    // What this node itself has just appended it is about to apply.
    tokio::select! {
        biased;
        reached = applied.wait_for(|applied| *applied >= index) => match reached {
            Ok(_) => Ok(index),
            Err(_) => Err(BarrierError::Stopped),
        },
        deposed = status.wait_for(|now| !now.leading) => match deposed {
            Ok(now) => Err(not_leading(&now)),
            Err(_) => Err(BarrierError::Stopped),
        },
    }
}

fn not_leading(status: &Status) -> BarrierError {
    match (&status.failed, &status.away) {
        (Some(_), _) => BarrierError::Stopped,
        (None, Some(_)) => BarrierError::Away,
        (None, None) => BarrierError::NotLeader { hint: status.leader },
    }
}

fn read(value: Value) -> Option<(Epoch, Index)> {
    let Value::Array(pair) = value else { return None };
    match pair.as_slice() {
        [Value::BulkString(id), Value::BulkString(index)] => {
            Some((parse_id(id)?.0, Index(std::str::from_utf8(index).ok()?.parse().ok()?)))
        }
        _ => None,
    }
}
