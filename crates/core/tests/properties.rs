//! Random commands against deliberately simple models, and facts that hold for every log.

mod model;

use bytes::Bytes;
use lockstep_core::command::{
    Acquire, Attempt, Claimant, Command, InSession, LockOp, Mode, NewMessage, Op, QueueOp, RequestKey,
};
use lockstep_core::names::{
    Incarnation, LockName, MessageId, MessageKey, NodeId, Origin, Owner, QueueName, Receipt, SessionId,
    ShardId, Token,
};
use lockstep_core::query::{Answer, Query, QueueView};
use lockstep_core::queue::{QueueConfig, Totals};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Pack, Reply, Stamp};
use model::{Locks, MAX_ATTEMPTS, Queue};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings {
        max_step: Millis(10_000),
        memo_max: 1_000,
        waiters_max: 1_000,
        queue_shards: 1,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
    }
}

/// A step of a random run: how much time passes, and what is done.
type Step<T> = (u64, T);

#[derive(Clone, Debug)]
enum QueueStep {
    Push(NewMessage),
    /// Everything else is done to the queue or to its dead letters.
    Pop(bool),
    Receive(bool, u32, u64, Option<u64>),
    /// A session's heartbeat, and the end of one.
    Beat(u64),
    End(u64),
    /// Acknowledge, return or extend the nth receipt that was ever handed out.
    Ack(usize),
    Nack(usize, u64, bool),
    Extend(usize, u64),
    Redrive(u32),
    Purge(bool),
}

#[derive(Clone, Debug)]
enum LockStep {
    Acquire(u8, bool, u64, u64),
    Release(u8),
    Renew(u8),
}

fn new_message() -> impl Strategy<Value = NewMessage> {
    let rarely = |ms: std::ops::Range<u64>| prop_oneof![3 => Just(None), 1 => ms.prop_map(Some)];
    let priority = prop_oneof![2 => Just(0), 1 => 0..3u8];
    (prop::option::of(0..3u8), rarely(1..200), rarely(1..400), priority, rarely(0..4)).prop_map(
        |(key, delay, ttl, priority, dedup)| NewMessage {
            key: key.map(|key| MessageKey(key.to_string().into())),
            body: Bytes::from_static(b"body"),
            delay: Millis(delay.unwrap_or(0)),
            ttl: ttl.map(Millis),
            priority,
            dedup: dedup.map(|id| id.to_string().into()),
            enqueued_at: 0,
        },
    )
}

fn queue_steps() -> impl Strategy<Value = Vec<Step<QueueStep>>> {
    let dead = || prop_oneof![5 => Just(false), 1 => Just(true)];
    let step = prop_oneof![
        8 => new_message().prop_map(QueueStep::Push),
        3 => dead().prop_map(QueueStep::Pop),
        8 => (dead(), 1..4u32, 1..300u64, prop::option::of(1..5u64)).prop_map(
            |(dead, max, visibility, session)| QueueStep::Receive(dead, max, visibility, session)
        ),
        3 => (1..5u64).prop_map(QueueStep::Beat),
        1 => (1..5u64).prop_map(QueueStep::End),
        4 => (0..40usize).prop_map(QueueStep::Ack),
        6 => (0..40usize, prop_oneof![Just(0), 1..100u64], any::<bool>())
            .prop_map(|(nth, delay, failed)| QueueStep::Nack(nth, delay, failed)),
        2 => (0..40usize, 1..300u64).prop_map(|(nth, visibility)| QueueStep::Extend(nth, visibility)),
        1 => (1..3u32).prop_map(QueueStep::Redrive),
        1 => dead().prop_map(QueueStep::Purge),
    ];
    prop::collection::vec((0..50u64, step), 1..160)
}

fn lock_steps() -> impl Strategy<Value = Vec<Step<LockStep>>> {
    let step = prop_oneof![
        4 => (0..5u8, any::<bool>(), 10..400u64, prop_oneof![Just(0), 1..400u64])
            .prop_map(|(owner, shared, ttl, wait)| LockStep::Acquire(owner, shared, ttl, wait)),
        3 => (0..5u8).prop_map(LockStep::Release),
        1 => (0..5u8).prop_map(LockStep::Renew),
    ];
    prop::collection::vec((0..80u64, step), 1..120)
}

/// A shard and the log that made it.
struct Run {
    shard: Shard,
    now: u64,
    log: Vec<(Stamp, Command)>,
}

impl Run {
    fn new(id: ShardId) -> Self {
        Self { shard: Shard::new(id, settings()), now: 0, log: Vec::new() }
    }

    fn apply(&mut self, passed: u64, op: Op) -> Reply {
        self.now += passed;
        let seq = self.log.len() as u64 + 1;
        let origin = Origin { node: NodeId(9), incarnation: Incarnation(1) };
        let request = RequestKey::Node { origin, seq, settled_below: seq };
        let command = Command { request, not_after: Millis(self.now + 1_000), guard: None, op };
        let stamp = Stamp { index: Index(seq), epoch: Epoch(1), now: Millis(self.now) };
        let (reply, _) = self.shard.apply(stamp, &command);
        self.log.push((stamp, command));
        reply
    }

    /// Another replica that applies the same log holds the same bytes, also when it begins with a
    /// snapshot from anywhere in between.
    fn assert_replicas_agree(&self) {
        for cut in [0, self.log.len() / 3, self.log.len() - 1] {
            let mut replica = Shard::new(self.shard_id(), settings());
            for (nth, (stamp, command)) in self.log.iter().enumerate() {
                if nth == cut {
                    replica = Shard::restore(&replica.snapshot()).unwrap();
                }
                replica.apply(*stamp, command);
            }
            assert_eq!(replica.snapshot(), self.shard.snapshot(), "snapshot at {cut}");
        }
    }

    fn shard_id(&self) -> ShardId {
        match self.log[0].1.op {
            Op::Queue(_) => ShardId(1),
            Op::Lock(_) | Op::Config(_) | Op::Member(_) | Op::Namespace(_) | Op::Session(_) => ShardId(0),
        }
    }
}

fn queue_op(step: &QueueStep, receipts: &[Receipt]) -> Option<QueueOp> {
    let queue = |dead: bool| QueueName(if dead { "q.dead" } else { "q" }.into());
    // Mostly late ones: early receipts are stale soon.
    let receipt = |nth: &usize| receipts.iter().rev().nth(*nth).copied().map(|receipt| vec![receipt]);
    Some(match step {
        QueueStep::Push(message) => QueueOp::Push { queue: queue(false), messages: vec![message.clone()] },
        QueueStep::Pop(dead) => QueueOp::Pop { queue: queue(*dead) },
        QueueStep::Receive(dead, max, visibility, session) => QueueOp::Receive {
            queue: queue(*dead),
            max: *max,
            visibility: Some(Millis(*visibility)),
            session: session.map(|id| InSession { session: SessionId(id), proven: false }),
        },
        QueueStep::Beat(session) => QueueOp::RenewSessions { sessions: vec![SessionId(*session)] },
        QueueStep::End(session) => QueueOp::EndSessions { sessions: vec![SessionId(*session)] },
        QueueStep::Ack(nth) => QueueOp::Ack { receipts: receipt(nth)? },
        QueueStep::Nack(nth, delay, failed) => {
            QueueOp::Nack { receipts: receipt(nth)?, delay: Millis(*delay), failed: *failed }
        }
        QueueStep::Extend(nth, visibility) => {
            QueueOp::Extend { receipts: receipt(nth)?, visibility: Millis(*visibility) }
        }
        QueueStep::Redrive(max) => QueueOp::Redrive { queue: queue(false), max: *max },
        QueueStep::Purge(dead) => QueueOp::Purge { queue: queue(*dead), up_to: None, max: 1_000 },
    })
}

fn queue_view(shard: &Shard, queue: &str) -> QueueView {
    match shard.query(&Query::Queue { queue: QueueName(queue.into()) }) {
        Answer::Queue(view) => view,
        other => panic!("{other:?}"),
    }
}

/// Nothing is lost and nothing comes from nowhere, in every queue and over all of them.
fn assert_conserved(shard: &Shard, model: &Queue) {
    let (mut came, mut ended, mut waits) = (0, 0, 0);
    for name in ["q", "q.dead"] {
        let view = queue_view(shard, name);
        let Totals { pushed, delivered, expired, purged, dead_lettered, redriven, dead_in, dead_out, .. } =
            view.totals;
        assert_eq!(
            pushed + redriven + dead_in,
            delivered + expired + purged + dead_lettered + dead_out + view.used.messages,
            "{name}: {view:?}"
        );
        assert_eq!(view.used.messages, model.waiting(name), "{name}");
        assert_eq!(view.used.messages, view.ready + view.in_flight + view.delayed, "{name}: {view:?}");
        came += pushed;
        ended += delivered + expired + purged;
        waits += view.used.messages;
    }
    assert_eq!(came, ended + waits);
    assert_eq!(came, model.totals.pushed);
    assert_eq!(ended, model.totals.delivered + model.totals.expired + model.totals.purged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_queue_does_what_its_model_does(steps in queue_steps()) {
        let (mut run, mut model, mut receipts) = (Run::new(ShardId(1)), Queue::default(), Vec::new());
        let config = QueueConfig { max_attempts: MAX_ATTEMPTS, ..QueueConfig::default() };
        run.apply(0, Op::Queue(QueueOp::Configure { queue: QueueName("q".into()), version: 1, config }));
        for (passed, step) in &steps {
            let Some(op) = queue_op(step, &receipts) else { continue };
            let reply = run.apply(*passed, Op::Queue(op.clone()));
            let expected = model.apply(run.now, &op, &reply);
            prop_assert_eq!(&reply, &expected, "{:?}", op);
            if let Reply::Received(delivered) = &reply {
                receipts.extend(delivered.iter().map(|d| Receipt { message: d.id, delivery: d.delivery }));
            }
        }
        run.assert_replicas_agree();
        assert_conserved(&run.shard, &model);
        for id in model.ids() {
            prop_assert!(run.shard.body_lives(MessageId(id)), "the body of {} is gone", id);
        }
    }

    #[test]
    fn a_lock_does_what_its_model_does(steps in lock_steps()) {
        let (mut run, mut model) = (Run::new(ShardId(0)), Locks::default());
        for (nth, (passed, step)) in steps.iter().enumerate() {
            let name = LockName("l".into());
            let owner = |n: &u8| Owner(n.to_string().into());
            let op = match step {
                LockStep::Acquire(n, shared, ttl, wait) => LockOp::Acquire(Box::new(Acquire {
                    mode: if *shared { Mode::Shared } else { Mode::Exclusive },
                    wait: Millis(*wait),
                    attempt: Attempt { number: nth as u64, ..Attempt::default() },
                    ..Acquire::exclusive(name, owner(n), Millis(*ttl))
                })),
                LockStep::Release(n) => {
                    let by = Claimant { owner: owner(n), session: None, token: None };
                    LockOp::Release { names: vec![name], by }
                }
                LockStep::Renew(n) => {
                    let token = model.token(&owner(n)).unwrap_or(0);
                    let by = Claimant { owner: owner(n), session: None, token: Some(Token(token)) };
                    LockOp::Renew { names: vec![name], by, ttl: None }
                }
            };
            let reply = run.apply(*passed, Op::Lock(op.clone()));
            model.apply(run.now, &op, &reply);
            model.assert_same(&run.shard);
        }
        run.assert_replicas_agree();
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut versioned = vec![lockstep_core::command::VERSION];
        versioned.extend(&bytes);
        for bytes in [&bytes, &versioned] {
            let _ = Pack::decode(bytes);
            let _ = Shard::restore(bytes);
        }
    }
}
