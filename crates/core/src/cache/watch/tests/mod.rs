//! What a watcher is told, and what it is never spared.

use super::*;
use crate::cache::feed::Change;
use crate::cache::{Key, Version};

mod promise;
mod world;

const ME: NodeId = NodeId(1);
const RING: u64 = 1;

fn origin(node: u64, incarnation: u64) -> Origin {
    Origin { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn members() -> [Origin; 3] {
    [origin(1, 10), origin(2, 20), origin(3, 30)]
}

fn news(counter: u64) -> News {
    let key = Key::from(format!("k{counter}"));
    News::Changed { key, version: Version { epoch: 1, counter }, how: Change::Set }
}

fn told(counter: u64) -> Told {
    Told::News(news(counter))
}

/// A member with its feed.
struct Member {
    process: Incarnation,
    feed: Feed<News>,
}

impl Member {
    fn new(process: u64) -> Self {
        Self { process: Incarnation(process), feed: Feed::new(FEED_BYTES_MAX) }
    }

    fn changes(&mut self, counters: impl IntoIterator<Item = u64>) {
        counters.into_iter().for_each(|counter| self.feed.push(news(counter)));
    }

    fn answer(&self, ask: Ask) -> Heard {
        Heard::new(self.process, RING, &self.feed, ask)
    }
}

fn hear(watching: &mut Watching, of: Follow, member: &Member, now: u64) {
    let ask = watching.ask(of).expect("it is followed");
    watching.heard(of, member.answer(ask), Millis(now), Millis(now));
}

/// In step with two members that have changed something before.
fn in_step() -> (Watching, [Follow; 2], Member, Member) {
    let (mut two, three) = (Member::new(20), Member::new(30));
    two.changes(1..=3);
    let mut watching = Watching::new(ME);
    let [of_two, of_three] = watching.enter(RING, members().into_iter(), Millis(0))[..] else {
        panic!("two others")
    };
    assert_eq!([of_two.member, of_three.member], [origin(2, 20), origin(3, 30)]);
    assert!(!watching.is_in_step());
    hear(&mut watching, of_two, &two, 1);
    hear(&mut watching, of_three, &three, 1);
    assert!(watching.is_in_step());
    (watching, [of_two, of_three], two, three)
}

#[test]
fn what_every_member_changes_is_told_once_and_in_its_order() {
    let (mut watching, [of_two, of_three], mut two, mut three) = in_step();
    let began = watching.last();
    two.changes([4, 5]);
    three.changes([6]);
    watching.own(&news(7));
    hear(&mut watching, of_two, &two, 2);
    hear(&mut watching, of_two, &two, 2);
    hear(&mut watching, of_three, &three, 2);
    assert_eq!(watching.after(began, 9).entries, [told(7), told(4), told(5), told(6)]);
}

#[test]
fn more_than_fits_one_answer_comes_with_the_next() {
    let (mut watching, [of_two, _], mut two, _) = in_step();
    let began = watching.last();
    let many = NEWS_MAX as u64 + 10;
    two.changes(100..100 + many);
    hear(&mut watching, of_two, &two, 2);
    hear(&mut watching, of_two, &two, 2);
    assert_eq!(watching.after(began, usize::MAX).entries, (100..100 + many).map(told).collect::<Vec<_>>());
}

#[test]
fn another_process_or_a_forgotten_change_is_a_reset() {
    let (mut watching, [of_two, of_three], mut two, _) = in_step();
    let began = watching.last();
    hear(&mut watching, of_three, &Member::new(31), 2);
    assert_eq!(watching.after(began, 9).entries, [Told::Reset(Gap::Missed)], "another process");
    two.changes(0..100_000);
    hear(&mut watching, of_two, &two, 2);
    assert_eq!(watching.after(began + 1, 9).entries, [Told::Reset(Gap::Missed)], "forgotten");
    two.changes([1]);
    hear(&mut watching, of_two, &two, 2);
    assert_eq!(watching.after(began + 2, 9).entries, [told(1)], "it goes on from there");
}

#[test]
fn a_member_that_joins_is_followed_from_its_first_change_on_and_one_that_leaves_is_a_reset() {
    let (mut watching, [_, of_three], ..) = in_step();
    let began = watching.last();
    let ring = [origin(1, 10), origin(2, 20), origin(3, 30), origin(4, 40)];
    let [of_four] = watching.set_members(RING, ring.into_iter(), Millis(5))[..] else { panic!("one is new") };
    assert_eq!(of_four.member, origin(4, 40));
    let mut four = Member::new(40);
    four.changes([1, 2]);
    hear(&mut watching, of_four, &four, 6);
    assert_eq!(watching.after(began, 9).entries, [told(1), told(2)], "no reset");
    let rest = [origin(1, 10), origin(2, 20), origin(4, 40)];
    assert_eq!(watching.set_members(RING, rest.into_iter(), Millis(7)), []);
    assert_eq!(watching.after(began + 2, 9).entries, [Told::Reset(Gap::Ring)]);
    assert_eq!(watching.ask(of_three), None, "nobody follows it any more");
}

#[test]
fn a_ring_that_was_never_seen_is_a_reset_because_somebody_may_have_come_and_left() {
    let (mut watching, ..) = in_step();
    let began = watching.last();
    watching.set_members(RING, members().into_iter(), Millis(5));
    watching.set_members(RING + 1, members().into_iter(), Millis(5));
    assert_eq!(watching.last(), began);
    watching.set_members(RING + 3, members().into_iter(), Millis(5));
    assert_eq!(watching.after(began, 9).entries, [Told::Reset(Gap::Ring)]);
}

#[test]
fn while_a_member_is_silent_everything_is_reset_every_second() {
    let (mut watching, [of_two, of_three], two, three) = in_step();
    let (began, heard) = (watching.last(), 1);
    for now in (0..10_000).step_by(100) {
        hear(&mut watching, of_three, &three, now);
        watching.tick(true, Millis(now));
    }
    let resets = watching.after(began, 99).entries;
    let expected = (10_000 - heard - SILENT_MAX.0).div_ceil(RESET_EVERY.0);
    assert_eq!(resets, vec![Told::Reset(Gap::Away); usize::try_from(expected).unwrap()]);
    let quiet = watching.last();
    hear(&mut watching, of_two, &two, 10_000);
    watching.tick(true, Millis(12_000));
    assert_eq!(watching.last(), quiet, "it is back, and nothing was missed");
    watching.tick(false, Millis(12_000));
    assert_eq!(watching.last(), quiet + 1, "this node is no member for sure");
}

#[test]
fn whoever_comes_back_soon_goes_on_and_later_is_told_of_a_gap() {
    let (mut watching, [of_two, _], mut two, _) = in_step();
    let left = watching.last();
    watching.leave(Millis(1_000));
    two.changes([9]);
    hear(&mut watching, of_two, &two, 2_000);
    watching.tick(true, Millis(1_000 + LINGER.0 - 1));
    assert!(watching.enter(RING, members().into_iter(), Millis(3_000)).is_empty(), "followed still");
    assert_eq!(watching.after(left, 1).entries, [told(9)]);
    watching.leave(Millis(4_000));
    watching.tick(true, Millis(4_000 + LINGER.0));
    assert_eq!(watching.ask(of_two), None, "nobody watches, nobody is followed");
    let end = watching.last();
    watching.own(&news(8));
    assert_eq!(watching.enter(RING, members().into_iter(), Millis(90_000)).len(), 2);
    assert!(!watching.after(end, 1).whole, "something may have happened in between");
}

#[test]
fn silence_counts_from_the_last_question_that_was_answered_in_full() {
    let (mut watching, [of_two, of_three], mut two, three) = in_step();
    // Sent at 1000; whatever it changes after it has answered is not in what arrives so late.
    let ask = watching.ask(of_two).unwrap();
    let answer = two.answer(ask);
    two.changes([9]);
    assert!(!watching.heard(of_two, answer, Millis(1_000), Millis(2_400)));
    let began = watching.last();
    for now in [3_999, 4_000] {
        hear(&mut watching, of_three, &three, now);
        watching.tick(true, Millis(now));
        assert_eq!(watching.last() > began, now == 4_000, "at {now}");
    }
}

#[test]
fn a_member_that_tells_more_than_fits_is_behind_and_asked_again_at_once() {
    let (mut watching, [of_two, of_three], mut two, three) = in_step();
    two.changes(0..NEWS_MAX as u64 + 1);
    let ask = watching.ask(of_two).unwrap();
    assert!(watching.heard(of_two, two.answer(ask), Millis(3_000), Millis(3_000)), "there is more");
    hear(&mut watching, of_three, &three, 3_100);
    let last = watching.last();
    watching.tick(true, Millis(3_100));
    assert_eq!(
        watching.after(last, 9).entries,
        [Told::Reset(Gap::Away)],
        "what it did at 1 may be in the rest"
    );
    let ask = watching.ask(of_two).unwrap();
    assert!(!watching.heard(of_two, two.answer(ask), Millis(4_100), Millis(4_100)));
    watching.tick(true, Millis(4_100));
    assert_eq!(watching.after(last + 1, 9).entries, [told(NEWS_MAX as u64)], "and no reset");
}

#[test]
fn a_member_with_another_ring_may_let_somebody_write_whom_nobody_follows_here() {
    for ring_epoch in [RING - 1, RING + 1] {
        let (mut watching, [of_two, of_three], two, three) = in_step();
        let last = watching.last();
        for now in (1_000..=3_100).step_by(300) {
            let ask = watching.ask(of_two).unwrap();
            watching.heard(of_two, Heard { ring_epoch, ..two.answer(ask) }, Millis(now), Millis(now));
            hear(&mut watching, of_three, &three, now);
            watching.tick(true, Millis(now));
        }
        assert_eq!(watching.after(last, 9).entries, [Told::Reset(Gap::Away)]);
    }
}

#[test]
fn a_newcomer_is_unheard_for_as_long_as_whoever_may_have_known_it_before() {
    let (mut watching, [of_two, of_three], two, three) = in_step();
    hear(&mut watching, of_two, &two, 3_000);
    hear(&mut watching, of_three, &three, 2_000);
    let ring = [origin(1, 10), origin(2, 20), origin(3, 30), origin(4, 40)];
    let [_] = watching.set_members(RING, ring.into_iter(), Millis(4_000))[..] else { panic!("one is new") };
    hear(&mut watching, of_two, &two, 4_900);
    hear(&mut watching, of_three, &three, 4_900);
    for (now, resets) in [(4_999, 0), (5_000, 1)] {
        let last = watching.last();
        watching.tick(true, Millis(now));
        assert_eq!(watching.last() - last, resets, "at {now}");
    }
}
