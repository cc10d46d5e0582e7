//! How a model is walked: every order of its events, or orders drawn from a seed.
//!
//! A model asserts its invariants itself; a walk that fails prints the events that led there. It knows
//! nothing of what it walks.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use xxhash_rust::xxh3::Xxh3;

/// Something to which one of several things can happen next.
pub(in crate::cache) trait Model: Clone {
    /// One event.
    type Action: Clone + Debug;
    /// What happened on the way, so that a walk which misses it is not taken for a proof.
    type Seen: Default + Debug;

    /// What can happen next.
    fn actions(&self) -> Vec<Self::Action>;
    /// It happens.
    fn act(&mut self, action: &Self::Action, seen: &mut Self::Seen);
    /// Asserts what must be true in every state.
    fn check(&self, seen: &mut Self::Seen);
    /// How the event reads in a trace.
    fn tell(&self, action: &Self::Action) -> String {
        format!("{action:?}")
    }
    /// Writes down all that decides what can happen next: two models that write the same are the same.
    fn name(&self, into: &mut dyn Write) -> fmt::Result;
}

/// Walks every order of events until nothing more can happen. Returns what happened on the way.
pub(in crate::cache) fn exhaust<M: Model>(model: &M) -> M::Seen {
    let (mut states, mut seen) = (BTreeSet::new(), M::Seen::default());
    descend(model, model, &mut Vec::new(), &mut states, &mut seen);
    println!("{} states in every order: {seen:?}", states.len());
    seen
}

fn descend<M: Model>(
    first: &M,
    model: &M,
    path: &mut Vec<M::Action>,
    states: &mut BTreeSet<u64>,
    seen: &mut M::Seen,
) {
    for action in model.actions() {
        let mut next = model.clone();
        path.push(action);
        step(first, &mut next, path, seen, "");
        if states.insert(print(&next)) {
            descend(first, &next, path, states, seen);
        }
        path.pop();
    }
}

/// Walks orders drawn from each of these seeds, of so many events at most. Returns what happened on
/// the way of several.
pub(in crate::cache) fn wander<M: Model>(
    model: &M,
    seeds: std::ops::Range<u64>,
    events: usize,
) -> Option<M::Seen> {
    let (mut states, mut seen) = (BTreeSet::new(), M::Seen::default());
    for seed in seeds.clone() {
        let (first, mut model, mut path, mut draw) = (model, model.clone(), Vec::new(), Draw(seed));
        for _ in 0..events {
            let mut actions = model.actions();
            if actions.is_empty() {
                break;
            }
            path.push(actions.swap_remove(draw.below(actions.len())));
            step(first, &mut model, &path, &mut seen, &format!("LOCKSTEP_WALK={seed} "));
            states.insert(print(&model));
        }
    }
    println!("{} states from {} seeds: {seen:?}", states.len(), seeds.end - seeds.start);
    // One that is walked again need not show everything.
    (seeds.end - seeds.start > 1).then_some(seen)
}

fn step<M: Model>(first: &M, model: &mut M, path: &[M::Action], seen: &mut M::Seen, whence: &str) {
    let Some(action) = path.last() else { return };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        model.act(action, seen);
        model.check(seen);
    }));
    assert!(outcome.is_ok(), "{whence}leads there by\n{}", trace(first, path));
}

/// Every event that led there, one a line.
fn trace<M: Model>(first: &M, path: &[M::Action]) -> String {
    let (mut model, mut lines) = (first.clone(), Vec::new());
    for (nth, action) in path.iter().enumerate() {
        lines.push(format!("{nth:3} {}", model.tell(action)));
        if nth + 1 < path.len() {
            model.act(action, &mut M::Seen::default());
        }
    }
    lines.join("\n")
}

fn print<M: Model>(model: &M) -> u64 {
    struct Hash(Xxh3);
    impl Write for Hash {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut hash = Hash(Xxh3::new());
    model.name(&mut hash).expect("a hash takes everything");
    hash.0.digest()
}

/// Numbers from a seed. Source: `SplitMix64`, Steele, Lea and Flood (2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (z ^ (z >> 31)) % u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(drawn).unwrap_or(0)
    }
}

/// Messages on their way, in no order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cache) struct Wire<P>(Vec<P>);

/// What can happen to a message; its loss is that nothing does.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) enum Fate {
    /// It arrives.
    Deliver(usize),
    /// It arrives, and another one like it is on its way still.
    Repeat(usize),
}

impl<P> Default for Wire<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P: Clone + Debug + PartialEq> Wire<P> {
    pub fn send(&mut self, packet: P) {
        self.0.push(packet);
    }

    /// What can happen next; the same message twice is one.
    pub fn fates(&self, repeats: bool) -> Vec<Fate> {
        let mut fates = Vec::new();
        for (at, packet) in self.0.iter().enumerate() {
            if self.0[..at].contains(packet) {
                continue;
            }
            fates.push(Fate::Deliver(at));
            fates.extend(repeats.then_some(Fate::Repeat(at)));
        }
        fates
    }

    /// How it reads in a trace.
    pub fn tell(&self, fate: Fate) -> String {
        match fate {
            Fate::Deliver(at) => format!("arrives: {:?}", self.0[at]),
            Fate::Repeat(at) => format!("arrives, and will again: {:?}", self.0[at]),
        }
    }

    pub fn take(&mut self, fate: Fate) -> P {
        match fate {
            Fate::Deliver(at) => self.0.remove(at),
            Fate::Repeat(at) => self.0[at].clone(),
        }
    }

    /// Whatever does not fit is lost.
    pub fn retain(&mut self, fits: impl FnMut(&P) -> bool) {
        self.0.retain(fits);
    }

    pub fn iter(&self) -> impl Iterator<Item = &P> {
        self.0.iter()
    }

    /// In an order that does not depend on how it came about.
    pub fn name(&self, into: &mut dyn Write) -> fmt::Result {
        let mut names: Vec<String> = self.0.iter().map(|packet| format!("{packet:?}")).collect();
        names.sort();
        write!(into, "{names:?}")
    }
}

/// So many seeds, unless `LOCKSTEP_WALKS` says how many: more of them, or one behind another.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is said where it is started")]
pub(in crate::cache) fn seeds(few: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LOCKSTEP_WALK") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKSTEP_WALKS").unwrap_or(few),
    }
}
