//! Packs: every command that waits for a shard goes into one log entry.
//!
//! An entry costs a round of the network and a sync; a command inside one is nearly free. How an
//! entry becomes durable is each driver's own business.

use std::time::Duration;

use lockstep_core::command::{Cargo, Op, QueueOp};
use lockstep_core::{Command, Epoch, Index, Reply};
use tokio::sync::{mpsc, oneshot};

use super::time::LogTime;
use super::{Applied, ProposeError};
use crate::state::State;

/// While something has a deadline, log time is written down at least this often.
const TICK_MAX: Duration = Duration::from_secs(1);
const PACK_COMMANDS: usize = 8_192;

/// Who waits for a command's reply.
pub(super) type Caller = oneshot::Sender<Result<Applied, ProposeError>>;
/// A command, and who waits for its reply.
pub(super) type Waiting = (Command, Caller);

/// `first` and whatever else waits, up to about `bytes_max` bytes.
pub(super) fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>, bytes_max: usize) -> Vec<Waiting> {
    let mut bytes = weight(&first.0);
    let mut pack = vec![first];
    while bytes < bytes_max && pack.len() < PACK_COMMANDS {
        let Ok(next) = queue.try_recv() else { break };
        bytes += weight(&next.0);
        pack.push(next);
    }
    // Nobody waits for these any more, and none of them was ever proposed.
    pack.retain(|(_, caller)| !caller.is_closed());
    pack
}

/// Tells every caller of a pack its reply.
pub(super) fn answer(callers: Vec<Caller>, index: Index, replies: Vec<Reply>) {
    for (caller, reply) in callers.into_iter().zip(replies) {
        let _ = caller.send(Ok(Applied { index, reply }));
    }
}

/// Tells every caller of a pack that there is no reply.
pub(super) fn fail(callers: Vec<Caller>, error: &ProposeError) {
    for caller in callers {
        let _ = caller.send(Err(error.clone()));
    }
}

/// How long a leader may leave log time unwritten although nothing is asked, at least `least`:
/// until something is due, a second at most. `None` while nothing has a deadline.
pub(super) fn until_tick(
    state: &State,
    log_time: &mut LogTime,
    epoch: Epoch,
    least: Duration,
) -> Option<Duration> {
    let (due, last, max_step) = state.read(|shard| (shard.next_deadline(), shard.now(), shard.max_step()));
    let now = log_time.now(epoch, last, max_step);
    // An entry moves log time by one step at most: rarer ticks would make it lag behind.
    let most = TICK_MAX.min(Duration::from_millis(max_step.0 / 2)).max(least);
    due.map(|due| Duration::from_millis(due.since(now).0).clamp(least, most))
}

/// Sleeps for `time`, or for ever.
pub(super) async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Whether applying it stores something large.
pub(super) fn brings_bodies(op: &Op) -> bool {
    matches!(op, Op::Queue(QueueOp::Push { .. } | QueueOp::AckPush { .. }))
}

fn weight(command: &Command) -> usize {
    match &command.op {
        Op::Queue(QueueOp::Push { messages, .. }) => {
            messages.iter().map(|message| message.body.len() + 64).sum()
        }
        Op::Queue(QueueOp::AckPush { push, .. }) => {
            push.iter().map(|onward| onward.message.body.len() + 64).sum()
        }
        Op::Queue(QueueOp::Arrive { letters, .. }) => letters
            .iter()
            .map(|letter| match &letter.cargo {
                Cargo::Message(message) => message.body.len() + 64,
                Cargo::Room { .. } => 64,
            })
            .sum(),
        _ => 128,
    }
}
