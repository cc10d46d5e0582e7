//! Random commands against deliberately simple models, and facts that hold for every log.

mod model;

use bytes::Bytes;
use lockstep_core::command::{Attempt, Command, LockOp, Mode, NewMessage, Op, QueueOp, RequestKey};
use lockstep_core::names::{
    Incarnation, LockName, MessageId, MessageKey, NodeId, Origin, Owner, QueueName, Receipt, ShardId, Token,
};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Pack, Reply, Stamp};
use model::{Locks, Queue};
use proptest::prelude::*;

fn settings() -> Settings {
    let (messages_max, bytes_max) = (1_000_000, 1 << 30);
    Settings { max_step: Millis(10_000), memo_max: 1_000, waiters_max: 1_000, messages_max, bytes_max }
}

/// A step of a random run: how much time passes, and what is done.
type Step<T> = (u64, T);

#[derive(Clone, Debug)]
enum QueueStep {
    Push(Option<u8>, u64),
    Pop,
    Receive(u32, u64),
    /// Acknowledge, return or extend the nth receipt that was ever handed out.
    Ack(usize),
    Nack(usize, u64),
    Extend(usize, u64),
}

#[derive(Clone, Debug)]
enum LockStep {
    Acquire(u8, bool, u64, u64),
    Release(u8),
    Renew(u8),
}

fn queue_steps() -> impl Strategy<Value = Vec<Step<QueueStep>>> {
    let step = prop_oneof![
        4 => (prop::option::of(0..3u8), prop_oneof![3 => Just(0), 1 => 1..200u64]).prop_map(|(k, d)| QueueStep::Push(k, d)),
        2 => Just(QueueStep::Pop),
        3 => (1..4u32, 1..300u64).prop_map(|(max, visibility)| QueueStep::Receive(max, visibility)),
        3 => (0..40usize).prop_map(QueueStep::Ack),
        2 => (0..40usize, prop_oneof![Just(0), 1..100u64]).prop_map(|(nth, delay)| QueueStep::Nack(nth, delay)),
        1 => (0..40usize, 1..300u64).prop_map(|(nth, visibility)| QueueStep::Extend(nth, visibility)),
    ];
    prop::collection::vec((0..50u64, step), 1..120)
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
            Op::Lock(_) | Op::Member(_) | Op::Namespace(_) => ShardId(0),
        }
    }
}

fn queue_op(step: &QueueStep, receipts: &[Receipt]) -> Option<QueueOp> {
    let queue = QueueName("q".into());
    let receipt = |nth: &usize| receipts.get(nth % receipts.len().max(1)).copied();
    Some(match step {
        QueueStep::Push(key, delay) => {
            let key = key.map(|key| MessageKey(key.to_string().into()));
            let message =
                NewMessage { key, body: Bytes::from_static(b"body"), delay: Millis(*delay), enqueued_at: 0 };
            QueueOp::Push { queue, messages: vec![message] }
        }
        QueueStep::Pop => QueueOp::Pop { queue },
        QueueStep::Receive(max, visibility) => {
            QueueOp::Receive { queue, max: *max, visibility: Millis(*visibility) }
        }
        QueueStep::Ack(nth) => QueueOp::Ack { receipts: vec![receipt(nth)?] },
        QueueStep::Nack(nth, delay) => {
            QueueOp::Nack { receipt: receipt(nth)?, delay: Millis(*delay), failed: true }
        }
        QueueStep::Extend(nth, visibility) => {
            QueueOp::Extend { receipt: receipt(nth)?, visibility: Millis(*visibility) }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_queue_does_what_its_model_does(steps in queue_steps()) {
        let (mut run, mut model, mut receipts) = (Run::new(ShardId(1)), Queue::default(), Vec::new());
        for (passed, step) in &steps {
            let Some(op) = queue_op(step, &receipts) else { continue };
            let reply = run.apply(*passed, Op::Queue(op.clone()));
            let expected = model.apply(run.now, &op, &reply);
            prop_assert_eq!(&reply, &expected, "{:?}", op);
            if let Reply::Received(delivered) = &reply {
                receipts.extend(delivered.iter().map(|d| Receipt { message: d.id, delivery: d.delivery }));
            }
        }
        if !run.log.is_empty() {
            run.assert_replicas_agree();
        }
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
                LockStep::Acquire(n, shared, ttl, wait) => LockOp::Acquire {
                    name,
                    owner: owner(n),
                    mode: if *shared { Mode::Shared } else { Mode::Exclusive },
                    ttl: Millis(*ttl),
                    wait: Millis(*wait),
                    attempt: Attempt { number: nth as u64, ..Attempt::default() },
                },
                LockStep::Release(n) => LockOp::Release { name, owner: owner(n), token: None },
                LockStep::Renew(n) => {
                    let token = model.token(&owner(n)).unwrap_or(0);
                    LockOp::Renew { name, owner: owner(n), token: Token(token), ttl: None }
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
