//! One lock as two lists: holders and waiters.

use lockstep_core::command::{LockOp, Mode, Refusal, Reply};
use lockstep_core::names::{LockName, Owner};
use lockstep_core::query::{Answer, Query};
use lockstep_core::shard::Shard;

#[derive(Default)]
pub struct Locks {
    holders: Vec<Holder>,
    waiters: Vec<Waiter>,
    largest: u64,
}

#[derive(Clone)]
struct Holder {
    owner: Owner,
    mode: Mode,
    ttl: u64,
    until: u64,
}

struct Waiter {
    holder: Holder,
    gives_up: u64,
}

impl Locks {
    /// What time and one command make of the lock. `reply` is only looked at for contradictions.
    pub fn apply(&mut self, now: u64, op: &LockOp, reply: &Reply) {
        self.pass(now);
        match op {
            LockOp::Acquire(want) => {
                let (ttl, wait) = (want.ttl.0, want.wait.0);
                let want =
                    Holder { owner: want.holder.owner.clone(), mode: want.mode, ttl, until: now + ttl };
                self.acquire(now, want, wait, reply);
            }
            LockOp::Release { by, .. } => {
                let before = self.holders.len();
                self.holders.retain(|holder| holder.owner != by.owner);
                assert_eq!(self.holders.len() < before, *reply == Reply::Released, "{reply:?}");
                self.grant(now);
            }
            LockOp::Renew { by, .. } => {
                let held = self.holders.iter_mut().find(|holder| holder.owner == by.owner);
                // The token may be that of a grant which time has just replaced.
                let stale = matches!(reply, Reply::Refused(Refusal::StaleToken { .. }));
                assert_eq!(held.is_some(), stale || matches!(reply, Reply::Granted(_)), "{reply:?}");
                if let Some(holder) = held.filter(|_| !stale) {
                    holder.until = now + holder.ttl;
                }
            }
            _ => unreachable!("not part of this run"),
        }
    }

    /// The token that the machine last showed for `owner`, if it holds the lock.
    pub fn token(&self, owner: &Owner) -> Option<u64> {
        self.holders.iter().any(|holder| holder.owner == *owner).then_some(self.largest)
    }

    /// The machine shows the same holders and the same waiters, in the same order.
    pub fn assert_same(&mut self, shard: &Shard) {
        let Answer::Lock(view) = shard.query(&Query::Lock { name: LockName("l".into()) }) else { panic!() };
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        if let Some(view) = view {
            let exclusive = view.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
            assert!(view.holders.len() == 1 || !exclusive, "an exclusive holder is not alone: {view:?}");
            let token = view.holders[0].token.0;
            assert!(token >= self.largest, "a token went back: {token} after {}", self.largest);
            assert!(view.holders.iter().all(|holder| holder.token.0 == token), "one period, one token");
            self.largest = token;
            held.extend(view.holders.into_iter().map(|holder| (holder.holder.owner, holder.mode)));
            waiting.extend(view.waiters.into_iter().map(|waiter| (waiter.holder.owner, waiter.mode)));
        }
        let mut expected: Vec<_> = self.holders.iter().map(|h| (h.owner.clone(), h.mode)).collect();
        expected.sort();
        assert_eq!(held, expected, "holders");
        let expected: Vec<_> = self.waiters.iter().map(|w| (w.holder.owner.clone(), w.holder.mode)).collect();
        assert_eq!(waiting, expected, "waiters");
    }

    fn acquire(&mut self, now: u64, want: Holder, wait: u64, reply: &Reply) {
        if let Some(held) = self.holders.iter_mut().find(|holder| holder.owner == want.owner) {
            if held.mode == want.mode {
                held.until = held.until.max(want.until);
                held.ttl = want.ttl;
            }
            return;
        }
        if self.waiters.iter().any(|waiter| waiter.holder.owner == want.owner) {
            return;
        }
        if self.waiters.is_empty() && self.admits(want.mode) {
            assert!(matches!(reply, Reply::Granted(_)), "{reply:?}");
            self.holders.push(want);
        } else if wait > 0 {
            assert!(matches!(reply, Reply::Waiting { .. }), "{reply:?}");
            self.waiters.push(Waiter { holder: want, gives_up: now + wait });
        }
    }

    /// Everything due by `now`, in the order of time; at one instant leases end before waits do.
    fn pass(&mut self, now: u64) {
        loop {
            let lease = self.holders.iter().map(|holder| (holder.until, 0)).min();
            let wait = self.waiters.iter().map(|waiter| (waiter.gives_up, 1)).min();
            match lease.into_iter().chain(wait).min() {
                Some((at, 0)) if at <= now => {
                    let over = self.holders.iter().position(|holder| holder.until == at).unwrap();
                    self.holders.remove(over);
                }
                Some((at, _)) if at <= now => {
                    let over = self.waiters.iter().position(|waiter| waiter.gives_up == at).unwrap();
                    self.waiters.remove(over);
                }
                _ => return,
            }
            self.grant(now);
        }
    }

    fn grant(&mut self, now: u64) {
        while let Some(next) = self.waiters.first() {
            if !self.admits(next.holder.mode) {
                return;
            }
            let mut holder = self.waiters.remove(0).holder;
            holder.until = now + holder.ttl;
            self.holders.push(holder);
        }
    }

    fn admits(&self, mode: Mode) -> bool {
        self.holders.iter().all(|holder| holder.mode == Mode::Shared && mode == Mode::Shared)
    }
}
