//! How a model is walked: every order of its events, or orders drawn from a seed.
//!
//! A model asserts its invariants itself; a walk that fails prints the events that led there. It knows
//! nothing of what it walks.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use xxhash_rust::xxh3::xxh3_64;

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
    /// Writes down all that decides what can happen next: two models that write the same are the same,
    /// but for their [`Self::chances`].
    fn name(&self, into: &mut dyn Write) -> fmt::Result;
    /// What may happen still that decides nothing until it does.
    fn chances(&self) -> Chances {
        Chances::default()
    }
}

/// Walks every order of events until nothing more can happen. Returns what happened on the way.
pub(in crate::cache) fn exhaust<M: Model>(model: &M) -> M::Seen {
    let mut walk =
        Walk { first: model, path: Vec::new(), states: Names::default(), seen: M::Seen::default() };
    walk.descend(model);
    println!("{} states in every order: {:?}", walk.states.count, walk.seen);
    walk.seen
}

struct Walk<'a, M: Model> {
    first: &'a M,
    path: Vec<M::Action>,
    states: Names,
    seen: M::Seen,
}

impl<M: Model> Walk<'_, M> {
    fn descend(&mut self, model: &M) {
        for action in model.actions() {
            let mut next = model.clone();
            self.path.push(action);
            step(self.first, &mut next, &self.path, &mut self.seen, "");
            if self.states.is_new(&next) {
                self.descend(&next);
            }
            self.path.pop();
        }
    }
}

/// How often each event may still come, and which messages. Of two models that are the same otherwise,
/// everything that can happen to the one with less can happen to the one with more: a message need
/// not arrive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cache) struct Chances {
    /// How often, event by event.
    pub left: Vec<u32>,
    /// Hashes of the messages, in order.
    pub messages: Vec<u64>,
}

impl Chances {
    fn include(&self, other: &Self) -> bool {
        let mut messages = self.messages.iter();
        self.left.iter().zip(&other.left).all(|(mine, its)| mine >= its)
            && other.messages.iter().all(|message| messages.any(|mine| mine == message))
    }
}

/// The states that were reached, by the hashes of their names.
#[derive(Default)]
struct Names {
    reached: BTreeMap<u64, Vec<Chances>>,
    count: usize,
    text: String,
}

impl Names {
    /// Whether what can happen to this one is not known already.
    fn is_new<M: Model>(&mut self, model: &M) -> bool {
        self.text.clear();
        model.name(&mut self.text).expect("a text takes everything");
        let reached = self.reached.entry(xxh3_64(self.text.as_bytes())).or_default();
        let chances = model.chances();
        let is_new = !reached.iter().any(|known| known.include(&chances));
        if is_new {
            reached.retain(|known| !chances.include(known));
            reached.push(chances);
            self.count += 1;
        }
        is_new
    }
}

/// Walks orders drawn from each of these seeds, of so many events at most. Returns what happened on
/// the way of several.
pub(in crate::cache) fn wander<M: Model>(
    model: &M,
    seeds: std::ops::Range<u64>,
    events: usize,
) -> Option<M::Seen> {
    let (mut states, mut seen) = (Names::default(), M::Seen::default());
    for seed in seeds.clone() {
        let (first, mut model, mut path, mut draw) = (model, model.clone(), Vec::new(), Draw(seed));
        for _ in 0..events {
            let mut actions = model.actions();
            if actions.is_empty() {
                break;
            }
            path.push(actions.swap_remove(draw.below(actions.len())));
            step(first, &mut model, &path, &mut seen, &format!("LOCKSTEP_WALK={seed} "));
            states.is_new(&model);
        }
    }
    println!("{} states from {} seeds: {seen:?}", states.count, seeds.end - seeds.start);
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

/// Messages on their way, in no order, with the hash of each.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Wire<P>(Vec<(u64, P)>);

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

impl<P: Clone + Debug> Wire<P> {
    pub fn send(&mut self, packet: P) {
        let hash = xxh3_64(format!("{packet:?}").as_bytes());
        self.0.push((hash, packet));
    }

    /// What can happen next; the same message twice is one.
    pub fn fates(&self, repeats: bool) -> Vec<Fate> {
        let mut fates = Vec::new();
        for (at, (hash, _)) in self.0.iter().enumerate() {
            if self.0[..at].iter().any(|(other, _)| other == hash) {
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
            Fate::Deliver(at) => format!("arrives: {:?}", self.0[at].1),
            Fate::Repeat(at) => format!("arrives, and will again: {:?}", self.0[at].1),
        }
    }

    pub fn take(&mut self, fate: Fate) -> P {
        match fate {
            Fate::Deliver(at) => self.0.remove(at).1,
            Fate::Repeat(at) => self.0[at].1.clone(),
        }
    }

    /// Whatever does not fit is lost.
    pub fn retain(&mut self, mut fits: impl FnMut(&P) -> bool) {
        self.0.retain(|(_, packet)| fits(packet));
    }

    pub fn iter(&self) -> impl Iterator<Item = &P> {
        self.0.iter().map(|(_, packet)| packet)
    }

    /// Their hashes, in an order that does not depend on how they came about.
    pub fn hashes(&self) -> Vec<u64> {
        let mut hashes: Vec<u64> = self.0.iter().map(|(hash, _)| *hash).collect();
        hashes.sort_unstable();
        hashes
    }

    /// All of them.
    pub fn name(&self, into: &mut dyn Write) -> fmt::Result {
        write!(into, "{:?}", self.hashes())
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
