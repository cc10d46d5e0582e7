//! Whether a concurrent history could have happened one step after another.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993): take any operation
//! that began before every open one ended, ask the model whether it could come next, go on, turn back.
//! Positions that were seen before are not searched again (Lowe, "Testing for linearizability", 2017).
//! It knows nothing of locks; the model does.

use std::collections::HashSet;
use std::hash::Hash;

/// What may happen to a thing, and how that changes it.
pub trait Model {
    /// The thing.
    type State: Clone + Eq + Hash;
    /// Something that was done to it, with what was answered.
    type Op;

    /// The thing as `op` leaves it; `None` where `op` cannot have been answered so.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// One operation of a history. Times are of any one clock.
#[derive(Clone, Debug)]
pub struct Call<Op> {
    /// What.
    pub op: Op,
    /// When it was asked for: it happened later.
    pub begun: u64,
    /// When it was answered: it happened earlier. `None`: whether it ever happens nobody knows.
    pub ended: Option<u64>,
    /// It may as well not have happened at all.
    pub optional: bool,
}

/// How far a search may go before it gives up, which is no answer.
const STEPS_MAX: usize = 4_000_000;

/// An order in which the calls may have happened, as places in `calls`; `None` if there is none.
///
/// # Panics
/// Where the search is too long to be finished.
pub fn linearize<M: Model>(model: &M, start: M::State, calls: &[Call<M::Op>]) -> Option<Vec<usize>> {
    let mut search = Search { model, calls, seen: HashSet::new(), order: Vec::new(), steps: 0 };
    let mut open = Open::new(calls);
    let found = search.go(start, &mut open);
    found.then_some(search.order)
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    seen: HashSet<(Vec<u64>, M::State)>,
    order: Vec<usize>,
    steps: usize,
}

/// Which calls are still to be placed, by the time when they began.
#[derive(Clone)]
struct Open {
    by_begin: Vec<usize>,
    placed: Vec<u64>,
    /// Everything before this in `by_begin` is placed.
    from: usize,
    /// The latest beginning of a placed call: nothing may follow it that had ended by then.
    latest: u64,
}

impl Open {
    fn new<Op>(calls: &[Call<Op>]) -> Self {
        let mut by_begin: Vec<usize> = (0..calls.len()).collect();
        by_begin.sort_by_key(|nth| calls[*nth].begun);
        Self { by_begin, placed: vec![0; calls.len().div_ceil(64)], from: 0, latest: 0 }
    }

    fn is_placed(&self, call: usize) -> bool {
        self.placed[call / 64] >> (call % 64) & 1 == 1
    }

    fn rest(&self) -> impl Iterator<Item = usize> {
        self.by_begin[self.from..].iter().copied().filter(|call| !self.is_placed(*call))
    }

    fn place(&mut self, call: usize, begun: u64) {
        self.latest = self.latest.max(begun);
        self.placed[call / 64] |= 1 << (call % 64);
        while self.by_begin.get(self.from).is_some_and(|first| self.is_placed(*first)) {
            self.from += 1;
        }
    }

    fn take_back(&mut self, call: usize, (from, latest): (usize, u64)) {
        self.placed[call / 64] &= !(1 << (call % 64));
        (self.from, self.latest) = (from, latest);
    }
}

/// One place on the way: how the thing is there, what may come next, and what was tried.
struct Place<S> {
    state: S,
    next: std::vec::IntoIter<usize>,
    /// The call that led here, and what [`Open`] was before it.
    by: Option<(usize, (usize, u64))>,
}

impl<M: Model> Search<'_, M> {
    /// By a path of its own: histories are longer than stacks are deep.
    fn go(&mut self, start: M::State, open: &mut Open) -> bool {
        let mut path = Vec::from_iter(self.enter(start, None, open));
        while let Some(place) = path.last_mut() {
            if open.rest().all(|call| self.calls[call].optional) {
                self.order = path.iter().filter_map(|place| Some(place.by?.0)).collect();
                return true;
            }
            let Some(call) = place.next.next() else {
                if let Some((call, before)) = path.pop().and_then(|place| place.by) {
                    open.take_back(call, before);
                }
                continue;
            };
            let Some(state) = self.model.step(&place.state, &self.calls[call].op) else { continue };
            let before = (open.from, open.latest);
            open.place(call, self.calls[call].begun);
            match self.enter(state, Some((call, before)), open) {
                Some(place) => path.push(place),
                None => open.take_back(call, before),
            }
        }
        false
    }

    /// `None` where the search has been before.
    fn enter(
        &mut self,
        state: M::State,
        by: Option<(usize, (usize, u64))>,
        open: &Open,
    ) -> Option<Place<M::State>> {
        if !self.seen.insert((open.placed.clone(), state.clone())) {
            return None;
        }
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "no answer after {STEPS_MAX} steps over {} calls", self.calls.len());
        Some(Place { state, next: self.next(open).into_iter(), by })
    }

    /// What may come next began before every other open call had ended, and ends after all that came
    /// had begun.
    fn next(&self, open: &Open) -> Vec<usize> {
        let calls = self.calls;
        let end = |call: usize| calls[call].ended.unwrap_or(u64::MAX);
        let (mut first_end, mut next) = (u64::MAX, Vec::new());
        for call in open.rest() {
            if calls[call].begun > first_end {
                break;
            }
            if !calls[call].optional {
                first_end = first_end.min(end(call));
            }
            next.push(call);
        }
        next.retain(|call| calls[*call].begun <= first_end && end(*call) >= open.latest);
        next
    }
}
