//! A state over real files: saved while it changes, read back, replaced.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_core::command::{NewMessage, QueueOp, RequestKey};
use lockstep_core::names::{Incarnation, MessageId, NodeId, Origin, QueueName, ShardId};
use lockstep_core::shard::Settings;
use lockstep_core::{Command, Epoch, Index, Millis, Op, Pack, Reply, Shard};

use super::*;
use crate::store::snapshots::Snapshots;

const SHARD: ShardId = ShardId(1);

struct Fixture {
    snapshots: Snapshots,
    state: Arc<State>,
    index: u64,
}

impl Fixture {
    fn open(data: &Path) -> Self {
        let bodies = crate::store::bodies::Settings { segment_bytes: 4_096, cache_bytes: 0 };
        let snapshots = Snapshots::open(data, bodies).unwrap();
        let settings = Settings {
            max_step: Millis(1_000),
            memo_max: 1_000,
            waiters_max: 10,
            queue_shards: 1,
            messages_max: 1_000_000,
            bytes_max: 1 << 30,
        };
        let state = State::with_bodies(SHARD, settings, snapshots.bodies(SHARD).unwrap());
        state.load(snapshots.load(SHARD).unwrap(), &snapshots).unwrap();
        let index = state.read(Shard::applied).0;
        Self { snapshots, state, index }
    }

    fn run(&mut self, op: QueueOp) -> Reply {
        self.index += 1;
        let origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
        // Each request settles the one before.
        let request = RequestKey::Node { origin, seq: self.index, settled_below: self.index };
        let command = Command { request, not_after: Millis(60_000), guard: None, op: Op::Queue(op) };
        let pack = Pack { now: Millis(1), settings: None, commands: vec![command] };
        self.state.apply(Index(self.index), Epoch(1), &pack).remove(0)
    }

    fn push(&mut self, payload: &str) -> MessageId {
        let body = Bytes::copy_from_slice(payload.as_bytes());
        let message = NewMessage { body, ..NewMessage::default() };
        match self.run(QueueOp::Push { queue: QueueName("q".into()), messages: vec![message] }) {
            Reply::Pushed(placed) => placed[0].as_ref().unwrap().id,
            other => panic!("not pushed: {other:?}"),
        }
    }

    fn pop(&mut self) -> MessageId {
        match self.run(QueueOp::Pop { queue: QueueName("q".into()) }) {
            Reply::Popped(Some(message)) => message.id,
            other => panic!("not popped: {other:?}"),
        }
    }

    fn save(&self) -> bool {
        self.state.save(self.state.freeze(), "meta".into(), &self.snapshots).unwrap().is_some()
    }
}

#[test]
fn a_saved_state_comes_back_with_its_bodies_and_without_those_that_were_done() {
    let data = tempfile::tempdir().unwrap();
    let mut one = Fixture::open(data.path());
    let ids: Vec<MessageId> = (0..500).map(|n| one.push(&format!("payload {n}"))).collect();
    for _ in 0..300 {
        one.pop();
    }
    assert!(one.save());
    one.push("not in the snapshot");
    let two = Fixture::open(data.path());
    assert_eq!(two.state.read(Shard::applied).0, 800);
    for (n, id) in ids.iter().enumerate() {
        // The last pop has a memo that still speaks of its message.
        let expected = (n >= 299).then(|| Bytes::from(format!("payload {n}")));
        assert_eq!(two.state.body(*id).unwrap(), expected, "{n}");
    }
}

#[test]
fn a_state_that_was_replaced_meanwhile_is_not_saved_over_the_new_one() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = Fixture::open(here.path());
    for n in 0..50 {
        leader.push(&format!("leader's {n}"));
    }
    let image = leader.state.freeze();
    let saved = leader.state.save(image, "meta".into(), &leader.snapshots).unwrap().unwrap();
    let mut follower = Fixture::open(there.path());
    let mine = follower.push("mine");
    let frozen = follower.state.freeze();
    let mut arriving = follower.snapshots.receive(SHARD).unwrap();
    for file in 0..saved.bodies.files() {
        arriving.bodies(file, &saved.bodies.read(file, 0, 1 << 20).unwrap()).unwrap();
    }
    arriving.core(&saved.read_core(0, 1 << 20).unwrap());
    follower.state.take(arriving.finish("theirs".into()).unwrap(), &follower.snapshots).unwrap();
    let late = follower.state.save(frozen, "late".into(), &follower.snapshots).unwrap();
    assert!(late.is_none());
    assert_eq!(follower.state.snapshot().unwrap(), leader.state.snapshot().unwrap());
    let again = Fixture::open(there.path());
    assert_eq!(again.state.snapshot().unwrap(), leader.state.snapshot().unwrap());
    assert_eq!(again.state.body(mine).unwrap(), Some("leader's 0".into()), "the same id, another history");
}

#[test]
fn drained_space_is_given_back_by_the_next_snapshot() {
    let data = tempfile::tempdir().unwrap();
    let mut one = Fixture::open(data.path());
    for n in 0..500 {
        one.push(&format!("payload {n}"));
    }
    one.save();
    assert!(one.state.body_bytes() > 10_000);
    for _ in 0..500 {
        one.pop();
    }
    one.push("the last pop's memo is settled by this");
    one.pop();
    assert!(one.state.garbage() > 10_000);
    one.save();
    assert!(one.state.body_bytes() < 4_096, "{}", one.state.body_bytes());
}
