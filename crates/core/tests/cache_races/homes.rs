//! Races of homes that move, forget for want of room, or are asked twice.

use lockstep_core::cache::Key;
use lockstep_core::cache::message::{Answer, Change, Refusal, Write};
use lockstep_core::cache::space::DEFAULT;
use lockstep_core::names::NodeId;
use lockstep_core::ring::HomeRing;

use super::packets::Packet;
use super::stage::{Stage, bound_for, key_in, key_of, keys_in, set, version};

/// Nodes 1 and 2 know each other, and node 3 joins: "old" moves from node 1 to it.
fn moving() -> (Stage, Key) {
    let mut stage = Stage::of(&[1, 2], 1 << 20);
    let key = key_of(DEFAULT, &[(&[1, 2], 1), (&[1, 2, 3], 3)]);
    let (_, write) = stage.write(1, set(&key, "old"));
    stage.arrive(&write);
    stage.start(3, 1, 1 << 20);
    stage.ring(&[1, 2, 3]);
    (stage, key)
}

#[test]
fn rebalancing_readding_a_copy() {
    let (mut stage, key) = moving();
    let (reader, read) = stage.read(2, &key);
    let value = stage.arrive(&read);
    let mut packets = stage.show(3);
    packets.extend(stage.show(2));
    let orders = stage.show(1);
    packets.extend(stage.arrive(&orders));
    while !packets.is_empty() {
        packets = stage.arrive(&packets);
    }
    assert_eq!(stage.committed(3, &key), "old", "the line has moved");
    let (_, write) = stage.write(3, set(&key, "new"));
    stage.arrive(&write);
    // What the former home said comes now. The new one knows nothing of such a copy.
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("old"));
    assert_eq!(stage.sees(2, &key), "ask");
}

#[test]
fn two_homes() {
    let (mut stage, key) = moving();
    stage.keep(2, &key);
    let homes = |stage: &Stage| [1, 3].map(|node| stage.committed(node, &key) != "not home");
    let asks = stage.show(3);
    assert_eq!(homes(&stage), [true, false], "the old one does not know yet");
    let early = stage.arrive(&asks);
    assert!(early.is_empty(), "nobody seals under a ring that it does not know: {early:?}");
    let sealed = stage.show(2);
    stage.arrive(&sealed);
    let orders = stage.show(1);
    assert_eq!(homes(&stage), [false, false], "a copy may be read still");
    assert_eq!(stage.sees(2, &key), "old");
    let acks = stage.arrive(&bound_for(2, &orders));
    let sealed = stage.arrive(&acks);
    assert_eq!(homes(&stage), [false, false]);
    stage.arrive(&sealed);
    assert_eq!((homes(&stage), stage.committed(3, &key).as_str()), ([false, true], "old"));
}

#[test]
fn two_homes_after_a_move_there_and_back() {
    let (mut stage, key) = moving();
    stage.membership = 2_000;
    let asks = stage.show(3);
    stage.arrive(&asks);
    stage.membership = 1_000_000;
    let sealed = [stage.show(1), stage.show(2)].concat();
    let late: Vec<Packet> =
        sealed.into_iter().filter(|packet| matches!(packet, Packet::Sealed { to: 3, .. })).collect();
    assert_eq!(late.len(), 2, "both have sealed, and their word is on its way: {late:?}");
    // Node 3 falls silent, and the log drops it.
    stage.later(2_000);
    stage.ring(&[1, 2]);
    let mut packets = [stage.show(1), stage.show(2)].concat();
    while !packets.is_empty() {
        packets = stage.arrive(&packets);
    }
    assert_eq!(stage.committed(1, &key), "nothing", "the other one may have served and changed it");
    let (_, write) = stage.write(2, set(&key, "new"));
    stage.arrive(&write);
    stage.arrive(&late);
    assert_eq!(stage.committed(3, &key), "not home", "what it is told now is too late");
    assert_eq!(stage.committed(1, &key), "new");
}

#[test]
fn home_restarting_within_its_membership_while_another_joins() {
    let (mut stage, key) = moving();
    stage.keep(2, &key);
    stage.crash(1);
    // Its new process follows the log, and is no member while the former one's lease lasts.
    stage.start(1, 2, 1 << 20);
    let mut packets = [stage.show(1), stage.show(2), stage.show(3)].concat();
    while !packets.is_empty() {
        packets = stage.arrive(&packets);
    }
    assert_eq!(stage.sees(2, &key), "old", "what the former process let it read");
    assert_eq!(stage.committed(3, &key), "not home", "the new one cannot answer for that");
    stage.later(5_000);
    stage.ring(&[2, 3]);
    stage.show_all();
    assert_eq!((stage.sees(2, &key).as_str(), stage.committed(3, &key).as_str()), ("ask", "nothing"));
}

#[test]
fn seal_asked_for_under_an_older_ring() {
    let (mut stage, key) = moving();
    let asks = stage.show(3);
    stage.arrive(&asks);
    // Node 2 leaves. Node 1 has skipped the ring under which it was asked, and node 3 asks anew.
    stage.ring(&[1, 3]);
    let again = stage.show(3);
    let late = stage.show(1);
    stage.arrive(&bound_for(3, &late));
    assert_eq!(stage.committed(3, &key), "not home", "that was no seal under the ring that it knows now");
    let sealed = stage.arrive(&bound_for(1, &again));
    stage.arrive(&sealed);
    assert_eq!(stage.committed(3, &key), "old", "and the line has come");
}

#[test]
fn unrelated_change_of_the_ring() {
    let mut stage = Stage::of(&[1, 2], 1 << 20);
    let key = key_of(DEFAULT, &[(&[1, 2], 1), (&[1, 2, 3], 1)]);
    let (_, write) = stage.write(1, set(&key, "old"));
    stage.arrive(&write);
    stage.keep(2, &key);
    stage.start(3, 1, 1 << 20);
    stage.ring(&[1, 2, 3]);
    stage.show_all();
    assert_eq!((stage.sees(2, &key).as_str(), stage.committed(1, &key).as_str()), ("old", "old"));
    let (_, write) = stage.write(3, set(&key, "new"));
    let order = stage.arrive(&write);
    assert_eq!(bound_for(2, &order).len(), 1, "it is registered still");
}

#[test]
fn home_evicting_a_line_with_sharers() {
    let mut stage = Stage::of(&[1, 2, 3], 1_000);
    let [key, big] = &keys_in(DEFAULT, 2)[..] else { panic!("there are enough") };
    let (_, write) = stage.write(1, set(key, "old"));
    stage.arrive(&write);
    stage.keep(2, key);
    let (_, write) = stage.write(1, set(big, &"x".repeat(600)));
    let order = bound_for(2, &stage.arrive(&write));
    assert_eq!(order.len(), 1);
    assert_eq!((stage.sees(2, key).as_str(), stage.committed(1, key).as_str()), ("old", "old"));
    // A write comes while the line is on its way out: it must not overtake the copy's end.
    let (writer, write) = stage.write(3, set(key, "new"));
    assert!(stage.arrive(&write).is_empty());
    assert_eq!((stage.committed(1, key).as_str(), stage.answer(writer)), ("old", None));
    let ack = stage.arrive(&order);
    let done = stage.arrive(&ack);
    stage.arrive(&done);
    assert_eq!((stage.sees(2, key).as_str(), stage.committed(1, key).as_str()), ("ask", "new"));
    version(stage.answer(writer));
}

#[test]
fn load_token_vs_move() {
    let (mut stage, full) = moving();
    let key: Key = (0..).map(|n| format!("{full}-{n}").as_str().into()).find(moves).unwrap();
    let Answer::Fill { token, .. } = stage.load(1, &key) else { panic!("there is no value") };
    stage.show_all();
    let (filler, fill) = stage.write(2, Write { fill: Some(token), ..set(&key, "slowly loaded") });
    let answer = stage.arrive(&fill);
    stage.arrive(&answer);
    assert_eq!(stage.answer(filler), Some(&Answer::Refused(Refusal::FillVoid)));
}

/// Whether `key` moves as [`moving`] does.
fn moves(key: &Key) -> bool {
    let home = |nodes: &[u64]| HomeRing::new(&nodes.iter().map(|n| NodeId(*n)).collect::<Vec<_>>()).home(key);
    home(&[1, 2]) == Some(NodeId(1)) && home(&[1, 2, 3]) == Some(NodeId(3))
}

fn one_more(key: &str) -> Write {
    Write { change: Change::Add(1), request_id: Some("r1".into()), ..set(key, "") }
}

#[test]
fn retried_increment() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    stage.keep(2, &key);
    let (first, write) = stage.write(3, one_more(&key));
    let order = stage.arrive(&write);
    // No answer: it is asked again while it still waits for node 2, and once more afterwards.
    let (second, again) = stage.write(3, one_more(&key));
    assert!(stage.arrive(&again).is_empty(), "it waits for the same outcome");
    let ack = stage.arrive(&order);
    let both = stage.arrive(&ack);
    let (third, late) = stage.write(2, one_more(&key));
    let answers = [both, stage.arrive(&late), stage.arrive(&write)].concat();
    stage.arrive(&answers);
    for tag in [first, second, third] {
        assert!(
            matches!(stage.answer(tag), Some(Answer::Counted { value: 1, .. })),
            "{:?}",
            stage.answer(tag)
        );
    }
    assert_eq!(stage.committed(1, &key), "1");
}

#[test]
fn retried_increment_at_another_process() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (writer, write) = stage.write(3, one_more(&key));
    let lost = stage.arrive(&write);
    assert!(matches!(&lost[..], [Packet::Done { .. }]), "it was done");
    stage.crash(1);
    stage.start(1, 2, 1 << 20);
    stage.ring(&[1, 2, 3]);
    stage.show_all();
    // The new process cannot know. Whoever asks again asks the process that may have done it.
    let answer = stage.arrive(&write);
    stage.arrive(&answer);
    assert_eq!(stage.answer(writer), Some(&Answer::Refused(Refusal::NotHome)));
    assert_eq!(stage.committed(1, &key), "nothing", "the value is a miss, and not counted twice");
}
