//! What a home keeps beside values: rights to fill, request ids, what was made of a value.

use super::*;
use crate::cache::message::Load;
use crate::command::NamespaceOp;

#[test]
fn whoever_was_to_fill_a_value_in_and_has_gone_holds_nobody_up() {
    let mut home = home();
    let load = |wait| Load { key: "k".into(), lease: Millis(60_000), wait: Millis(wait) };
    let first = home.load(1, None, load(0), T0);
    let [Output::Answer { answer: Answer::Fill { token, .. }, .. }] = first[..] else { panic!("{first:?}") };
    assert!(home.load(2, None, load(5_000), T0).is_empty(), "it waits");
    assert!(home.load(3, None, load(5_000), T0).is_empty(), "it waits, too");
    let next = answers(&home.abandon_fill(&"k".into(), token, |tag| tag != 2, T0));
    assert!(matches!(next[..], [(2, Answer::Loading { .. }), (3, Answer::Fill { .. })]), "{next:?}");
    assert!(home.abandon_fill(&"k".into(), token, |_| true, T0).is_empty(), "it was over");
}

#[test]
fn what_is_made_of_a_value_goes_with_it_and_never_evicts_one() {
    let mut home = Home::new(NodeId(1), 10_000);
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    home.write_own(98, set("k", "x".repeat(400).as_str()), T0);
    home.annotate(&"k".into(), Version { epoch: 1, counter: 1 }, Bytes::from(vec![b'n'; 420]));
    assert!(home.note("k", T0).is_some() && home.bytes() > 1_100);
    home.write_own(99, set("k", "y"), T0);
    assert!(home.note("k", T0).is_none() && home.bytes() < 400);
    for n in 0..12 {
        home.write_own(n, set(&format!("k{n}"), "x".repeat(400).as_str()), T0);
        let version = home.read_own(&format!("k{n}"), T0).unwrap().unwrap().version;
        home.annotate(&format!("k{n}").into(), version, Bytes::from(vec![b'n'; 420]));
    }
    assert!(home.bytes() <= 10_000 && home.len() == 13, "{} bytes of {} lines", home.bytes(), home.len());
}

#[test]
fn an_id_is_one_for_each_key() {
    let mut home = home();
    let named = |key, value| Write { request_id: Some("r".into()), ..set(key, value) };
    let a = home.write_own(1, named("a", "1"), T0);
    let b = home.write_own(2, named("b", "2"), T0);
    assert_eq!((answers(&a), answers(&b)), (vec![(1, written(1, 1))], vec![(2, written(1, 2))]));
    let again = home.write_own(3, named("a", "1"), T0);
    assert_eq!(answers(&again), [(3, written(1, 1))]);
}

/// Makes room for three lines of 300 bytes in `s`, and says which keys have notes at the end.
fn noted(home: &mut Home, keys: [&str; 4]) -> [bool; 4] {
    for (n, key) in (1..).zip(keys) {
        home.write_own(n, set(key, &"x".repeat(300)), T0);
        let note = Bytes::from(vec![b'n'; 500]);
        home.annotate(&key.into(), Version { epoch: 1, counter: n }, note);
        assert!(home.read_own(key, T0).unwrap().is_some());
    }
    assert_eq!(home.len(), 4, "no value had to go");
    keys.map(|key| home.note(key, T0).is_some())
}

#[test]
fn room_is_made_of_the_notes_of_the_namespace_that_is_full_before_those_of_others() {
    let mut spaces = Spaces::default();
    let small = Some(2_000);
    let op = NamespaceOp::Configure { name: "s".into(), write_back: None, bytes_max: small, ttl: None };
    spaces.apply(&op, &mut Vec::new());
    let view = View { spaces: Arc::new(spaces), ..view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)) };
    let [a, b, c] = ["a", "b", "c"].map(|key| space::join("s", key));
    let mut home = Home::new(HOME, 1 << 20);
    home.set_view(&view, T0);
    assert_eq!(noted(&mut home, ["default", &a, &b, &c]), [true, false, false, false]);
    // All of the home is full, and the namespace is not.
    let mut home = Home::new(HOME, 2_800);
    home.set_view(&view, T0);
    assert_eq!(noted(&mut home, ["d1", "d2", "d3", &a]), [false, false, false, false]);
}
