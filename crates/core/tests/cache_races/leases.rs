//! Races between leases, acknowledgements and clocks.

use lockstep_core::Millis;
use lockstep_core::cache::lease::{LEASE, MARGIN, OVERDUE, owed_until};
use lockstep_core::cache::message::Write;
use lockstep_core::cache::space::DEFAULT;

use super::packets::Packet;
use super::stage::{Stage, bound_for, key_in, keys_in, set};

/// The longest that a home waits for a node whose lease it granted just now.
const WAIT: u64 = owed_until(Millis(0), LEASE).0;

/// Node 2 holds a copy of "old", and node 1 has been told to write "new": the write, and the order.
fn pending(stage: &mut Stage, key: &str) -> (u64, Vec<Packet>) {
    let (_, first) = stage.write(1, set(key, "old"));
    stage.arrive(&first);
    stage.keep(2, key);
    let (writer, write) = stage.write(1, set(key, "new"));
    (writer, stage.arrive(&write))
}

#[test]
fn duplicate_and_reordered_acks() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, order) = pending(&mut stage, &key);
    let ack = stage.arrive(&order);
    stage.arrive(&ack);
    stage.keep(2, &key);
    let (writer, write) = stage.write(3, set(&key, "newer"));
    let second = stage.arrive(&write);
    // The first order is delivered again, and its acknowledgement comes twice, the second one's never.
    let again = stage.arrive(&order);
    stage.arrive(&again);
    stage.arrive(&ack);
    assert_eq!(stage.committed(1, &key), "new", "node 2 has not answered the second order");
    let ack = stage.arrive(&second);
    let done = stage.arrive(&ack);
    stage.arrive(&done);
    assert!(stage.answer(writer).is_some());
}

#[test]
fn ack_after_lease_end() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, order) = pending(&mut stage, &key);
    let ack = stage.arrive(&order);
    stage.later(WAIT);
    assert_eq!(stage.committed(1, &key), "new", "its lease is over");
    stage.keep(2, &key);
    stage.arrive(&ack);
    let (_, write) = stage.write(3, set(&key, "newer"));
    let order = stage.arrive(&write);
    assert_eq!(bound_for(2, &order).len(), 1, "the copy that it took since is registered: {order:?}");
}

#[test]
fn renewal_crossing_an_invalidation() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    stage.write(1, set(&key, "old"));
    let renew = {
        stage.keep(2, &key);
        stage.later(1_500);
        stage.renew(2, &key)
    };
    let (_, write) = stage.write(1, set(&key, "new"));
    let order = stage.arrive(&write);
    // The renewal, sent before the order came, is granted behind it.
    let renewed = stage.arrive(&renew);
    stage.arrive(&renewed);
    stage.later(WAIT - 1_500);
    assert_eq!(stage.sees(2, &key), "nothing", "its copy may be read for longer now");
    assert_eq!(stage.committed(1, &key), "nothing", "and the write waits for longer");
    let ack = stage.arrive(&order);
    stage.arrive(&ack);
    assert_eq!((stage.sees(2, &key).as_str(), stage.committed(1, &key).as_str()), ("ask", "new"));
}

#[test]
fn renewal_that_arrives_after_the_lease_revives_no_copy() {
    let (mut stage, keys) = (Stage::new(), keys_in(DEFAULT, 2));
    let (key, other) = (keys[0].clone(), keys[1].clone());
    let (_, _lost) = pending(&mut stage, &key);
    let renew = stage.renew(2, &key);
    let renewed = stage.arrive(&renew);
    stage.later(WAIT);
    assert_eq!(stage.committed(1, &key), "new");
    stage.arrive(&renewed);
    assert_eq!(stage.sees(2, &key), "ask");
    // A fresh lease, for another key, does not revive it either.
    stage.keep(2, &other);
    let late = stage.renew(2, &key);
    let renewed = stage.arrive(&late);
    stage.arrive(&renewed);
    assert_eq!((stage.sees(2, &key).as_str(), stage.sees(2, &other).as_str()), ("ask", "nothing"));
}

#[test]
fn renewal_that_arrives_late_counts_from_when_it_was_asked_for() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, _lost) = pending(&mut stage, &key);
    let renew = stage.renew(2, &key);
    let renewed = stage.arrive(&renew);
    stage.later(1_900);
    stage.arrive(&renewed);
    assert_eq!(stage.sees(2, &key), "old");
    stage.later(WAIT - 1_900);
    assert_eq!((stage.sees(2, &key).as_str(), stage.committed(1, &key).as_str()), ("ask", "new"));
}

#[test]
fn one_way_partition() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (writer, mut sent) = pending(&mut stage, &key);
    sent.clear();
    // Whatever node 2 sends arrives, and it goes on asking for its lease and for other values.
    let mut waited = 0;
    while stage.answer(writer).is_none() {
        assert!(waited <= WAIT + OVERDUE.0, "a node that hears nothing stalls a write");
        let renew = stage.renew(2, &key);
        stage.arrive(&renew);
        let (_, read) = stage.read(2, &keys_in(DEFAULT, 2)[1]);
        stage.arrive(&read);
        let done = bound_for(1, &stage.later(50));
        stage.arrive(&done);
        waited += 50;
    }
    assert_eq!(stage.sees(2, &key), "ask", "its copy went before the write was done");
    let renew = stage.renew(2, &key);
    assert!(!stage.arrive(&renew).is_empty(), "it is not shut out for ever");
}

#[test]
fn sharer_restarting_within_its_lease() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    stage.crash(2);
    stage.start(2, 2, 1 << 20);
    stage.show(2);
    assert_eq!(stage.sees(2, &key), "ask", "a new process holds nothing");
    let (writer, write) = stage.write(3, set(&key, "new"));
    let order = stage.arrive(&write);
    assert_eq!(bound_for(2, &order).len(), 1, "the home does not know");
    let ack = stage.arrive(&order);
    let done = stage.arrive(&ack);
    stage.arrive(&done);
    assert!(stage.answer(writer).is_some(), "the new process answers for the former one");
}

#[test]
fn sharer_that_slept() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    let other = keys_in(DEFAULT, 2)[1].clone();
    let (_, read) = stage.read(2, &other);
    let value = stage.arrive(&read);
    let renew = stage.renew(2, &key);
    let renewed = stage.arrive(&renew);
    stage.sleep(2);
    let (writer, write) = stage.write(3, set(&key, "new"));
    let order = stage.arrive(&write);
    let done = stage.later(WAIT);
    stage.arrive(&done);
    assert!(stage.answer(writer).is_some());
    let (_, write) = stage.write(3, set(&other, "new"));
    stage.arrive(&write);
    stage.wake(2);
    // Before anything is done there, and with whatever lay in its sockets.
    assert_eq!(stage.sees(2, &key), "ask");
    stage.arrive(&renewed);
    stage.arrive(&value);
    assert_eq!((stage.sees(2, &key).as_str(), stage.sees(2, &other).as_str()), ("ask", "ask"));
    stage.arrive(&order);
    stage.keep(2, &key);
    assert_eq!(stage.sees(2, &key), "new");
}

#[test]
fn clock_drift() {
    // One part in a hundred between the two, however it is shared out.
    for (home, holder) in [(1_000, 990), (1_010, 1_000), (1_005, 995)] {
        let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
        stage.drift(1, home);
        stage.drift(2, holder);
        pending(&mut stage, &key);
        let renew = stage.renew(2, &key);
        let renewed = stage.arrive(&renew);
        stage.arrive(&renewed);
        let (mut read_until, mut committed_at) = (0, 0);
        for real in 1..WAIT + 100 {
            stage.later(1);
            if stage.sees(2, &key) == "old" {
                read_until = real;
            }
            if committed_at == 0 && stage.committed(1, &key) == "new" {
                committed_at = real;
            }
        }
        let spare = committed_at - read_until;
        assert!(spare >= MARGIN.0 - 5, "{spare} ms between the last read and the commit: {home} {holder}");
    }
}

#[test]
fn clock_drift_of_a_time_to_live() {
    const HOUR: u64 = 3_600_000;
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    stage.drift(2, 990);
    stage.membership = 4 * HOUR;
    stage.show_all();
    let (_, first) = stage.write(1, Write { ttl: Some(Millis(HOUR)), ..set(&key, "old") });
    stage.arrive(&first);
    stage.keep(2, &key);
    for _ in 0..HOUR / 1_000 {
        assert!(stage.sees(2, &key) != "old" || stage.committed(1, &key) == "old");
        stage.later(1_000);
        let renew = stage.renew(2, &key);
        let renewed = stage.arrive(&renew);
        stage.arrive(&renewed);
    }
    assert_eq!((stage.committed(1, &key).as_str(), stage.sees(2, &key).as_str()), ("nothing", "ask"));
}

#[test]
fn slow_sharer_overflowing_its_queue() {
    const KEYS: usize = 2_000;
    let mut stage = Stage::new();
    let home = key_in(DEFAULT);
    let keys: Vec<String> = (0..)
        .map(|n| format!("q{n}"))
        .filter(|key| stage.nodes[&2].home.home_of(key) == stage.nodes[&2].home.home_of(&home))
        .take(KEYS)
        .collect();
    keys.iter().for_each(|key| stage.keep(2, key));
    let mut writers = Vec::new();
    for key in &keys {
        let (writer, write) = stage.write(1, set(key, "new"));
        stage.arrive(&write);
        writers.push(writer);
    }
    // It answers nothing, and asks for more all the time.
    stage.later(OVERDUE.0);
    let renew = stage.renew(2, &home);
    stage.arrive(&renew);
    let done = stage.later(WAIT - OVERDUE.0);
    stage.arrive(&done);
    assert!(writers.iter().all(|writer| stage.answer(*writer).is_some()), "all of them at once");
    assert!(keys.iter().all(|key| stage.sees(2, key) == "ask"));
    assert_eq!(stage.nodes[&1].home.next_deadline(), None, "nothing is owed to it any more");
}
