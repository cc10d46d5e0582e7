//! Large numbers: what a shard does at once must not keep others waiting.

#![allow(clippy::disallowed_types, reason = "what is measured here is real time")]

use std::time::{Duration, Instant};

use lockstep_core::command::{Acquire, Claimant, Command, LockOp, Op, RequestKey, SessionOp};
use lockstep_core::names::{Incarnation, LockName, NodeId, Origin, Owner, SessionId, ShardId};
use lockstep_core::query::{Answer, Query};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Reply, Stamp};

const MANY: u64 = 50_000;
/// Even on a machine that is busy with other tests. Alone it takes a small part of this.
const SHORT: Duration = Duration::from_secs(1);

struct Log {
    shard: Shard,
    seq: u64,
}

impl Log {
    fn new() -> Self {
        let settings = Settings {
            max_step: Millis(10_000),
            memo_max: 1_000,
            waiters_max: 100_000,
            queue_shards: 1,
            messages_max: 1,
            bytes_max: 1,
        };
        Self { shard: Shard::new(ShardId(0), settings), seq: 0 }
    }

    fn apply(&mut self, now: u64, op: Op) -> Reply {
        self.seq += 1;
        let origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
        let request = RequestKey::Node { origin, seq: self.seq, settled_below: self.seq };
        let command = Command { request, not_after: Millis(now + 1_000), guard: None, op };
        self.shard.apply(self.stamp(now), &command).0
    }

    fn stamp(&self, now: u64) -> Stamp {
        Stamp { index: Index(self.seq), epoch: Epoch(1), now: Millis(now) }
    }

    fn acquire(&mut self, now: u64, name: u64, change: impl FnOnce(&mut Acquire)) -> Reply {
        let (name, owner) = (LockName(format!("l{name}").into()), Owner("one".into()));
        let mut want = Acquire::exclusive(name, owner, Millis(1_000));
        change(&mut want);
        self.apply(now, Op::Lock(LockOp::Acquire(Box::new(want))))
    }

    fn held(&self) -> usize {
        let query = Query::Locks { prefix: String::new(), after: None, limit: u32::MAX };
        let Answer::Locks(locks) = self.shard.query(&query) else { panic!("no locks") };
        locks.len()
    }
}

fn assert_short(what: &str, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    let took = begun.elapsed();
    println!("{what}: {took:?}");
    assert!(took < SHORT, "{what} took {took:?}");
}

#[test]
fn fifty_thousand_leases_that_end_together_are_one_short_step() {
    let mut log = Log::new();
    for name in 0..MANY {
        assert!(matches!(log.acquire(1, name, |_| {}), Reply::Granted(_)));
    }
    assert_eq!(log.held(), 50_000);
    let stamp = log.stamp(1_001);
    assert_short("50,000 leases end", || {
        log.shard.advance(stamp);
    });
    assert_eq!(log.held(), 0);
}

#[test]
fn fifty_thousand_sessions_that_end_together_are_one_short_step() {
    let mut log = Log::new();
    for name in 0..MANY {
        let open = SessionOp::Open { owner: Owner("one".into()), ttl: Millis(1_000) };
        let Reply::Opened(lease) = log.apply(1, Op::Session(open)) else { panic!("not opened") };
        let session: SessionId = lease.session;
        let reply = log.acquire(1, name, |want| want.holder.session = Some(session));
        assert!(matches!(reply, Reply::Granted(_)));
    }
    let stamp = log.stamp(1_001);
    assert_short("50,000 sessions end", || {
        log.shard.advance(stamp);
    });
    assert_eq!(log.held(), 0);
}

/// How long it takes to hand one lock over `HAND_OVERS` times, with `waiters` in its queue.
fn hand_overs(waiters: u64) -> Duration {
    const HAND_OVERS: u64 = 2_000;
    let mut log = Log::new();
    assert!(matches!(log.acquire(1, 0, |_| {}), Reply::Granted(_)));
    for waiter in 0..waiters {
        let reply = log.acquire(1, 0, |want| {
            want.holder.owner = Owner(format!("w{waiter}").into());
            (want.wait, want.ttl) = (Millis(50_000), Millis(50_000));
        });
        assert!(matches!(reply, Reply::Waiting { .. }), "{reply:?}");
    }
    let begun = Instant::now();
    let mut owner = Owner("one".into());
    for waiter in 0..HAND_OVERS {
        let by = Claimant { owner, session: None, token: None };
        let names = vec![LockName("l0".into())];
        assert_eq!(log.apply(2, Op::Lock(LockOp::Release { names, by })), Reply::Released);
        owner = Owner(format!("w{waiter}").into());
    }
    begun.elapsed()
}

#[test]
fn a_hand_over_costs_about_the_same_however_many_wait() {
    // The shortest of a few, so that a busy machine does not decide; a scan would cost 25 times as much.
    let shortest = |waiters| (0..3).map(|_| hand_overs(waiters)).min().unwrap_or_default();
    let (few, many) = (shortest(2_000), shortest(50_000));
    println!("2,000 hand-overs with 2,000 waiters: {few:?}, with 50,000: {many:?}");
    assert!(many < few * 10, "{many:?} against {few:?}");
}
