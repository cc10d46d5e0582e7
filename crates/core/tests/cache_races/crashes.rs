//! Races of a home that crashes or sleeps, and of the one that takes its keys over.

use lockstep_core::cache::message::{Answer, Refusal};
use lockstep_core::cache::space::DEFAULT;
use lockstep_core::cache::{Key, Version};

use super::packets::Packet;
use super::stage::{Stage, T0, bound_for, key_of, set, version};

/// How long node 1 is a member, in the tests in which it crashes or sleeps.
const MEMBERSHIP: u64 = 5_000;
/// When it crashes: within the last lease that it grants.
const CRASH: u64 = 4_500;

/// Node 1 is the home of "old"; nodes 2 and 3 hold copies of it, and have just renewed their leases.
/// Without node 1, node 3 is home.
fn before_the_crash() -> (Stage, Key, Version) {
    let mut stage = Stage::members_until(MEMBERSHIP, &[1, 2, 3], 1 << 20);
    let key = key_of(DEFAULT, &[(&[1, 2, 3], 1), (&[2, 3], 3)]);
    let (writer, write) = stage.write(1, set(&key, "old"));
    let done = stage.arrive(&write);
    stage.arrive(&done);
    stage.later(CRASH);
    for node in [2, 3] {
        stage.keep(node, &key);
        let renew = stage.renew(node, &key);
        let renewed = stage.arrive(&renew);
        stage.arrive(&renewed);
    }
    let version = version(stage.answer(writer));
    (stage, key, version)
}

/// Node 1 crashes; the log drops it when its membership is over, and node 3 takes its keys. Whoever
/// could read a copy until then can no more.
fn take_over(stage: &mut Stage, key: &str, old: Version) {
    stage.crash(1);
    assert_eq!(stage.committed(3, key), "not home");
    stage.later(MEMBERSHIP - CRASH);
    stage.membership = 1_000_000;
    stage.ring(&[2, 3]);
    stage.show_all();
    assert_eq!(stage.committed(3, key), "nothing", "what a dead home held is a miss");
    for node in [2, 3] {
        assert_eq!(stage.sees(node, key), "ask", "node {node}: no lease outlives the home's membership");
    }
    let (writer, write) = stage.write(2, set(key, "after"));
    let done = stage.arrive(&write);
    stage.arrive(&done);
    assert!(version(stage.answer(writer)) > old, "no version comes back");
}

#[test]
fn home_crash_before_invalidation() {
    let (mut stage, key, old) = before_the_crash();
    let (writer, write) = stage.write(2, set(&key, "new"));
    assert_eq!(stage.sees(2, &key), "old");
    take_over(&mut stage, &key, old);
    assert_eq!(stage.answer(writer), None);
    assert!(stage.arrive(&write).is_empty(), "there is no such process any more");
}

#[test]
fn home_crash_during_invalidation() {
    let (mut stage, key, old) = before_the_crash();
    let (writer, write) = stage.write(2, set(&key, "new"));
    let orders = stage.arrive(&write);
    let ack = stage.arrive(&bound_for(2, &orders));
    stage.arrive(&ack);
    assert_eq!((stage.sees(2, &key).as_str(), stage.sees(3, &key).as_str()), ("ask", "old"));
    take_over(&mut stage, &key, old);
    assert_eq!(stage.answer(writer), None);
    // The order of the former home comes late, and finds a copy of the new home's.
    stage.keep(2, &key);
    stage.arrive(&bound_for(2, &orders));
    assert_eq!(stage.sees(2, &key), "after");
}

#[test]
fn home_crash_after_invalidation() {
    let (mut stage, key, old) = before_the_crash();
    let (writer, write) = stage.write(2, set(&key, "new"));
    let orders = stage.arrive(&write);
    let acks = stage.arrive(&orders);
    take_over(&mut stage, &key, old);
    stage.arrive(&acks);
    assert_eq!(stage.answer(writer), None);
    assert_eq!(stage.committed(3, &key), "after");
}

#[test]
fn home_crash_before_the_reply() {
    let (mut stage, key, old) = before_the_crash();
    let (writer, write) = stage.write(2, set(&key, "new"));
    let orders = stage.arrive(&write);
    let acks = stage.arrive(&orders);
    let lost = stage.arrive(&acks);
    assert!(matches!(&lost[..], [Packet::Done { .. }]));
    stage.keep(3, &key);
    assert_eq!(stage.sees(3, &key), "new", "it was done, and seen");
    take_over(&mut stage, &key, old);
    assert_eq!(stage.answer(writer), None);
}

#[test]
fn lease_past_its_homes_membership() {
    let (mut stage, key, _) = before_the_crash();
    assert_eq!(stage.sees(2, &key), "old");
    while stage.committed(1, &key) == "old" && stage.now(1).0 < T0 + MEMBERSHIP {
        stage.later(10);
    }
    assert!(stage.now(1).0 < T0 + MEMBERSHIP, "by its own count it ends before the log can drop it");
    assert_eq!((stage.sees(2, &key).as_str(), stage.sees(3, &key).as_str()), ("ask", "ask"));
    let renew = stage.renew(2, &key);
    assert!(matches!(
        &stage.arrive(&renew)[..],
        [Packet::Renewed { answer: Answer::Refused(Refusal::NotHome), .. }]
    ));
}

#[test]
fn home_that_slept() {
    let (mut stage, key, old) = before_the_crash();
    stage.sleep(1);
    stage.later(MEMBERSHIP - CRASH);
    stage.membership = 1_000_000;
    stage.ring(&[2, 3]);
    let mut packets = [stage.show(2), stage.show(3)].concat();
    while !packets.is_empty() {
        packets = stage.arrive(&packets);
    }
    let (writer, write) = stage.write(2, set(&key, "new"));
    let done = stage.arrive(&write);
    stage.arrive(&done);
    assert!(version(stage.answer(writer)) > old);
    stage.wake(1);
    assert_eq!(stage.committed(1, &key), "not home", "before it hears of anything");
    // It is taken back, and has not forgotten: what it remembers must not come back with it.
    stage.ring(&[1, 2, 3]);
    let mut packets = stage.show(1);
    assert_eq!(stage.committed(1, &key), "not home", "nobody has sealed");
    packets.extend(stage.show(2));
    packets.extend(stage.show(3));
    while !packets.is_empty() {
        packets = stage.arrive(&packets);
    }
    assert_eq!(stage.committed(1, &key), "new", "it came from the home in between");
}
