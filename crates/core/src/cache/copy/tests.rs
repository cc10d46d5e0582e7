use bytes::Bytes;

use super::*;
use crate::cache::Version;
use crate::cache::lease::{LEASE, held_until};
use crate::cache::message::{Answer, Change, Forget, Grant, Had, Order, Write};
use crate::names::{Incarnation, NodeId};

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const T0: Millis = Millis(1_000);

fn at(ms: u64) -> Millis {
    T0.plus(Millis(ms))
}

fn held(value: &str) -> Option<Held> {
    let version = Version { epoch: 1, counter: 1 };
    Some(Held { version, value: Bytes::copy_from_slice(value.as_bytes()), left: None })
}

fn leased(held: Option<Held>) -> Value {
    Value { held, lease: Some(LEASE), grant: None }
}

fn copies() -> Copies {
    Copies::new(1 << 20)
}

/// Starts a read of `k` and returns its flight.
fn ask(copies: &mut Copies, key: &str, tag: Tag, now: Millis) -> FlightId {
    match copies.read(&key.into(), HOME, tag, now)[..] {
        [Output::Ask { flight, .. }] => flight,
        ref other => panic!("{other:?}"),
    }
}

fn fill(copies: &mut Copies, key: &str, value: Value, now: Millis) {
    let flight = ask(copies, key, 0, now);
    copies.landed(flight, value, now);
}

/// The home orders to forget a copy.
fn forget(copies: &mut Copies, key: &str) {
    let what = Forget::Copy { key: key.into() };
    assert_eq!(copies.forget(&Order { home: HOME, seq: 1, what, moves: false }, T0), Had::Nothing);
}

fn told(outputs: &[Output]) -> Vec<(Tag, Option<Held>)> {
    let answer = |output: &Output| match output {
        Output::Answer { tag, value } => Some((*tag, value.clone().ok()?)),
        Output::Ask { .. } | Output::Return { .. } => None,
    };
    outputs.iter().filter_map(answer).collect()
}

#[test]
fn a_copy_is_read_without_the_home_until_the_lease_ends_as_counted_from_the_send() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    assert_eq!(told(&copies.landed(flight, leased(held("a")), at(300))), [(1, held("a"))]);
    let end = held_until(T0, LEASE);
    assert_eq!(copies.lookup("k", Millis(end.0 - 1)), Some(held("a")));
    assert_eq!(copies.lookup("k", end), None);
}

#[test]
fn an_absence_is_a_copy_as_well() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(None), T0);
    assert_eq!(copies.lookup("k", T0), Some(None));
    forget(&mut copies, "k");
    assert_eq!(copies.lookup("k", T0), None);
}

#[test]
fn a_late_fill_after_an_invalidation_is_not_kept() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    forget(&mut copies, "k");
    assert_eq!(told(&copies.landed(flight, leased(held("old")), at(5))), [(1, held("old"))]);
    assert_eq!(copies.lookup("k", at(5)), None);
}

#[test]
fn a_reader_that_comes_after_the_invalidation_does_not_join_the_read_before_it() {
    let mut copies = copies();
    let before = ask(&mut copies, "k", 1, T0);
    forget(&mut copies, "k");
    let after = ask(&mut copies, "k", 2, at(1));
    assert_ne!(before, after);
    assert_eq!(told(&copies.landed(before, leased(held("old")), at(2))), [(1, held("old"))]);
    assert_eq!(copies.lookup("k", at(2)), None, "the second one's placeholder is not its to fill");
    assert_eq!(told(&copies.landed(after, leased(held("new")), at(3))), [(2, held("new"))]);
    assert_eq!(copies.lookup("k", at(3)), Some(held("new")));
}

#[test]
fn readers_of_one_key_share_one_read() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    assert_eq!(copies.read(&"k".into(), HOME, 2, at(1)), []);
    let outputs = copies.landed(flight, leased(held("a")), at(2));
    assert_eq!(told(&outputs), [(1, held("a")), (2, held("a"))]);
}

#[test]
fn who_joined_late_is_not_told_a_value_that_could_not_be_kept() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    copies.read(&"k".into(), HOME, 2, at(1));
    // The home read it while a write was pending; that write may be done by now.
    let outputs = copies.landed(flight, Value { held: held("old"), lease: None, grant: None }, at(2));
    assert_eq!(told(&outputs), [(1, held("old"))]);
    let Some(Output::Ask { flight, .. }) = outputs.last() else { panic!("{outputs:?}") };
    assert_eq!(told(&copies.landed(*flight, leased(held("new")), at(3))), [(2, held("new"))]);
}

#[test]
fn an_answer_that_comes_after_its_lease_is_told_and_not_kept() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    let late = held_until(T0, LEASE);
    assert_eq!(told(&copies.landed(flight, leased(held("old")), late)), [(1, held("old"))]);
    assert_eq!(copies.lookup("k", late), None);
}

#[test]
fn a_lease_that_lapsed_does_not_revive_the_copies_under_it() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("old")), T0);
    let later = held_until(T0, LEASE);
    // The home stopped to wait for us and committed another value; then we read another key.
    fill(&mut copies, "other", leased(held("x")), later);
    assert_eq!(copies.lookup("other", later), Some(held("x")));
    assert_eq!(copies.lookup("k", later), None);
}

#[test]
fn a_renewal_prolongs_what_lasts_and_revives_nothing() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("a")), T0);
    copies.renewed(HOME, at(1_000), LEASE, at(1_001));
    let end = held_until(at(1_000), LEASE);
    assert_eq!(copies.lookup("k", Millis(end.0 - 1)), Some(held("a")));
    // Asked in time, answered after the lapse.
    copies.renewed(HOME, at(2_500), LEASE, end);
    assert_eq!(copies.lookup("k", end), None);
}

#[test]
fn renewals_are_due_in_the_second_half_for_homes_whose_copies_are_read() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("a")), T0);
    assert_eq!(copies.renewals(at(500)).0, []);
    assert_eq!(copies.renewals(at(1_100)).0, [HOME]);
    assert_eq!(copies.renewals(at(1_200)).0, [], "asked already");
    assert_eq!(copies.renewals(at(1_700)).0, [HOME], "no answer");
    let mut now = at(1_700);
    for _ in 0..20 {
        copies.renewed(HOME, now, LEASE, now);
        now = now.plus(Millis(1_500));
        if copies.renewals(now).0.is_empty() {
            assert!(now.since(T0) >= IDLE);
            return;
        }
    }
    panic!("renewed for ever without a reader");
}

#[test]
fn a_copy_expires_before_its_line_does() {
    let mut copies = copies();
    let left = Some(Millis(1_000));
    let value = held("a").map(|held| Held { left, ..held });
    let flight = ask(&mut copies, "k", 1, T0);
    copies.landed(flight, leased(value), at(400));
    assert_eq!(copies.lookup("k", at(900)).flatten().unwrap().left, Some(Millis(90)));
    assert_eq!(copies.lookup("k", at(990)), None);
}

#[test]
fn a_failed_read_tells_everybody_to_ask_again() {
    let mut copies = copies();
    let flight = ask(&mut copies, "k", 1, T0);
    copies.read(&"k".into(), HOME, 2, T0);
    let expected = [1, 2].map(|tag| Output::Answer { tag, value: Err(AskAgain) });
    assert_eq!(copies.failed(flight), expected);
    assert_ne!(ask(&mut copies, "k", 3, T0), flight);
}

#[test]
fn copies_stay_within_their_bytes_and_those_that_are_read_stay_longest() {
    let mut copies = Copies::new(10_000);
    fill(&mut copies, "hot", leased(held("a")), T0);
    for n in 0..500 {
        fill(&mut copies, &format!("k{n}"), leased(held("a")), T0);
        assert!(copies.bytes() <= 10_000);
        assert!(copies.lookup("hot", T0).is_some(), "evicted after {n}");
    }
    assert_eq!(copies.lookup("k0", T0), None);
    for n in 0..10_000 {
        fill(&mut copies, "hot", leased(held(&n.to_string())), T0);
        forget(&mut copies, "hot");
    }
    assert!(copies.store.order_len() < 300, "{}", copies.store.order_len());
}

#[test]
fn a_lease_that_near_clients_use_is_renewed_earlier_and_an_owned_line_is_lent_to_nobody() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("a")), T0);
    let lent = copies.lend("k", at(100)).unwrap();
    assert_eq!(lent, (held("a"), HOME, held_until(T0, LEASE).since(at(100))));
    assert_eq!(copies.renewals(at(400)).0, []);
    assert_eq!(copies.renewals(at(600)).0, [HOME]);
    copies.not_renewed(HOME);
    assert_eq!(copies.renewals(at(700)).0, [HOME], "refused: asked again soon");
    let grant = Grant { number: 1, after: Version::default(), writes: 5, ttl: None };
    fill(&mut copies, "own", Value { grant: Some(grant), ..leased(held("a")) }, at(800));
    assert_eq!(copies.lend("own", at(801)), None);
    assert_eq!(copies.lend_on(HOME, held_until(at(800), LEASE)), None, "it is over");
}

fn granted(number: u64) -> Value {
    let grant = Grant { number, after: Version { epoch: 1, counter: number * 10 }, writes: 99, ttl: None };
    Value { grant: Some(grant), ..leased(held("a")) }
}

/// The home recalls what it granted under this number.
fn recall(copies: &mut Copies, key: &str, grant: u64, now: Millis) -> Had {
    let what = Forget::Owned { key: key.into(), grant, process: Incarnation(1), keeps: false };
    copies.forget(&Order { home: HOME, seq: 1, what, moves: false }, now)
}

fn write(copies: &mut Copies, key: &str, now: Millis) {
    let change = Change::Set(Bytes::from_static(b"w"));
    let write = Write::new(key.into(), change);
    assert!(matches!(copies.write(&write, now), Some((Answer::Written(_), _))));
}

#[test]
fn what_a_recall_was_answered_with_is_kept_if_it_was_written_and_for_a_while() {
    let mut copies = copies();
    copies.set_process(Incarnation(1));
    for key in ["read", "written"] {
        fill(&mut copies, key, granted(1), T0);
    }
    write(&mut copies, "written", T0);
    assert_eq!(recall(&mut copies, "read", 1, at(1)), Had::Nothing);
    let answer = recall(&mut copies, "written", 1, at(1));
    assert!(matches!(answer, Had::Written(_)));
    assert_eq!((copies.recalled.len(), copies.bytes()), (1, 0), "the home knows what was only read");
    copies.renewals(at(2_000));
    assert_eq!(recall(&mut copies, "written", 1, at(2_000)), answer, "the order came again");
    copies.renewals(at(60_000));
    assert!(copies.recalled.is_empty() && copies.recalls.is_empty(), "nobody asks any more");
}

#[test]
fn only_an_answer_that_is_not_kept_is_a_refused_fill() {
    let mut copies = copies();
    copies.set_process(Incarnation(1));
    for (recalled, refused) in [(1, 0), (2, 1)] {
        let flight = ask(&mut copies, "k", 1, T0);
        recall(&mut copies, "k", recalled, T0);
        copies.landed(flight, granted(2), T0);
        assert_eq!(copies.lookup("k", T0).is_none(), refused == 1);
        assert_eq!(copies.stats().refused_fills, refused, "grant 2 after a recall of {recalled}");
        recall(&mut copies, "k", 2, T0);
    }
}

/// The home's line moves.
fn moves(copies: &mut Copies, key: &str, now: Millis) {
    let what = Forget::Copy { key: key.into() };
    copies.forget(&Order { home: HOME, seq: 1, what, moves: true }, now);
}

const ME: NodeId = NodeId(2);
const OTHER: Origin = Origin { node: NodeId(9), incarnation: Incarnation(1) };

#[test]
fn a_copy_whose_line_moves_is_asked_for_again_once_another_home_is_known() {
    let mut copies = copies();
    for key in ["k", "again", "own", "back", "dead"] {
        fill(&mut copies, key, leased(held("a")), T0);
    }
    forget(&mut copies, "dead");
    for key in ["k", "k", "again", "own", "back", "dead", "never here"] {
        moves(&mut copies, key, at(1));
    }
    assert_eq!(copies.displaced(), 4, "what could be read, and once");
    fill(&mut copies, "again", leased(held("b")), at(3));
    assert!(copies.take_displaced(9, 1, ME, |_| Some(HOME), at(3)).is_empty(), "the ring is the old one");
    assert_eq!(
        (copies.displaced(), copies.displaced_ready()),
        (3, 0),
        "nobody looks at them again before another"
    );
    let home = |key: &str| match key {
        "own" => Some(Origin { node: ME, ..OTHER }),
        "back" => Some(HOME),
        _ => Some(OTHER),
    };
    let taken = copies.take_displaced(9, 2, ME, home, at(4));
    let of = |(it, home): &(displaced::Displaced, Origin)| (it.key.to_string(), *home);
    assert_eq!(taken.iter().map(of).collect::<Vec<_>>(), [("k".into(), OTHER), ("back".into(), HOME)]);
    assert_eq!(copies.displaced(), 0);
    copies.still_displaced(taken[0].0.clone());
    assert_eq!(copies.take_displaced(9, 2, ME, home, at(5)).len(), 1);
}

#[test]
fn copies_that_are_not_to_be_had_again_are_given_up() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("a")), T0);
    moves(&mut copies, "k", at(1));
    copies.take_displaced(9, 1, ME, |_| Some(HOME), at(1));
    copies.take_displaced(9, 1, ME, |_| Some(HOME), at(2 + displaced::DISPLACED_FOR.0));
    assert_eq!(copies.displaced(), 0, "after a while");
    let mut copies = Copies::new(4_000);
    for key in 0..15 {
        fill(&mut copies, &key.to_string(), leased(held("a")), T0);
    }
    copies.displaced_from("line".into(), HOME, T0);
    assert!(
        copies.take_displaced(9, 2, ME, |_| Some(OTHER), T0).is_empty(),
        "others would have to make room"
    );
    assert_eq!(copies.displaced(), 0);
}

#[test]
fn what_is_asked_for_again_does_not_become_this_nodes_own() {
    let mut copies = copies();
    fill(&mut copies, "k", leased(held("a")), T0);
    moves(&mut copies, "k", at(1));
    let (it, home) = copies.take_displaced(9, 1, ME, |_| Some(OTHER), at(1)).remove(0);
    assert!(matches!(copies.reread(&it, home, 1, at(1))[..], [Output::Ask { may_own: false, .. }]));
}

#[test]
fn an_owner_that_only_writes_is_not_idle() {
    let mut copies = copies();
    copies.set_process(Incarnation(1));
    fill(&mut copies, "k", granted(1), T0);
    let mut now = T0;
    while now.since(T0) < Millis(2 * IDLE.0) {
        now = now.plus(Millis(1_200));
        write(&mut copies, "k", now);
        assert_eq!(copies.renewals(now), (vec![HOME], Vec::new()), "at {now}");
        copies.renewed(HOME, now, LEASE, now);
    }
}
