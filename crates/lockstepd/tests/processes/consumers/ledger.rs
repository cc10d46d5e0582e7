//! What producers and consumers were told, and whether all of it can be true of one queue: nothing is lost,
//! nothing comes from nowhere, nothing done comes back, a key's messages come in order, and nobody gets a
//! message that somebody else still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// By key and number.
pub type Id = (u64, u64);

/// One delivery as its consumer saw it.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The message's attempts, this one included.
    pub attempts: u64,
    /// When it was asked for: its lease began no sooner.
    pub asked: Instant,
    /// When the answer was there: its lease began no later.
    pub told: Instant,
    /// When its consumer gave it back, if it did.
    pub returned: Option<Instant>,
}

/// The ledger of one queue.
#[derive(Default)]
pub struct Ledger {
    /// How long a delivery lasts.
    pub visibility: Duration,
    /// What was asked to be pushed, and what of it was acknowledged.
    pub asked: BTreeSet<Id>,
    pub pushed: BTreeSet<Id>,
    /// Messages whose time to live ends before anybody may have them: the same.
    pub doomed_asked: u64,
    pub doomed: u64,
    pub deliveries: BTreeMap<Id, Vec<Delivery>>,
    /// By key, the last number that anybody received.
    pub last: BTreeMap<u64, u64>,
    pub acked: BTreeSet<Id>,
    /// Acknowledgements whose outcome nobody was told.
    pub maybe_acked: BTreeSet<Id>,
}

/// What the queue says of itself.
#[derive(Debug)]
pub struct Counts {
    pub pushed: u64,
    pub delivered: u64,
    pub expired: u64,
    pub dead_lettered: u64,
    pub waiting: u64,
}

impl Ledger {
    /// Takes note of a delivery, in the order of the answers.
    pub fn receive(&mut self, id: Id, delivery: Delivery) {
        let (key, number) = id;
        assert!(self.asked.contains(&id), "{key}/{number} was never pushed");
        assert!(!self.acked.contains(&id), "{key}/{number} was done, and came back");
        let last = self.last.entry(key).or_default();
        assert!(*last <= number, "key {key}: {number} came after {last}");
        *last = number;
        self.deliveries.entry(id).or_default().push(delivery);
    }

    /// Its consumer gives a message back.
    pub fn give_back(&mut self, id: Id) {
        if let Some(last) = self.deliveries.get_mut(&id).and_then(|all| all.last_mut()) {
            last.returned = Some(Instant::now());
        }
    }

    /// Each delivery after the first must follow a return or a time-out of the one before. A fault alone
    /// is no excuse: leases survive changes of leaders. Answers how many came after returns and time-outs.
    pub fn explain_duplicates(&self) -> (usize, usize) {
        let (mut returns, mut time_outs) = (0, 0);
        for (id, deliveries) in &self.deliveries {
            let mut deliveries = deliveries.clone();
            deliveries.sort_by_key(|delivery| delivery.attempts);
            for pair in deliveries.windows(2) {
                let [before, after] = pair else { continue };
                assert!(before.attempts < after.attempts, "{id:?}: twice the same delivery: {pair:?}");
                if before.returned.is_some_and(|returned| returned <= after.told) {
                    returns += 1;
                } else if after.told >= before.asked + self.visibility {
                    time_outs += 1;
                } else {
                    panic!("{id:?} was delivered while somebody held it: {pair:?}");
                }
            }
        }
        (returns, time_outs)
    }

    /// What was pushed is done, waits or is dead, and nothing else is there.
    pub fn check(&self, counts: &Counts, waiting: &BTreeSet<Id>, dead: &BTreeSet<Id>) {
        let Counts { pushed, delivered, expired, dead_lettered, waiting: waits } = counts;
        assert_eq!(*pushed, delivered + expired + dead_lettered + waits, "{counts:?}");
        let known = |id: &Id| {
            self.acked.contains(id)
                || self.maybe_acked.contains(id)
                || waiting.contains(id)
                || dead.contains(id)
        };
        let lost: Vec<&Id> = self.pushed.iter().filter(|id| !known(id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let strange: Vec<&Id> = waiting.union(dead).filter(|id| !self.asked.contains(id)).collect();
        assert!(strange.is_empty(), "never pushed: {strange:?}");
        let undone: Vec<&Id> =
            self.acked.iter().filter(|id| waiting.contains(id) || dead.contains(id)).collect();
        assert!(undone.is_empty(), "done, and still there: {undone:?}");
        assert_eq!(dead.len() as u64, *dead_lettered, "{counts:?}");
        let between = |what: &str, count: u64, least: usize, most: usize| {
            assert!(
                (least as u64..=most as u64).contains(&count),
                "{what}: {count} of {least} to {most}: {counts:?}"
            );
        };
        between("delivered", *delivered, self.acked.len(), self.acked.union(&self.maybe_acked).count());
        between("expired", *expired, self.doomed as usize, self.doomed_asked as usize);
        let least = self.pushed.len() + self.doomed as usize;
        between("pushed", *pushed, least, self.asked.len() + self.doomed_asked as usize);
    }
}

/// The checks must be able to fail.
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let all: BTreeSet<Id> = (1..=3).map(|number| (0, number)).collect();
        let visibility = Duration::from_secs(5);
        Ledger { asked: all.clone(), pushed: all, visibility, ..Ledger::default() }
    }

    fn delivery(attempts: u64, after: u64) -> Delivery {
        let at = Instant::now() + Duration::from_secs(after);
        Delivery { attempts, asked: at, told: at, returned: None }
    }

    fn counts(delivered: u64, waiting: u64) -> Counts {
        Counts { pushed: delivered + waiting, delivered, expired: 0, dead_lettered: 0, waiting }
    }

    #[test]
    #[should_panic = "1 came after 2"]
    fn a_reordered_key_fails() {
        let mut ledger = ledger();
        [2, 1].into_iter().for_each(|number| ledger.receive((0, number), delivery(1, 0)));
    }

    #[test]
    #[should_panic = "was done, and came back"]
    fn a_message_that_was_done_fails() {
        Ledger { acked: BTreeSet::from([(0, 1)]), ..ledger() }.receive((0, 1), delivery(2, 0));
    }

    #[test]
    #[should_panic = "was never pushed"]
    fn a_message_from_nowhere_fails() {
        ledger().receive((7, 1), delivery(1, 0));
    }

    #[test]
    #[should_panic = "delivered while somebody held it"]
    fn a_delivery_within_the_lease_of_another_fails() {
        let mut ledger = ledger();
        ledger.receive((0, 1), delivery(1, 0));
        ledger.receive((0, 1), delivery(2, 4));
        ledger.explain_duplicates();
    }

    #[test]
    #[should_panic = "twice the same delivery"]
    fn a_delivery_to_two_consumers_fails() {
        let mut ledger = ledger();
        ledger.receive((0, 1), delivery(1, 0));
        ledger.receive((0, 1), delivery(1, 9));
        ledger.explain_duplicates();
    }

    #[test]
    fn a_return_and_a_time_out_explain_a_duplicate() {
        let mut ledger = ledger();
        ledger.receive((0, 1), delivery(1, 0));
        ledger.give_back((0, 1));
        ledger.receive((0, 1), delivery(2, 1));
        ledger.receive((0, 1), delivery(4, 7));
        assert_eq!(ledger.explain_duplicates(), (1, 1));
    }

    #[test]
    #[should_panic = "acknowledged and lost: [(0, 2)]"]
    fn a_lost_message_fails() {
        let ledger = Ledger { acked: BTreeSet::from([(0, 1)]), ..ledger() };
        ledger.check(&counts(1, 2), &BTreeSet::from([(0, 3)]), &BTreeSet::new());
    }

    #[test]
    #[should_panic = "done, and still there"]
    fn a_message_that_is_done_and_waits_fails() {
        let ledger = Ledger { acked: BTreeSet::from([(0, 1)]), ..ledger() };
        let waiting = (1..=3).map(|number| (0, number)).collect();
        ledger.check(&counts(1, 2), &waiting, &BTreeSet::new());
    }

    #[test]
    #[should_panic = "delivered: 3 of 1 to 2"]
    fn more_deliveries_than_acknowledgements_fail() {
        let (acked, maybe_acked) = (BTreeSet::from([(0, 1)]), BTreeSet::from([(0, 2)]));
        let ledger = Ledger { acked, maybe_acked, ..ledger() };
        ledger.check(&counts(3, 1), &BTreeSet::from([(0, 3)]), &BTreeSet::new());
    }
}
