//! How fast queues move: the counters of a shard as its leader saw them, second by second.
//!
//! Shown to people and decides nothing, so it is kept by the leader's process alone: after a change of
//! leader a rate is that since the change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use lockstep_core::Shard;
use lockstep_core::names::QueueName;
use lockstep_core::queue::Totals;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Rates are those of so much time, or of as much of it as there was.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How often counters are looked at.
pub const EVERY: Duration = Duration::from_secs(1);

/// Messages per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Accepted.
    pub pushed: f64,
    /// Delivered, repeats included.
    pub delivered: f64,
    /// Acknowledged or popped.
    pub acked: f64,
}

/// The rates of one shard's queues.
#[derive(Default)]
pub struct Rates(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// When the last look was.
    last: Option<Duration>,
    queues: BTreeMap<QueueName, VecDeque<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    counts: Counts,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    pushed: u64,
    delivered: u64,
    acked: u64,
}

impl Rates {
    /// Looks at the counters, if this node leads the shard; else forgets what it saw.
    pub fn look(&self, clock: &Clock, leads: bool, read: impl FnOnce() -> Vec<(QueueName, Totals)>) {
        let mut seen = self.0.lock().expect("nothing panics while it holds this");
        if !leads {
            *seen = Seen::default();
            return;
        }
        seen.look(clock.now(), read());
    }

    /// The rates of a queue whose counters are these now.
    pub fn of(&self, clock: &Clock, queue: &QueueName, totals: Totals) -> Rate {
        let seen = self.0.lock().expect("nothing panics while it holds this");
        seen.of(clock.now(), queue, totals)
    }
}

/// The counters of every queue of a shard.
pub fn counters(shard: &Shard) -> Vec<(QueueName, Totals)> {
    shard.queues().totals().map(|(name, totals)| (name.clone(), totals)).collect()
}

impl Seen {
    fn look(&mut self, now: Duration, queues: Vec<(QueueName, Totals)>) {
        // What was not there at the last look began at nothing since then; at the first look nobody knows.
        let before = self.last.replace(now).map(|last| Sample { at: last, counts: Counts::default() });
        let mut kept = BTreeMap::new();
        for (name, totals) in queues {
            let sample = Sample { at: now, counts: totals.into() };
            let mut samples = match self.queues.remove(&name) {
                Some(samples) if samples.back().is_some_and(|last| !last.counts.exceeds(sample.counts)) => {
                    samples
                }
                _ => before.into_iter().collect(),
            };
            if samples.back().is_none_or(|last| last.counts != sample.counts) {
                samples.push_back(sample);
            }
            // One that is older than the window says what was known at its beginning.
            while samples.get(1).is_some_and(|second| second.at + WINDOW <= now) {
                samples.pop_front();
            }
            kept.insert(name, samples);
        }
        self.queues = kept;
    }

    fn of(&self, now: Duration, queue: &QueueName, totals: Totals) -> Rate {
        let counts = Counts::from(totals);
        let first = self.queues.get(queue).and_then(|samples| samples.front().copied());
        let begin = match (first, self.last) {
            (Some(first), _) if !first.counts.exceeds(counts) => first,
            (_, Some(last)) => Sample { at: last, counts: Counts::default() },
            (_, None) => return Rate::default(),
        };
        let took = now.saturating_sub(begin.at).clamp(EVERY, WINDOW).as_secs_f64();
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / took;
        Rate {
            pushed: per_second(counts.pushed, begin.counts.pushed),
            delivered: per_second(counts.delivered, begin.counts.delivered),
            acked: per_second(counts.acked, begin.counts.acked),
        }
    }
}

impl From<Totals> for Counts {
    fn from(totals: Totals) -> Self {
        Self { pushed: totals.pushed, delivered: totals.deliveries, acked: totals.delivered }
    }
}

impl Counts {
    /// Counters only grow: then these are of another queue, of the same name.
    fn exceeds(self, later: Self) -> bool {
        self.pushed > later.pushed || self.delivered > later.delivered || self.acked > later.acked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn totals(pushed: u64) -> Totals {
        Totals { pushed, delivered: pushed / 2, deliveries: pushed, ..Totals::default() }
    }

    fn name() -> QueueName {
        QueueName("q".into())
    }

    fn seen(looks: &[(u32, Option<u64>)]) -> Seen {
        let mut seen = Seen::default();
        for (at, pushed) in looks {
            seen.look(S * *at, pushed.iter().map(|pushed| (name(), totals(*pushed))).collect());
        }
        seen
    }

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let looks: Vec<_> = (100..=130).map(|at| (at, Some(u64::from(at - 100).min(20) * 50))).collect();
        let steady = seen(&looks[..20]).of(S * 119, &name(), totals(19 * 50));
        assert_eq!(steady, Rate { pushed: 50.0, delivered: 50.0, acked: 25.0 });
        let half = seen(&looks[..26]).of(S * 125, &name(), totals(1_000));
        assert_eq!(half.pushed, 25.0, "it stopped five seconds ago");
        assert_eq!(seen(&looks).of(S * 130, &name(), totals(1_000)), Rate::default());
    }

    #[test]
    fn a_new_queue_has_a_rate_at_once_and_an_old_one_none_of_its_past() {
        assert_eq!(seen(&[(100, None)]).of(S * 100 + S / 2, &name(), totals(30)).pushed, 30.0);
        assert_eq!(seen(&[(100, None), (101, Some(30))]).of(S * 102, &name(), totals(30)).pushed, 15.0);
        assert_eq!(seen(&[(100, Some(1_000_000))]).of(S * 101, &name(), totals(1_000_000)), Rate::default());
        assert_eq!(seen(&[]).of(S, &name(), totals(7)), Rate::default());
    }

    #[test]
    fn a_queue_that_was_forgotten_and_is_used_again_counts_from_nothing() {
        let again = seen(&[(100, Some(500)), (101, Some(500)), (102, Some(8))]);
        assert_eq!(again.of(S * 103, &name(), totals(8)).pushed, 4.0);
        assert_eq!(seen(&[(100, Some(500)), (101, Some(500))]).of(S * 102, &name(), totals(8)).pushed, 8.0);
    }
}
