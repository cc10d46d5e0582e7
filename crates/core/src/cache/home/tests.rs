use bytes::Bytes;

use super::*;
use crate::cache::Version;
use crate::cache::lease::{LEASE, OVERDUE, owed_until};
use crate::cache::message::{Change, Had, Moved, Value, Wish, Write};
use crate::cache::tenure::View;
use crate::names::Incarnation;

mod evicted;
mod leaving;
mod memory;
mod vanished;

const HOME: NodeId = NodeId(1);
const READER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);
const TO: Addressee = Addressee { incarnation: Incarnation(1), ring_epoch: 1 };
const T0: Millis = Millis(1_000);

fn at(ms: u64) -> Millis {
    T0.plus(Millis(ms))
}

fn view(ring_epoch: u64, me: Option<(u64, u64)>, members: &[(NodeId, u64)], until: Millis) -> View {
    let origin = |(node, inc): &(NodeId, u64)| Origin { node: *node, incarnation: Incarnation(*inc) };
    let me = me.map(|(incarnation, since)| (Incarnation(incarnation), since));
    View { ring_epoch, me, members: members.iter().map(origin).collect(), until, spaces: Arc::default() }
}

/// A home alone in its ring, so that every key is its own.
fn home() -> Home {
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    home
}

fn set(key: &str, value: &str) -> Write {
    Write::new(key.into(), Change::Set(Bytes::copy_from_slice(value.as_bytes())))
}

fn delete(key: &str) -> Write {
    Write { change: Change::Delete, ..set(key, "") }
}

fn read(home: &mut Home, from: NodeId, now: Millis) -> Value {
    match ask(home, from, "k", Wish::Keep, now) {
        Answer::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

/// A read that nothing holds up.
fn ask(home: &mut Home, from: NodeId, key: &str, wish: Wish, now: Millis) -> Answer {
    let answers = answers(&home.read(99, from, TO, &key.into(), wish, now));
    let [(99, answer)] = &answers[..] else { panic!("{answers:?}") };
    answer.clone()
}

fn text(held: Option<Held>) -> Option<String> {
    held.map(|held| String::from_utf8(held.value.to_vec()).unwrap())
}

fn answers(outputs: &[Output]) -> Vec<(Tag, Answer)> {
    let answer = |output: &Output| match output {
        Output::Answer { tag, answer } => Some((*tag, answer.clone())),
        _ => None,
    };
    outputs.iter().filter_map(answer).collect()
}

fn orders(outputs: &[Output]) -> Vec<(NodeId, u64)> {
    let order = |output: &Output| match output {
        Output::Forget { to, order } => Some((*to, order.seq)),
        _ => None,
    };
    outputs.iter().filter_map(order).collect()
}

fn written(epoch: u64, counter: u64) -> Answer {
    Answer::Written(Some(Version { epoch, counter }))
}

fn mismatch(current: Option<Version>) -> Answer {
    Answer::Refused(Refusal::VersionMismatch { current })
}

#[test]
fn a_write_without_sharers_is_answered_at_once() {
    let mut home = home();
    assert_eq!(answers(&home.write_own(7, set("k", "a"), T0)), [(7, written(1, 1))]);
    assert_eq!(text(home.read_own("k", T0).unwrap()), Some("a".into()));
}

#[test]
fn a_reader_is_registered_before_the_value_is_read() {
    let mut home = home();
    // Nothing is there yet, and still the absence is a copy that the first write has to recall.
    assert_eq!(read(&mut home, READER, T0), Value { held: None, lease: Some(LEASE), grant: None });
    let outputs = home.write_own(1, set("k", "a"), at(1));
    assert_eq!(orders(&outputs).iter().map(|(to, _)| *to).collect::<Vec<_>>(), [READER]);
    assert_eq!(answers(&outputs), []);
}

#[test]
fn a_pending_write_shows_the_old_value_and_lets_nobody_keep_it() {
    let mut home = home();
    home.write_own(1, set("k", "old"), T0);
    read(&mut home, READER, T0);
    let outputs = home.write_own(2, set("k", "new"), at(1));
    let seen = read(&mut home, OTHER, at(2));
    assert_eq!((text(seen.held), seen.lease), (Some("old".into()), None));
    let [(_, seq)] = orders(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(answers(&home.acknowledged(READER, seq, Had::Nothing, at(3))), [(2, written(1, 2))]);
    let seen = read(&mut home, OTHER, at(4));
    assert_eq!((text(seen.held), seen.lease), (Some("new".into()), Some(LEASE)));
}

#[test]
fn a_silent_sharer_delays_a_write_by_its_lease_and_margin_and_no_longer() {
    let mut home = home();
    read(&mut home, READER, T0);
    home.write_own(1, set("k", "a"), at(1));
    let end = owed_until(T0, LEASE);
    assert_eq!(home.next_deadline(), Some(end));
    assert_eq!(answers(&home.tick(Millis(end.0 - 1))), []);
    assert_eq!(answers(&home.tick(end)), [(1, written(1, 1))]);
}

#[test]
fn repeated_unknown_and_reordered_acknowledgements_do_nothing() {
    let mut home = home();
    read(&mut home, READER, T0);
    read(&mut home, OTHER, T0);
    let outputs = home.write_own(1, set("k", "a"), at(1));
    let first = orders(&outputs)[0].1;
    assert_eq!(home.acknowledged(READER, first, Had::Nothing, at(2)), []);
    assert_eq!(home.acknowledged(READER, first, Had::Nothing, at(2)), []);
    assert_eq!(home.acknowledged(READER, first + 5, Had::Nothing, at(2)), []);
    assert_eq!(answers(&home.acknowledged(OTHER, first, Had::Nothing, at(2))), [(1, written(1, 1))]);
    // An answer to the first change says nothing about a copy taken since.
    read(&mut home, READER, at(3));
    home.write_own(2, set("k", "b"), at(4));
    assert_eq!(home.acknowledged(READER, first, Had::Nothing, at(5)), []);
    assert_eq!(text(home.read_own("k", at(5)).unwrap()), Some("a".into()));
}

#[test]
fn an_acknowledgement_after_the_lease_end_changes_nothing() {
    let mut home = home();
    read(&mut home, READER, T0);
    let outputs = home.write_own(1, set("k", "a"), at(1));
    let seq = orders(&outputs)[0].1;
    let end = owed_until(T0, LEASE);
    home.tick(end);
    read(&mut home, READER, end);
    assert_eq!(home.acknowledged(READER, seq, Had::Nothing, end), []);
    assert_eq!(orders(&home.write_own(2, set("k", "b"), end)).len(), 1, "still registered");
}

#[test]
fn a_node_that_owes_an_answer_gets_no_lease() {
    let mut home = home();
    read(&mut home, READER, T0);
    home.write_own(1, set("k", "a"), at(1));
    let in_time = at(1 + OVERDUE.0 - 1);
    assert_eq!(home.renew(READER, TO, in_time), Answer::Renewed { lease: LEASE });
    assert_eq!(home.renew(READER, TO, at(1 + OVERDUE.0)), Answer::Refused(Refusal::NoLease));
    let answer = ask(&mut home, READER, "elsewhere", Wish::Keep, at(1 + OVERDUE.0));
    assert_eq!(answer, Answer::Value(Value { held: None, lease: None, grant: None }));
    assert_eq!(answers(&home.tick(owed_until(in_time, LEASE))), [(1, written(1, 1))]);
}

#[test]
fn a_renewal_that_crosses_an_invalidation_prolongs_the_wait() {
    let mut home = home();
    read(&mut home, READER, T0);
    home.write_own(1, set("k", "a"), at(1));
    home.renew(READER, TO, at(100));
    assert_eq!(answers(&home.tick(owed_until(T0, LEASE))), [], "its copy may be read for longer now");
    assert_eq!(answers(&home.tick(owed_until(at(100), LEASE))), [(1, written(1, 1))]);
}

#[test]
fn a_restarted_sharer_answers_for_its_former_process() {
    let mut home = home();
    read(&mut home, READER, T0);
    let seq = orders(&home.write_own(1, set("k", "a"), at(1)))[0].1;
    // The new process of that node has no copy: its answer is as good.
    assert_eq!(answers(&home.acknowledged(READER, seq, Had::Nothing, at(2))), [(1, written(1, 1))]);
}

#[test]
fn versions_never_repeat_across_delete_and_create() {
    let mut home = home();
    home.write_own(1, set("k", "a"), T0);
    assert_eq!(answers(&home.write_own(2, delete("k"), T0)), [(2, written(1, 2))]);
    assert_eq!(answers(&home.write_own(3, delete("k"), T0)), [(3, Answer::Written(None))]);
    home.write_own(4, set("k", "b"), T0);
    let stale = Write { if_version: Some(Version { epoch: 1, counter: 1 }), ..set("k", "c") };
    let current = Some(Version { epoch: 1, counter: 3 });
    assert_eq!(answers(&home.write_own(5, stale, T0)), [(5, mismatch(current))]);
}

#[test]
fn if_absent_and_if_version_look_at_what_is_committed() {
    let mut home = home();
    let create = Write { if_absent: true, ..set("k", "a") };
    assert_eq!(answers(&home.write_own(1, create.clone(), T0)), [(1, written(1, 1))]);
    let current = Some(Version { epoch: 1, counter: 1 });
    assert_eq!(answers(&home.write_own(2, create, T0)), [(2, mismatch(current))]);
    let next = Write { if_version: current, ..set("k", "b") };
    assert_eq!(answers(&home.write_own(3, next.clone(), T0)), [(3, written(1, 2))]);
    let current = Some(Version { epoch: 1, counter: 2 });
    assert_eq!(answers(&home.write_own(4, next, T0)), [(4, mismatch(current))]);
}

#[test]
fn writes_to_one_key_are_done_in_the_order_in_which_they_came() {
    let mut home = home();
    read(&mut home, READER, T0);
    let seq = orders(&home.write_own(1, set("k", "a"), at(1)))[0].1;
    let create = Write { if_absent: true, ..set("k", "b") };
    assert_eq!(home.write_own(2, create, at(2)), []);
    assert_eq!(home.write_own(3, set("k", "c"), at(3)), []);
    let current = Some(Version { epoch: 1, counter: 1 });
    let expected = [(1, written(1, 1)), (2, mismatch(current)), (3, written(1, 2))];
    assert_eq!(answers(&home.acknowledged(READER, seq, Had::Nothing, at(4))), expected);
}

#[test]
fn an_expired_line_is_a_miss_and_its_conditions_see_nothing() {
    let mut home = home();
    home.write_own(1, Write { ttl: Some(Millis(100)), ..set("k", "a") }, T0);
    assert_eq!(home.read_own("k", at(99)).unwrap().unwrap().left, Some(Millis(1)));
    assert_eq!(home.read_own("k", at(100)).unwrap(), None);
    let next = Write { if_version: Some(Version { epoch: 1, counter: 1 }), ..set("k", "b") };
    assert_eq!(answers(&home.write_own(2, next, at(100))), [(2, mismatch(None))]);
    let create = Write { if_absent: true, ..set("k", "b") };
    assert_eq!(answers(&home.write_own(3, create, at(100))), [(3, written(1, 2))]);
}

#[test]
fn a_value_that_expires_while_its_write_waits_fails_the_condition() {
    let mut home = home();
    home.write_own(1, Write { ttl: Some(Millis(100)), ..set("k", "a") }, T0);
    read(&mut home, READER, T0);
    let next = Write { if_version: Some(Version { epoch: 1, counter: 1 }), ..set("k", "b") };
    let seq = orders(&home.write_own(2, next, at(50)))[0].1;
    assert_eq!(answers(&home.acknowledged(READER, seq, Had::Nothing, at(150))), [(2, mismatch(None))]);
}

#[test]
fn a_retry_under_the_same_request_id_does_nothing_twice() {
    let mut home = home();
    read(&mut home, READER, T0);
    let named = Write { request_id: Some("r1".into()), ..set("k", "a") };
    let seq = orders(&home.write_own(1, named.clone(), at(1)))[0].1;
    assert_eq!(home.write_own(2, named.clone(), at(2)), [], "under way: it waits for the same outcome");
    let both = answers(&home.acknowledged(READER, seq, Had::Nothing, at(3)));
    assert_eq!(both, [(2, written(1, 1)), (1, written(1, 1))]);
    assert_eq!(answers(&home.write_own(3, named, at(4))), [(3, written(1, 1))]);
    let other = Write { request_id: Some("r1".into()), ..set("k", "b") };
    let conflict = Answer::Refused(Refusal::RequestConflict);
    assert_eq!(answers(&home.write_own(4, other, at(5))), [(4, conflict)]);
}

#[test]
fn an_evicted_line_is_served_until_its_sharers_have_forgotten_it() {
    let mut home = Home::new(HOME, 1_000);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    home.write_own(1, set("k", "old"), T0);
    read(&mut home, READER, T0);
    let big = "x".repeat(600);
    let outputs = home.write_own(2, set("big", &big), at(1));
    let [(READER, seq)] = orders(&outputs)[..] else { panic!("{outputs:?}") };
    let seen = read(&mut home, OTHER, at(2));
    assert_eq!((text(seen.held), seen.lease), (Some("old".into()), None));
    home.acknowledged(READER, seq, Had::Nothing, at(3));
    assert_eq!(home.read_own("k", at(3)).unwrap(), None);
    assert!(home.bytes() <= 1_000, "{}", home.bytes());
    assert_eq!(text(home.read_own("big", at(3)).unwrap()), Some(big));
}

#[test]
fn lines_stay_within_their_bytes() {
    let mut home = Home::new(HOME, 10_000);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    for n in 0..200 {
        home.write_own(n, set(&format!("k{n}"), "value"), T0);
        assert!(home.bytes() <= 10_000, "{}", home.bytes());
    }
    assert_eq!(text(home.read_own("k199", T0).unwrap()), Some("value".into()));
    let huge = answers(&home.write_own(900, set("k", &"x".repeat(10_000)), T0));
    assert_eq!(huge, [(900, Answer::Refused(Refusal::TooLarge))]);
}

#[test]
fn no_lease_reaches_past_the_membership_of_its_home() {
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], at(500)), T0);
    assert_eq!(read(&mut home, READER, T0).lease, Some(Millis(500)));
    assert_eq!(read(&mut home, OTHER, at(450)).lease, None);
    assert_eq!(home.read_own("k", at(500)), Err(Refusal::NotHome));
}

#[test]
fn nothing_is_committed_after_the_membership_has_lapsed_until_it_is_renewed() {
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], at(500)), T0);
    read(&mut home, READER, T0);
    let seq = orders(&home.write_own(1, set("k", "a"), at(1)))[0].1;
    assert_eq!(home.acknowledged(READER, seq, Had::Nothing, at(600)), []);
    let outputs = home.membership_renewed(at(10_000), 1, at(601));
    assert_eq!(answers(&outputs), [(1, written(1, 1))]);
}

#[test]
fn a_home_that_may_have_been_replaced_waits_for_the_view_and_starts_empty() {
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], at(500)), T0);
    home.write_own(1, set("k", "old"), T0);
    // Paused past its lease; the log dropped it (ring 2) and took it back (ring 3) meanwhile.
    home.membership_renewed(at(10_000), 3, at(5_000));
    assert_eq!(home.read_own("k", at(5_001)), Err(Refusal::NotHome), "the view is behind");
    home.set_view(&view(3, Some((1, 1)), &[(HOME, 1)], at(10_000)), at(5_002));
    assert_eq!(home.read_own("k", at(5_003)).unwrap(), None);
}

#[test]
fn a_request_for_a_former_process_or_from_a_newer_view_is_refused() {
    let mut home = home();
    let key: Key = "k".into();
    for to in [Addressee { incarnation: Incarnation(9), ..TO }, Addressee { ring_epoch: 2, ..TO }] {
        let refused = Answer::Refused(Refusal::NotHome);
        let read = home.read(1, READER, to, &key, Wish::Keep, T0);
        assert_eq!(answers(&read), [(1, refused.clone())]);
        assert_eq!(home.renew(READER, to, T0), refused);
        assert_eq!(answers(&home.write(1, to, set("k", "a"), T0)), [(1, refused)]);
    }
}

/// A key that moves from [`HOME`] to [`OTHER`] when that one joins.
fn moving_key() -> Key {
    let ring = crate::ring::HomeRing::new(&[HOME, OTHER]);
    let moves = |key: &String| ring.home(key) == Some(OTHER);
    (0..).map(|n| format!("k{n}")).find(moves).unwrap().as_str().into()
}

#[test]
fn a_new_home_serves_only_after_the_old_one_has_recalled_every_copy() {
    let key = moving_key();
    let both = [(HOME, 1), (OTHER, 1)];
    let (mut old, mut new) = (home(), Home::new(OTHER, 1 << 20));
    old.write_own(1, set(&key, "old"), T0);
    old.read(1, READER, TO, &key, Wish::Keep, T0);

    let outputs = new.set_view(&view(2, Some((1, 2)), &both, Millis(100_000)), at(1));
    assert_eq!(outputs, [Output::Seal { to: old.tenure().origin(), ring_epoch: 2 }]);
    assert_eq!(new.read_own(&key, at(1)), Err(Refusal::NotHome));
    assert_eq!(old.seal(50, OTHER, Addressee { ring_epoch: 2, ..TO }, 0, at(1)), [], "its view is older");
    assert_eq!(text(old.read_own(&key, at(1)).unwrap()), Some("old".into()), "still home");

    let outputs = old.set_view(&view(2, Some((1, 1)), &both, Millis(100_000)), at(2));
    let [(READER, seq)] = orders(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(old.read_own(&key, at(2)), Err(Refusal::NotHome), "neither serves");
    assert_eq!(answers(&outputs), [], "a copy may still be read");

    let outputs = old.acknowledged(READER, seq, Had::Nothing, at(3));
    let held = Held { version: Version { epoch: 1, counter: 1 }, value: "old".into(), left: None };
    let lines = vec![Moved { key: key.clone(), held }];
    assert_eq!(
        answers(&outputs),
        [(50, Answer::Sealed { ring_epoch: 2, first: 0, lines: lines.clone(), more: false })]
    );
    new.sealed(HOME, 2, 0, lines, false, at(4));
    assert_eq!(text(new.read_own(&key, at(4)).unwrap()), Some("old".into()), "the line has travelled");
    assert_eq!(answers(&new.write_own(9, set(&key, "new"), at(5))), [(9, written(2, 1))]);
}

#[test]
fn a_write_that_waits_when_its_line_leaves_is_refused_and_was_not_done() {
    let key = moving_key();
    let mut old = home();
    old.read(1, READER, TO, &key, Wish::Keep, T0);
    let named = Write { request_id: Some("r1".into()), ..set(&key, "a") };
    assert_eq!(answers(&old.write_own(1, named, at(1))), []);
    old.write_own(2, set(&key, "b"), at(1));
    let both = [(HOME, 1), (OTHER, 1)];
    let outputs = old.set_view(&view(2, Some((1, 1)), &both, Millis(100_000)), at(2));
    let refused = Answer::Refused(Refusal::NotHome);
    assert_eq!(answers(&outputs), [(1, refused.clone()), (2, refused)]);
    assert!(!old.is_empty(), "its sharer is still awaited");
    old.tick(owed_until(T0, LEASE));
    assert!(old.is_empty());
}

#[test]
fn a_seal_under_another_ring_than_the_known_one_does_not_count() {
    let both = [(HOME, 1), (OTHER, 1)];
    let mut new = Home::new(OTHER, 1 << 20);
    new.set_view(&view(2, Some((1, 2)), &both, Millis(100_000)), T0);
    new.sealed(HOME, 3, 0, Vec::new(), false, T0);
    assert!(new.awaits_seal(HOME, 2));
    assert_eq!(new.read_own(&moving_key(), T0), Err(Refusal::NotHome));
}

#[test]
fn keys_that_stay_are_served_throughout_a_change_of_the_ring() {
    let mut home = home();
    let ring = crate::ring::HomeRing::new(&[HOME, OTHER]);
    let key = (0..).map(|n| format!("k{n}")).find(|key| ring.home(key) == Some(HOME)).unwrap();
    home.write_own(1, set(&key, "a"), T0);
    home.set_view(&view(2, Some((1, 1)), &[(HOME, 1), (OTHER, 1)], Millis(100_000)), at(1));
    assert_eq!(text(home.read_own(&key, at(1)).unwrap()), Some("a".into()));
}

#[test]
fn a_retired_home_serves_nothing_and_is_empty_once_its_sharers_have_answered() {
    let mut home = home();
    home.write_own(1, set("k", "a"), T0);
    read(&mut home, READER, T0);
    let outputs = home.retire(at(1));
    let [(READER, seq)] = orders(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(home.read_own("k", at(1)), Err(Refusal::NotHome));
    assert!(!home.is_empty());
    assert!(!home.has_left());
    home.acknowledged(READER, seq, Had::Nothing, at(2));
    assert!(home.has_left());
}

/// The home's view: a ring of itself and these, which have sealed, and a namespace whose lines may be owned.
fn show_ring(home: &mut Home, ring_epoch: u64, others: &[NodeId], now: Millis) -> Vec<Output> {
    let mut spaces = Spaces::default();
    let (name, write_back) = ("back".into(), Some(true));
    let op = crate::command::NamespaceOp::Configure { name, write_back, bytes_max: None, ttl: None };
    spaces.apply(&op, &mut Vec::new());
    let members: Vec<_> = std::iter::once(&HOME).chain(others).map(|node| (*node, 1)).collect();
    let view = view(ring_epoch, Some((1, 1)), &members, Millis(100_000));
    let outputs = home.set_view(&View { spaces: Arc::new(spaces), ..view }, now);
    for node in others {
        home.sealed(*node, ring_epoch, 0, Vec::new(), false, now);
    }
    outputs
}

#[test]
fn only_a_member_owns_a_line_and_what_it_wrote_when_it_was_one_no_more_is_told() {
    let ring = crate::ring::HomeRing::new(&[HOME, READER]);
    let keys = (0..).map(|n| space::join("back", &format!("k{n}")));
    let key = { keys }.find(|key| ring.home(key) == Some(HOME)).unwrap();
    let mut home = Home::new(HOME, 1 << 20);
    show_ring(&mut home, 1, &[READER], T0);
    let own = Wish::Own { process: Incarnation(1) };
    let Answer::Value(value) = ask(&mut home, OTHER, &key, own, T0) else { panic!("no value") };
    assert!(value.lease.is_some() && value.grant.is_none(), "nobody follows what {OTHER} would write");
    let later = owed_until(T0, LEASE);
    let Answer::Value(value) = ask(&mut home, READER, &key, own, later) else { panic!("no value") };
    let grant = value.grant.expect("it is alone, and a member");
    let outputs = show_ring(&mut home, 2, &[], later);
    let [(READER, seq)] = orders(&outputs)[..] else { panic!("it is recalled: {outputs:?}") };
    let version = Version { counter: grant.after.counter + 1, ..grant.after };
    let written = Held { version, value: "a".into(), left: None };
    let outputs = home.acknowledged(READER, seq, Had::Written(written), later);
    let how = crate::cache::feed::Change::Set;
    assert!(outputs.contains(&Output::News(News::Changed { key, version, how })), "{outputs:?}");
}
