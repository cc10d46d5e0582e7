//! A queue may hold millions: what one costs, and that nobody pays for his neighbour's backlog.

use bytes::Bytes;
use lockstep_core::command::{Command, NewMessage, Op, QueueOp, Reply, RequestKey};
use lockstep_core::names::{Incarnation, MessageKey, NodeId, Origin, QueueName, Receipt, ShardId};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Stamp};

struct Run {
    shard: Shard,
    seq: u64,
}

impl Run {
    fn new() -> Self {
        let settings = Settings {
            max_step: Millis(1_000),
            memo_max: 10,
            waiters_max: 10,
            queue_shards: 1,
            messages_max: u64::MAX,
            bytes_max: u64::MAX,
        };
        Self { shard: Shard::new(ShardId(1), settings), seq: 0 }
    }

    fn apply(&mut self, op: QueueOp) -> Reply {
        self.seq += 1;
        let origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
        let request = RequestKey::Node { origin, seq: self.seq, settled_below: self.seq };
        let command = Command { request, not_after: Millis(10), guard: None, op: Op::Queue(op) };
        let stamp = Stamp { index: Index(self.seq), epoch: Epoch(1), now: Millis(1) };
        self.shard.apply(stamp, &command).0
    }

    fn push(&mut self, key: &str, count: u64) {
        for _ in 0..count / 1_000 {
            let message = NewMessage {
                key: Some(MessageKey(key.into())),
                body: Bytes::from_static(b"x"),
                ..NewMessage::default()
            };
            let messages = vec![message; 1_000];
            let reply = self.apply(QueueOp::Push { queue: QueueName("q".into()), messages });
            assert!(matches!(reply, Reply::Pushed(_)), "{reply:?}");
        }
    }

    /// Receives and acknowledges `rounds` messages, and says how long that took.
    fn cycle(&mut self, rounds: u32) -> std::time::Duration {
        #[allow(clippy::disallowed_types, reason = "the test measures; the core does not")]
        let begun = std::time::Instant::now();
        for _ in 0..rounds {
            let queue = QueueName("q".into());
            let reply = self.apply(QueueOp::Receive { queue, max: 2, visibility: None, session: None });
            let Reply::Received(many) = reply else { panic!("{reply:?}") };
            assert!(!many.is_empty());
            let receipts = many.iter().map(|d| Receipt { message: d.id, delivery: d.delivery }).collect();
            self.apply(QueueOp::Ack { receipts });
        }
        begun.elapsed()
    }
}

/// Were anything linear in what waits, this would take minutes: a million steps for each round.
#[test]
fn a_hot_key_with_a_million_waiting_does_not_slow_the_others() {
    let mut run = Run::new();
    run.push("cold", 10_000);
    let before = run.cycle(2_000);
    run.push("hot", 1_000_000);
    let after = run.cycle(2_000);
    let most = before * 20 + std::time::Duration::from_millis(500);
    assert!(after < most, "2000 cycles took {before:?}, then {after:?} beside a million messages");
}

/// A snapshot holds everything that memory does, a little more tightly.
#[test]
fn a_waiting_message_costs_tens_of_bytes() {
    let mut run = Run::new();
    run.push("hot", 100_000);
    let bytes = run.shard.snapshot().len();
    assert!(bytes < 100_000 * 40, "a message costs {} bytes", bytes / 100_000);
}
