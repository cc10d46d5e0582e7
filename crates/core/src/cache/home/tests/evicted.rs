//! Which line makes room, and what is counted of writes.

use super::*;

/// Room for ten lines of short keys, which nobody else keeps.
fn small() -> Home {
    let mut home = Home::new(HOME, 10 * super::super::line::cost("k00", 5));
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    home
}

fn scan(home: &mut Home, from: u64, count: u64, mut reads: impl FnMut(&mut Home)) {
    for n in from..from + count {
        home.write_own(n, set(&format!("s{n:02}"), "value"), T0);
        reads(home);
    }
}

#[test]
fn a_line_that_is_read_survives_a_scan_of_writes_that_nobody_reads() {
    // Notes go before any value does; then the value is read itself.
    let by_note = |home: &mut Home| {
        assert!(home.note("k00", T0).is_some() || home.read_own("k00", T0).unwrap().is_some());
        home.annotate(&"k00".into(), Version { epoch: 1, counter: 1 }, Bytes::from_static(b""));
    };
    let here = |home: &mut Home| assert!(home.read_own("k00", T0).unwrap().is_some());
    let elsewhere = |home: &mut Home| {
        let Answer::Value(value) = ask(home, READER, "k00", Wish::Look, T0) else { panic!("no value") };
        assert!(value.held.is_some());
    };
    for read in [by_note, here, elsewhere] {
        let mut home = small();
        home.write_own(1, set("k00", "value"), T0);
        let version = Version { epoch: 1, counter: 1 };
        home.annotate(&"k00".into(), version, Bytes::from_static(b""));
        scan(&mut home, 10, 80, read);
        assert!(home.stats().evictions >= 70);
        // Nobody reads it any more.
        scan(&mut home, 100, 20, |_| {});
        assert_eq!(home.read_own("k00", T0), Ok(None));
    }
}

#[test]
fn an_absence_that_is_read_makes_room_for_values() {
    let mut home = small();
    ask(&mut home, READER, "k00", Wish::Keep, T0);
    assert!(!home.sharers("k00").is_empty());
    scan(&mut home, 10, 10, |home| assert_eq!(home.read_own("k00", T0), Ok(None)));
    let home = home.tick(owed_until(T0, LEASE)).is_empty().then_some(home);
    assert!(home.is_some_and(|home| home.sharers("k00").is_empty()));
}

#[test]
fn an_eviction_spares_so_many_lines_and_no_more() {
    let mut home = Home::new(HOME, 40 * super::super::line::cost("k00", 5));
    home.set_view(&view(1, Some((1, 1)), &[(HOME, 1)], Millis(100_000)), T0);
    for n in 0..40 {
        home.write_own(n, set(&format!("k{n:02}"), "value"), T0);
        assert!(home.read_own(&format!("k{n:02}"), T0).unwrap().is_some());
    }
    home.write_own(50, set("new", "value"), T0);
    let gone: Vec<u64> = (0..40).filter(|n| home.read_own(&format!("k{n:02}"), T0) == Ok(None)).collect();
    assert_eq!(gone, [16], "the oldest of those that it did not spare");
}

#[test]
fn only_committed_writes_are_counted_as_stalls() {
    let mut home = home();
    read(&mut home, READER, T0);
    let seq = orders(&home.write_own(1, set("k", "a"), T0))[0].1;
    let create = Write { if_absent: true, ..set("k", "b") };
    home.write_own(2, create.clone(), T0);
    home.acknowledged(READER, seq, Had::Nothing, at(30));
    home.write_own(3, create, at(31));
    home.write_own(4, delete("nothing"), at(32));
    let guard = |token| crate::guards::Guard {
        lock: crate::names::LockName("lock".into()),
        token: crate::names::Token(token),
        proof: crate::guards::Proof::Issued,
    };
    home.write_own(5, Write { guard: Some(guard(9)), ..set("k", "c") }, at(33));
    home.write_own(6, Write { guard: Some(guard(8)), ..set("k", "d") }, at(34));
    let mut stalls = [0; STALL_BOUNDS_MS.len() + 1];
    (stalls[0], stalls[5]) = (1, 1);
    assert_eq!((home.stats().stalls, home.stats().stalls_ms, home.stats().writes), (stalls, 30, 2));
}
