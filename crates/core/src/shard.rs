//! One shard: composes the machines behind one pure `apply`, and writes them down as a snapshot.
//!
//! It holds no payloads: replicas keep bodies beside it, under the ids that it hands out.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cache::space::Spaces;
use crate::command::{Command, Effect, LockOp, Op, Refusal, Reply, VERSION};
use crate::configs::Configs;
use crate::context::{Context, Counter};
use crate::dedup::{Known, Memos};
use crate::guards::Marks;
use crate::locks::Locks;
use crate::members::Members;
use crate::names::{MessageId, Origin, ShardId, Ticket};
use crate::query::{Answer, Outcome, Query};
use crate::queue::{Limits, Queues};
use crate::stamp::{Epoch, Index, Millis, Stamp};

/// How far a change of leader raises the counter: further than a deposed leader can have counted
/// in a history that was lost.
const EPOCH_STEP: u64 = 1 << 20;

/// What decides besides the commands. It is part of the state, so it comes from the log alone: a
/// replica that took it from its own flags would decide otherwise than the others, and otherwise
/// when it reads its log again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The most that one entry may advance log time: at most one election time-out.
    pub max_step: Millis,
    /// How many requests are remembered at once ([`crate::Refusal::MemoFull`]).
    pub memo_max: u32,
    /// Waiters per lock ([`crate::Refusal::TooManyWaiters`]).
    pub waiters_max: u32,
    /// How many queue shards the cluster has.
    pub queue_shards: u32,
    /// Messages per queue over all shards ([`crate::Refusal::QueueFull`]).
    pub messages_max: u64,
    /// Payload bytes per queue over all shards ([`crate::Refusal::QueueFull`]).
    pub bytes_max: u64,
}

impl Default for Settings {
    /// What every shard begins with, before its first leader has said anything.
    fn default() -> Self {
        Self {
            max_step: Millis(2_000),
            memo_max: 200_000,
            waiters_max: 10_000,
            queue_shards: 1,
            messages_max: 5_000_000,
            bytes_max: 4 << 30,
        }
    }
}

impl Settings {
    fn limits(&self) -> Limits {
        Limits { messages_max: self.messages_max, bytes_max: self.bytes_max }
    }
}

/// The state of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    id: ShardId,
    settings: Settings,
    /// Where the last entry stood, and log time as of it.
    last: Stamp,
    counter: Counter,
    memos: Memos,
    members: Members,
    spaces: Spaces,
    locks: Locks,
    queues: Queues,
    marks: Marks,
    configs: Configs,
}

/// Why a snapshot could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by another version of Lockstep.
    #[error("snapshot has version {found}, this binary reads {expected}")]
    Version {
        /// In the bytes.
        found: u8,
        /// By this binary.
        expected: u8,
    },
    /// Not what was written.
    #[error("snapshot is damaged")]
    Damaged,
}

impl Shard {
    /// An empty shard.
    pub fn new(id: ShardId, settings: Settings) -> Self {
        Self {
            id,
            settings,
            last: Stamp::default(),
            counter: Counter::default(),
            memos: Memos::new(settings.memo_max),
            members: Members::default(),
            spaces: Spaces::default(),
            locks: Locks::new(settings.waiters_max),
            marks: Marks::default(),
            queues: Queues::new(id, settings.queue_shards, settings.limits()),
            configs: Configs::default(),
        }
    }

    /// Applies one command. First everything that is due by `at.now` expires.
    pub fn apply(&mut self, at: Stamp, command: &Command) -> (Reply, Vec<Effect>) {
        let mut effects = self.advance(at);
        let now = self.last.now;
        let reply = match self.memos.look_up(command, now) {
            Known::Refused(refusal) => Reply::Refused(refusal),
            Known::Answered(first) => match &command.op {
                Op::Lock(op) => self.locks.again(now, op, &first),
                Op::Queue(_) | Op::Config(_) | Op::Member(_) | Op::Namespace(_) | Op::Session(_) => first,
            },
            Known::New => {
                let reply = match command.guard.as_ref().map(|guard| self.marks.check(guard)) {
                    Some(Err(refusal)) => Reply::Refused(refusal),
                    Some(Ok(())) | None => self.run(&command.op, &mut effects),
                };
                if is_remembered(&command.op, &reply) {
                    self.memos.remember(&command.request, &reply, now);
                }
                reply
            }
        };
        (reply, effects)
    }

    /// Moves to the entry at `at` (a tick, a new leader's blank entry, or before a pack's
    /// commands): log time moves on, and what is due expires.
    pub fn advance(&mut self, at: Stamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        if at.epoch > self.last.epoch {
            let by = if self.last.epoch > Epoch(0) { EPOCH_STEP } else { 0 };
            // Where epochs follow the calendar, a history that was lost and its successor differ in theirs.
            self.counter.raise(by, (at.epoch.0 - 1).saturating_mul(EPOCH_STEP));
        }
        let now = at.now.clamp(self.last.now, self.last.now.plus(self.settings.max_step));
        self.last = Stamp { index: at.index, epoch: at.epoch.max(self.last.epoch), now };
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.expire(&mut effects);
        }
        self.memos.expire(now);
        self.queues.forget(now);
        effects
    }

    /// The earliest log time at which something expires that somebody could notice.
    pub fn next_deadline(&self) -> Option<Millis> {
        let due = [self.locks.next_deadline(), self.members.next_deadline(), self.queues.next_deadline()];
        due.into_iter().flatten().min()
    }

    /// Log time as of the last applied entry.
    pub fn now(&self) -> Millis {
        self.last.now
    }

    /// The epoch of the last applied entry.
    pub fn epoch(&self) -> Epoch {
        self.last.epoch
    }

    /// The index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.last.index
    }

    /// The most that one entry may advance log time.
    pub fn max_step(&self) -> Millis {
        self.settings.max_step
    }

    /// What decides besides the commands.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Goes on with other settings, as an entry of the log says. Nothing that is there already ends
    /// by it.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.memos.set_max(settings.memo_max);
        self.locks.set_max(settings.waiters_max);
        self.queues.set_limits(settings.queue_shards, settings.limits());
    }

    /// Answers a read from this state.
    pub fn query(&self, query: &Query) -> Answer {
        let now = self.last.now;
        let coordinates = self.id == ShardId::COORDINATION;
        match query {
            Query::Lock { name } if coordinates => Answer::Lock(self.locks.view(name, now)),
            Query::Token { name, token } if coordinates => {
                Answer::Token(self.locks.standing(name, *token, &self.counter))
            }
            Query::Session { session } if coordinates => Answer::Session(self.locks.session(*session, now)),
            Query::History { name, after, limit } if coordinates => {
                Answer::History(self.locks.history(name, *after, *limit))
            }
            Query::Audit { name, after, limit } if coordinates => {
                Answer::Audit(self.locks.audit(name.as_ref(), *after, *limit))
            }
            Query::Locks { prefix, after, limit } if coordinates => {
                Answer::Locks(self.locks.list(prefix, after.as_deref(), *limit, now))
            }
            Query::Members if coordinates => Answer::Members {
                ring_epoch: self.members.ring_epoch(),
                members: self.members.live().cloned().collect(),
            },
            Query::Namespaces if coordinates => Answer::Namespaces(self.spaces.clone()),
            Query::Queue { queue } if !coordinates => Answer::Queue(self.queues.query(queue)),
            Query::Queues { after, limit } if !coordinates => {
                Answer::Queues(self.queues.names(after.as_ref(), *limit as usize))
            }
            Query::Peek { queue, max } if !coordinates => {
                Answer::Peeked(self.queues.peek(queue, *max as usize))
            }
            Query::Take { queue, request } if !coordinates => Answer::Take {
                deliverable: self.queues.deliverable(queue),
                known: self.memos.remembers(request),
            },
            Query::Guard { guard } => {
                self.marks.look(guard).map_or_else(Answer::Refused, |()| Answer::Unfenced)
            }
            Query::Config { queue } if coordinates => Answer::Configs(self.configs.one(queue)),
            Query::Configs if coordinates => Answer::Configs(self.configs.all()),
            Query::Configs => Answer::Configs(self.queues.configs()),
            _ => Answer::Refused(Refusal::WrongShard),
        }
    }

    /// The queues, for whoever looks often and at little.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The locks and sessions, for whoever looks often and at little.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Whether this very request has been applied: applying it again changes nothing.
    pub fn knows(&self, request: &crate::command::RequestKey) -> bool {
        self.memos.knows(request)
    }

    /// What became of a waiting acquire's ticket.
    pub fn outcome(&self, ticket: Ticket) -> Outcome {
        self.locks.outcome(ticket, self.last.now)
    }

    /// Bodies that no message and no memo needs any more since the last call. Not part of the
    /// state: after a snapshot is installed, ask [`Self::body_lives`] instead.
    pub fn take_dead_bodies(&mut self) -> Vec<MessageId> {
        let mut gone = self.queues.take_removed();
        gone.extend(self.memos.take_unpinned());
        gone.retain(|id| !self.body_lives(*id));
        gone
    }

    /// Whether the body of `id` is still needed.
    pub fn body_lives(&self, id: MessageId) -> bool {
        self.queues.holds(id) || self.memos.pins(id)
    }

    /// The whole state as bytes, led by a version; bodies are not included.
    pub fn snapshot(&self) -> Bytes {
        self.snapshot_into(Vec::new()).into()
    }

    /// Appends what [`Self::snapshot`] returns to `out`, piece by piece.
    pub fn snapshot_into<W: Extend<u8>>(&self, mut out: W) -> W {
        out.extend([VERSION]);
        postcard::to_extend(self, out).expect("extending cannot fail")
    }

    /// The state that [`Self::snapshot`] wrote.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((shard, [])) => {
                    let mut shard: Self = shard;
                    shard.queues.reindex();
                    Ok(shard)
                }
                _ => Err(SnapshotError::Damaged),
            },
            Some((&found, _)) => Err(SnapshotError::Version { found, expected: VERSION }),
            None => Err(SnapshotError::Damaged),
        }
    }

    fn run(&mut self, op: &Op, effects: &mut Vec<Effect>) -> Reply {
        let mut ctx = Context { now: self.last.now, counter: &mut self.counter, effects };
        match (op, self.id) {
            (Op::Lock(op), ShardId::COORDINATION) => self.locks.apply(&mut ctx, op),
            (Op::Session(op), ShardId::COORDINATION) => self.locks.apply_session(&mut ctx, op),
            (Op::Member(op), ShardId::COORDINATION) => {
                let mut ended = Vec::new();
                let reply = self.members.apply(&mut ctx, op, &mut ended);
                cancel_tickets(&mut self.locks, &mut ctx, ended);
                reply
            }
            (Op::Config(op), ShardId::COORDINATION) => self.configs.apply(&mut ctx, op),
            (Op::Namespace(op), ShardId::COORDINATION) => self.spaces.apply(op, ctx.effects),
            (Op::Queue(op), shard) if shard != ShardId::COORDINATION => self.queues.apply(&mut ctx, op),
            _ => Reply::Refused(Refusal::WrongShard),
        }
    }

    fn expire(&mut self, effects: &mut Vec<Effect>) {
        let mut ended = Vec::new();
        self.members.expire(self.last.now, effects, &mut ended);
        let mut ctx = Context { now: self.last.now, counter: &mut self.counter, effects };
        cancel_tickets(&mut self.locks, &mut ctx, ended);
        self.locks.expire(&mut ctx);
        self.queues.expire(&mut ctx);
    }
}

/// A cancel and a check are harmless as often as they come. A guard or session without a proof comes again, under
/// the same request key, with one; and a queue that is full now may not be so for the next try.
fn is_remembered(op: &Op, reply: &Reply) -> bool {
    !matches!(op, Op::Lock(LockOp::Cancel { .. } | LockOp::Check { .. }))
        && !matches!(
            reply,
            Reply::Refused(Refusal::GuardUnproven | Refusal::SessionUnproven | Refusal::QueueFull)
        )
}

fn cancel_tickets(locks: &mut Locks, ctx: &mut Context<'_>, ended: Vec<Origin>) {
    for origin in ended {
        locks.cancel_origin(ctx, origin);
    }
}
