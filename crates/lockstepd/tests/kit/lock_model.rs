//! What a lock is, for the search of [`super::linear`]: who may hold it together, and which tokens
//! they get. Leases never end in it: histories that it judges use long ones.

use super::linear::{Call, Model, linearize};

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// Beside others of the kind.
    Shared,
    /// Beside as many others as there are permits.
    Permit,
}

/// What was asked of a lock, and answered. Owners hold it once in their lives.
#[derive(Clone, Debug)]
pub enum LockOp {
    /// Granted; without a token it is not known which.
    Grant(u32, Mode, Option<u64>),
    /// A grant that nobody heard of was given back.
    GiveBack(u32),
    /// Refused, since somebody was in the way of this mode.
    Busy(Mode),
    /// Released by its holder.
    Release(u32),
    /// Refused, since the owner did not hold it.
    NotHeld(u32),
    /// The sole shared holder holds it alone from now on, under another token.
    Upgrade(u32, Option<u64>),
    /// An upgrade that nobody heard of was undone.
    Undo(u32),
    /// The exclusive holder shares it from now on, under the same token.
    Downgrade(u32),
    /// Not done, for a reason that proves nothing.
    Nothing,
}

/// A lock with so many permits.
pub struct Lock {
    /// How many may hold a permit at once.
    pub permits: usize,
}

/// Who holds it, and what of its tokens is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    /// In order of their numbers: owner, mode, and the token unless nobody was told.
    holders: Vec<(u32, Mode, Option<u64>)>,
    /// The largest token that is known.
    largest: u64,
    /// The token of the present shared period, if it is known.
    period: Option<u64>,
}

impl Held {
    fn admits(&self, mode: Mode, permits: usize) -> bool {
        match (self.holders.first().map(|holder| holder.1), mode) {
            (None, _) | (Some(Mode::Shared), Mode::Shared) => true,
            (Some(Mode::Permit), Mode::Permit) => self.holders.len() < permits,
            _ => false,
        }
    }

    /// A token must be new, or that of the shared period which its holder joins.
    fn take_token(&mut self, mode: Mode, token: Option<u64>) -> Option<()> {
        let joins = mode == Mode::Shared && !self.holders.is_empty();
        match (token, self.period) {
            (Some(token), Some(period)) if joins => return (token == period).then_some(()),
            (None, _) if joins => return Some(()),
            (Some(token), _) if token <= self.largest => return None,
            _ => {}
        }
        if mode == Mode::Shared {
            self.period = token;
        }
        self.largest = token.unwrap_or(self.largest);
        Some(())
    }

    fn position(&self, owner: u32) -> Option<usize> {
        self.holders.iter().position(|holder| holder.0 == owner)
    }

    fn insert(&mut self, owner: u32, mode: Mode, token: Option<u64>) {
        self.holders.push((owner, mode, token));
        self.holders.sort_by_key(|holder| holder.0);
    }
}

impl Model for Lock {
    type State = Held;
    type Op = LockOp;

    fn step(&self, state: &Held, op: &LockOp) -> Option<Held> {
        let mut next = state.clone();
        match *op {
            LockOp::Grant(owner, mode, token) => {
                if !state.admits(mode, self.permits) {
                    return None;
                }
                next.take_token(mode, token)?;
                next.insert(owner, mode, token);
            }
            LockOp::Release(owner) | LockOp::GiveBack(owner) => {
                next.holders.remove(state.position(owner)?);
            }
            LockOp::Upgrade(owner, token) => {
                let [(holder, Mode::Shared, _)] = state.holders[..] else { return None };
                if holder != owner {
                    return None;
                }
                next.take_token(Mode::Exclusive, token)?;
                next.holders[0] = (owner, Mode::Exclusive, token);
            }
            LockOp::Undo(owner) => {
                let [(holder, Mode::Exclusive, _)] = state.holders[..] else { return None };
                if holder != owner {
                    return None;
                }
                next.holders[0] = (owner, Mode::Shared, state.period);
            }
            LockOp::Downgrade(owner) => {
                let [(holder, Mode::Exclusive, token)] = state.holders[..] else { return None };
                if holder != owner {
                    return None;
                }
                next.period = token;
                next.holders[0] = (owner, Mode::Shared, token);
            }
            LockOp::Busy(mode) if state.admits(mode, self.permits) => return None,
            LockOp::NotHeld(owner) if state.position(owner).is_some() => return None,
            LockOp::Busy(_) | LockOp::NotHeld(_) | LockOp::Nothing => {}
        }
        Some(next)
    }
}

/// Whether calls of one lock are those of a lock with so many permits.
pub fn is_that_of_a_lock(permits: usize, calls: &[Call<LockOp>]) -> bool {
    linearize(&Lock { permits }, Held::default(), calls).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(begun: u64, ended: u64, op: LockOp) -> Call<LockOp> {
        Call { op, begun, ended: Some(ended), optional: false }
    }

    fn maybe(begun: u64, op: LockOp) -> Call<LockOp> {
        Call { op, begun, ended: None, optional: true }
    }

    fn fits(calls: &[Call<LockOp>]) -> bool {
        is_that_of_a_lock(2, calls)
    }

    use LockOp::{Busy, Downgrade, GiveBack, Grant, NotHeld, Release, Undo, Upgrade};
    use Mode::{Exclusive, Permit, Shared};

    #[test]
    fn two_exclusive_holders_at_once_are_refused_and_one_after_the_other_is_not() {
        let of = |second_asked: u64, second_token: u64| {
            vec![
                call(0, 10, Grant(1, Exclusive, Some(5))),
                call(second_asked, 30, Grant(2, Exclusive, Some(second_token))),
                call(40, 50, Release(1)),
                call(60, 70, Release(2)),
            ]
        };
        assert!(!fits(&of(20, 7)), "the first was released after the second was granted");
        let mut overlapping = of(20, 7);
        overlapping[1].ended = Some(55);
        assert!(fits(&overlapping), "the second may have waited for the first");
        overlapping[1].op = Grant(2, Exclusive, Some(4));
        assert!(!fits(&overlapping), "its token went back");
    }

    #[test]
    fn readers_share_a_token_as_long_as_they_overlap() {
        let of = |token: u64, released: u64| {
            vec![
                call(0, 1, Grant(1, Shared, Some(5))),
                call(released, released + 1, Release(1)),
                call(20, 21, Grant(2, Shared, Some(token))),
                call(30, 31, Release(2)),
            ]
        };
        assert!(fits(&of(5, 40)));
        assert!(!fits(&of(6, 40)), "a second token in one period");
        assert!(fits(&of(6, 10)));
        assert!(!fits(&of(5, 10)), "a token twice");
        let mut with_writer = of(5, 40);
        with_writer.push(call(25, 26, Grant(3, Exclusive, Some(9))));
        assert!(!fits(&with_writer));
    }

    #[test]
    fn there_are_no_more_permits_than_there_are() {
        let mut calls = vec![
            call(0, 1, Grant(1, Permit, Some(1))),
            call(2, 3, Grant(2, Permit, Some(2))),
            call(4, 5, Busy(Permit)),
            call(8, 9, Release(1)),
        ];
        assert!(fits(&calls));
        calls.push(call(6, 7, Grant(3, Permit, Some(3))));
        assert!(!fits(&calls));
        calls[4].ended = Some(10);
        assert!(fits(&calls));
        assert!(!fits(&[call(0, 1, Busy(Permit))]), "nobody was in the way");
    }

    #[test]
    fn an_upgrade_needs_to_be_alone_and_gets_another_token() {
        let of = |token: Option<u64>, other_left: u64| {
            vec![
                call(0, 1, Grant(1, Shared, Some(5))),
                call(2, 3, Grant(2, Shared, Some(5))),
                call(other_left, other_left + 1, Release(2)),
                call(10, 11, Upgrade(1, token)),
                call(12, 13, Downgrade(1)),
                call(14, 15, Grant(3, Shared, token)),
                call(30, 31, NotHeld(2)),
            ]
        };
        assert!(fits(&of(Some(8), 5)));
        assert!(!fits(&of(Some(5), 5)), "the same token");
        assert!(!fits(&of(Some(8), 20)), "the other was still there");
    }

    #[test]
    fn what_nobody_heard_of_may_have_been_or_not() {
        let lost = [maybe(0, Grant(9, Exclusive, None)), maybe(0, GiveBack(9))];
        let hold = |token: u64| [call(10, 11, Grant(1, Exclusive, Some(token))), call(20, 21, Release(1))];
        let all = |calls: &[&[Call<LockOp>]]| calls.concat();
        assert!(fits(&all(&[&lost, &hold(3)])));
        assert!(fits(&all(&[&lost, &[call(5, 6, Busy(Exclusive))], &hold(3)])), "it was in the way");
        assert!(!fits(&all(&[&[call(5, 6, Busy(Exclusive))], &hold(3)])), "nobody was");
        let mut too_late = lost.clone();
        too_late[0].ended = Some(2);
        too_late[1].ended = Some(4);
        assert!(!fits(&all(&[&too_late, &hold(3), &[call(25, 26, Busy(Exclusive))]])), "it was gone by then");
        let undone = [
            call(0, 1, Grant(1, Shared, Some(5))),
            maybe(2, Upgrade(1, None)),
            maybe(2, Undo(1)),
            call(3, 4, Busy(Shared)),
            call(6, 7, Grant(2, Shared, Some(5))),
        ];
        assert!(fits(&undone));
    }

    #[test]
    fn a_long_history_of_many_clients_is_judged_quickly() {
        let mut calls = Vec::new();
        for round in 0..300u32 {
            let at = u64::from(round) * 10;
            // Six ask at once, and each is granted in turn.
            let owner = round + 1;
            calls.push(call(at.saturating_sub(50), at + 8, Grant(owner, Exclusive, Some(u64::from(owner)))));
            calls.push(call(at + 9, at + 12, Release(owner)));
        }
        assert!(fits(&calls));
        let stuck = calls.len() - 1;
        calls[stuck].op = NotHeld(300);
        assert!(!fits(&calls));
    }
}
