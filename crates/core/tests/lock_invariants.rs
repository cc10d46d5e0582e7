//! Random commands of every kind on a few locks, and what must hold after each of them: who may hold
//! together, that nobody waits without a reason, that queues keep their order, that tokens grow, that
//! no caller who hangs up takes a lock from a holder who has shown that it knows of it.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_core::command::{
    Acquire, Attempt, Claimant, Command, Holder, LockOp, Mode, Op, RequestKey, SessionOp,
};
use lockstep_core::names::{Incarnation, LockName, NodeId, Origin, Owner, SessionId, ShardId, Ticket, Token};
use lockstep_core::query::{Answer, LockView, Query};
use lockstep_core::shard::{Settings, Shard};
use lockstep_core::{Epoch, Index, Millis, Refusal, Reply, Stamp};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Acquire { owner: u8, names: u8, mode: u8, session: u8, ttl: u64, wait: u64, delay: u64, careful: bool },
    Release(u8, u8),
    Renew(u8, u8),
    Upgrade(u8, u8, u64),
    Downgrade(u8, u8),
    Break(u8),
    Cancel(u8),
    Open,
    Beat(u8),
    Close(u8),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let acquire = (0..5u8, 1..8u8, 0..4u8, 0..5u8, 5..300u64, 0..3u64, 0..4u64, any::<bool>()).prop_map(
        |(owner, names, mode, session, ttl, wait, delay, careful)| Step::Acquire {
            owner,
            names,
            mode,
            session,
            ttl,
            wait: wait * 150,
            delay: delay.saturating_sub(2) * 20,
            careful,
        },
    );
    let step = prop_oneof![
        8 => acquire,
        4 => (0..5u8, 1..8u8).prop_map(|(owner, names)| Step::Release(owner, names)),
        1 => (0..5u8, 1..8u8).prop_map(|(owner, names)| Step::Renew(owner, names)),
        2 => (0..5u8, 0..3u8, 0..2u64).prop_map(|(owner, name, wait)| Step::Upgrade(owner, name, wait * 100)),
        1 => (0..5u8, 0..3u8).prop_map(|(owner, name)| Step::Downgrade(owner, name)),
        1 => (0..3u8).prop_map(Step::Break),
        3 => any::<u8>().prop_map(Step::Cancel),
        1 => Just(Step::Open),
        1 => (0..5u8).prop_map(Step::Beat),
        1 => (0..5u8).prop_map(Step::Close),
    ];
    prop::collection::vec((prop_oneof![3 => Just(0), 2 => 1..60u64], step), 1..150)
}

struct Run {
    shard: Shard,
    now: u64,
    log: Vec<(Stamp, Command)>,
    sessions: Vec<SessionId>,
    tickets: Vec<Ticket>,
    before: BTreeMap<String, LockView>,
    largest: BTreeMap<String, u64>,
    /// Holds that their holders have renewed: name, owner, token.
    known: BTreeSet<(String, String, Token)>,
}

fn fresh() -> Shard {
    let settings = Settings {
        max_step: Millis(10_000),
        memo_max: 1_000,
        waiters_max: 1_000,
        queue_shards: 1,
        messages_max: 1,
        bytes_max: 1,
    };
    Shard::new(ShardId(0), settings)
}

impl Run {
    fn new() -> Self {
        Self {
            shard: fresh(),
            now: 0,
            log: Vec::new(),
            sessions: Vec::new(),
            tickets: Vec::new(),
            before: BTreeMap::new(),
            largest: BTreeMap::new(),
            known: BTreeSet::new(),
        }
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

    fn op(&self, step: &Step) -> Op {
        let lock = |nth: u8| LockName(["a", "b", "c"][usize::from(nth)].into());
        let names = |bits: u8| (0..3).filter(|nth| bits & (1 << nth) != 0).map(lock).collect::<Vec<_>>();
        let owner = |n: u8| Owner(n.to_string().into());
        let session = |nth: u8| self.sessions.get(usize::from(nth)).copied();
        let by = |n: u8| Claimant { owner: owner(n), session: None, token: None };
        // One of two callers, as it comes: each may hang up.
        let attempt = Attempt { number: self.log.len() as u64 % 2, ..Attempt::default() };
        Op::Lock(match step {
            Step::Acquire { owner: n, names: bits, mode, session: nth, ttl, wait, delay, careful } => {
                let mode = [Mode::Exclusive, Mode::Exclusive, Mode::Shared, Mode::Permit][usize::from(*mode)];
                LockOp::Acquire(Box::new(Acquire {
                    names: names(*bits),
                    holder: Holder { owner: owner(*n), session: session(*nth) },
                    mode,
                    limit: if mode == Mode::Permit { 2 } else { 0 },
                    ttl: Millis(*ttl),
                    wait: Millis(*wait),
                    delay: Millis(*delay),
                    metadata: None,
                    fail_on_deadlock: *careful,
                    attempt,
                }))
            }
            Step::Release(n, bits) => LockOp::Release { names: names(*bits), by: by(*n) },
            Step::Renew(n, bits) => LockOp::Renew { names: names(*bits), by: by(*n), ttl: None },
            Step::Upgrade(n, name, wait) => LockOp::Upgrade {
                name: lock(*name),
                by: by(*n),
                wait: Millis(*wait),
                fail_on_deadlock: true,
                attempt,
            },
            Step::Downgrade(n, name) => LockOp::Downgrade { name: lock(*name), by: by(*n) },
            Step::Break(name) => LockOp::Break {
                name: lock(*name),
                token: None,
                reason: "test".into(),
                by: "test".into(),
                asked_at: 0,
            },
            Step::Cancel(nth) => {
                let ticket = self.tickets.get(usize::from(*nth) % self.tickets.len().max(1));
                LockOp::Cancel { ticket: ticket.copied().unwrap_or(Ticket(0)), attempt }
            }
            Step::Open => return Op::Session(SessionOp::Open { owner: owner(0), ttl: Millis(200) }),
            Step::Beat(nth) => {
                return Op::Session(SessionOp::Renew { sessions: session(*nth).into_iter().collect() });
            }
            Step::Close(nth) => {
                return Op::Session(SessionOp::Close { session: session(*nth).unwrap_or(SessionId(0)) });
            }
        })
    }

    fn views(&self) -> BTreeMap<String, LockView> {
        let query = Query::Locks { prefix: String::new(), after: None, limit: 100 };
        let Answer::Locks(locks) = self.shard.query(&query) else { panic!("no locks") };
        locks.into_iter().map(|view| (view.name.0.to_string(), view)).collect()
    }

    /// What a holder knows that it holds: it has renewed it.
    fn learn(&mut self, step: &Step, reply: &Reply) {
        let (Step::Renew(owner, bits), Reply::Granted(_)) = (step, reply) else { return };
        for (nth, name) in ["a", "b", "c"].into_iter().enumerate() {
            let mut holders = self.before.get(name).into_iter().flat_map(|view| &view.holders);
            let owner = owner.to_string();
            if bits & (1 << nth) != 0
                && let Some(holder) = holders.find(|holder| *holder.holder.owner.0 == owner)
            {
                self.known.insert((name.to_owned(), owner, holder.token));
            }
        }
    }

    /// A caller hung up, and no time has passed: nothing ended of which its holder knows.
    fn nothing_known_ended(&self, after: &BTreeMap<String, LockView>) {
        let holds = |views: &BTreeMap<String, LockView>| {
            let all = views.iter().flat_map(|(name, view)| view.holders.iter().map(move |held| (name, held)));
            let all = all.map(|(name, held)| (name.clone(), held.holder.owner.0.to_string(), held.token));
            all.collect::<BTreeSet<_>>()
        };
        let (before, after) = (holds(&self.before), holds(after));
        let ended: Vec<_> = before.intersection(&self.known).filter(|hold| !after.contains(*hold)).collect();
        assert!(ended.is_empty(), "somebody hung up, and {ended:?} ended");
    }

    fn check(&mut self, passed: u64, step: &Step, reply: &Reply) {
        let after = self.views();
        if passed == 0 && matches!(step, Step::Cancel(_)) {
            self.nothing_known_ended(&after);
        }
        for (name, view) in &after {
            compatible(view);
            // Nobody waits whom nothing keeps from going on.
            for waiter in &view.waiters {
                let delayed = waiter.names.iter().any(|n| after[&*n.0].delayed.is_some());
                assert!(delayed || !waiter.blocked_by.is_empty(), "a lost waiter at {name}: {view:?}");
            }
            self.in_order(name, view);
            let newest = view.holders.iter().map(|holder| holder.token.0).max().unwrap_or(0);
            let largest = self.largest.entry(name.clone()).or_default();
            let exclusive = view.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
            assert!(!exclusive || newest >= *largest, "a token of {name} went back");
            *largest = newest.max(*largest);
        }
        if let Reply::Refused(Refusal::Deadlock { cycle }) = reply {
            let owners: BTreeSet<_> = cycle.iter().map(|(owner, _)| owner).collect();
            assert!(!owners.is_empty() && cycle.len() >= owners.len(), "{cycle:?}");
        }
        self.before = after;
        self.learn(step, reply);
    }

    /// Those who waited before and still do stand in the same order, except for upgrades.
    fn in_order(&self, name: &str, view: &LockView) {
        let usual = |view: &LockView| {
            let waiters = view.waiters.iter().filter(|waiter| !waiter.upgrade);
            waiters.map(|waiter| waiter.ticket).collect::<Vec<_>>()
        };
        let now = usual(view);
        assert!(now.windows(2).all(|pair| pair[0] < pair[1]), "{name}: first come, first served");
        let kept: BTreeSet<_> = now.iter().collect();
        if let Some(before) = self.before.get(name) {
            let before = usual(before);
            let stayed: Vec<_> = before.iter().filter(|ticket| kept.contains(ticket)).collect();
            assert!(now.iter().zip(stayed).all(|(a, b)| a == b), "{name}: somebody was overtaken");
        }
    }
}

fn compatible(view: &LockView) {
    let modes: BTreeSet<_> = view.holders.iter().map(|holder| holder.mode).collect();
    assert!(modes.len() <= 1, "{view:?}");
    let tokens: BTreeSet<Token> = view.holders.iter().map(|holder| holder.token).collect();
    match modes.first() {
        Some(Mode::Exclusive) => assert_eq!(view.holders.len(), 1, "{view:?}"),
        Some(Mode::Shared) => assert_eq!(tokens.len(), 1, "one period, one token: {view:?}"),
        Some(Mode::Permit) => {
            assert!(view.holders.len() <= 2, "{view:?}");
            assert_eq!(tokens.len(), view.holders.len(), "{view:?}");
        }
        None => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn locks_of_every_kind_keep_their_promises(steps in steps()) {
        let mut run = Run::new();
        for (passed, step) in &steps {
            let op = run.op(step);
            let reply = run.apply(*passed, op);
            match &reply {
                Reply::Opened(lease) => run.sessions.push(lease.session),
                Reply::Waiting { ticket } => run.tickets.push(*ticket),
                Reply::Granted(grant) => run.tickets.extend(grant.ticket),
                _ => {}
            }
            run.check(*passed, step, &reply);
        }
        // Everything ends once everybody is silent, leases first and delays after them: nothing leaks.
        let end = |nth: u64| Stamp { index: Index(999 + nth), epoch: Epoch(1), now: Millis(run.now + 5_000 * nth) };
        let ends: Vec<_> = (1..20).map(end).collect();
        ends.iter().for_each(|end| drop(run.shard.advance(*end)));
        prop_assert!(run.views().is_empty(), "{:?}", run.views());
        // Another replica holds the same bytes, also from a snapshot on.
        let mut replica = fresh();
        for (nth, (stamp, command)) in run.log.iter().enumerate() {
            if nth == run.log.len() / 2 {
                replica = Shard::restore(&replica.snapshot()).unwrap();
            }
            replica.apply(*stamp, command);
        }
        ends.iter().for_each(|end| drop(replica.advance(*end)));
        prop_assert_eq!(replica.snapshot(), run.shard.snapshot());
    }
}
