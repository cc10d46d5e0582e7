//! Races of lines that a node owns and writes without asking their home.

use lockstep_core::Millis;
use lockstep_core::cache::Key;
use lockstep_core::cache::lease::{LEASE, owed_until};

use super::packets::Packet;
use super::stage::{BACK, Stage, bound_for, key_in, key_of, set, version};

/// The longest that a home waits for a node whose lease it granted just now.
const WAIT: u64 = owed_until(Millis(0), LEASE).0;

/// Node 2 owns a line of node 1 that says "old".
fn owned() -> (Stage, Key) {
    let (mut stage, key) = (Stage::new(), key_in(BACK));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    assert_eq!(stage.committed(1, &key), "owned");
    (stage, key)
}

/// A write that node 2 settles by itself.
fn silently(stage: &mut Stage, key: &str, value: &str) {
    let (tag, packets) = stage.write(2, set(key, value));
    assert!(packets.is_empty(), "it asked: {packets:?}");
    version(stage.answer(tag));
}

#[test]
fn late_eviction_notice() {
    let (mut stage, key) = owned();
    let notice = stage.give_back(2);
    // It reads again before the notice has come: the home recalls what it still believes to be owned,
    // and grants the line anew.
    let (_, read) = stage.read(2, &key);
    let recall = stage.arrive(&read);
    let nothing = stage.arrive(&recall);
    let grant = stage.arrive(&nothing);
    stage.arrive(&grant);
    silently(&mut stage, &key, "mine");
    stage.arrive(&notice);
    assert_eq!(stage.committed(1, &key), "owned", "the notice was about the former grant");
    let (reader, read) = stage.read(3, &key);
    stage.carry(read);
    assert_eq!(stage.told(reader), Some("mine"));
}

#[test]
fn late_write_back_under_a_former_grant() {
    let (mut stage, key) = owned();
    silently(&mut stage, &key, "first");
    let late = stage.give_back(2);
    assert!(matches!(&late[..], [Packet::Return { written: Some(_), .. }]));
    let (_, write) = stage.write(3, set(&key, "second"));
    let recall = stage.arrive(&write);
    let first = stage.arrive(&recall);
    stage.arrive(&first);
    assert_eq!(stage.committed(1, &key), "second");
    stage.arrive(&late);
    assert_eq!(stage.committed(1, &key), "second");
    // Nor does it count under the next grant.
    stage.keep(2, &key);
    stage.arrive(&late);
    assert_eq!(stage.committed(1, &key), "owned");
}

#[test]
fn recall_overtaking_its_grant() {
    let (mut stage, key) = (Stage::new(), key_in(BACK));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    let (_, read) = stage.read(2, &key);
    let grant = stage.arrive(&read);
    let (writer, write) = stage.write(3, set(&key, "new"));
    stage.carry(write);
    version(stage.answer(writer));
    stage.arrive(&grant);
    assert_eq!(stage.sees(2, &key), "ask");
    let (_, write) = stage.write(2, set(&key, "newer"));
    assert_eq!(write.len(), 1, "it owns nothing");
}

#[test]
fn recall_answered_twice() {
    let (mut stage, key) = owned();
    silently(&mut stage, &key, "mine");
    let (reader, read) = stage.read(3, &key);
    let recall = stage.arrive(&read);
    let lost = stage.arrive(&recall);
    assert!(matches!(&lost[..], [Packet::Forgotten { .. }]));
    stage.later(300);
    let again = stage.arrive(&recall);
    let value = stage.arrive(&again);
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("mine"), "what was given up is kept for the second time");
}

#[test]
fn owner_that_slept_leaves_a_miss() {
    let (mut stage, key) = owned();
    silently(&mut stage, &key, "mine");
    stage.sleep(2);
    let (reader, read) = stage.read(3, &key);
    let recall = stage.arrive(&read);
    let value = stage.later(WAIT);
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("nothing"), "never the old value");
    stage.wake(2);
    assert_eq!(stage.sees(2, &key), "ask");
    let (_, write) = stage.write(2, set(&key, "mine again"));
    assert_eq!(write.len(), 1, "its home has to be asked");
    let late = stage.arrive(&recall);
    stage.arrive(&late);
    assert_ne!(stage.committed(1, &key), "mine", "what comes after the lease is not taken");
}

#[test]
fn owner_restarting_within_its_lease_leaves_a_miss() {
    let (mut stage, key) = owned();
    silently(&mut stage, &key, "mine");
    stage.crash(2);
    stage.start(2, 2, 1 << 20);
    stage.show(2);
    let (reader, read) = stage.read(3, &key);
    stage.carry(read);
    assert_eq!(stage.told(reader), Some("nothing"), "the new process cannot say that nothing was written");
}

#[test]
fn late_order_of_a_former_home_takes_no_owned_line_away() {
    let mut stage = Stage::of(&[1, 2], 1 << 20);
    let key = key_of(BACK, &[(&[1, 2], 1), (&[1, 2, 3], 3)]);
    stage.configure(BACK, false);
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    let (_, write) = stage.write(1, set(&key, "newer"));
    let order = bound_for(2, &stage.arrive(&write));
    let acks = stage.arrive(&order);
    stage.arrive(&acks);
    stage.configure(BACK, true);
    stage.start(3, 1, 1 << 20);
    stage.ring(&[1, 2, 3]);
    stage.show_all();
    stage.keep(2, &key);
    silently(&mut stage, &key, "mine");
    // The former home had sent its order twice; the other one comes now.
    stage.arrive(&order);
    assert_eq!(stage.sees(2, &key), "mine");
    let (reader, read) = stage.read(1, &key);
    stage.carry(read);
    assert_eq!(stage.told(reader), Some("mine"));
}

#[test]
fn late_read_of_a_sharer_makes_it_no_owner_of_what_it_still_reads() {
    let (mut stage, key) = (Stage::new(), key_in(BACK));
    stage.configure(BACK, false);
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    let (_, late) = stage.read(2, &key);
    let value = stage.arrive(&late);
    stage.arrive(&value);
    assert_eq!(stage.sees(2, &key), "old");
    stage.configure(BACK, true);
    // A question that its node had given up arrives: the home makes its only sharer the owner.
    stage.arrive(&late);
    let (tag, write) = stage.write(3, set(&key, "new"));
    let recall = stage.arrive(&write);
    let nothing = stage.arrive(&recall);
    assert_eq!(stage.sees(2, &key), "ask", "the recall took the shared copy with it");
    let done = stage.arrive(&nothing);
    stage.arrive(&done);
    version(stage.answer(tag));
    assert_eq!(stage.committed(1, &key), "new");
}

#[test]
fn nobody_owns_a_line_beside_a_sharer() {
    let (mut stage, key) = (Stage::new(), key_in(BACK));
    stage.configure(BACK, false);
    stage.keep(3, &key);
    stage.configure(BACK, true);
    stage.keep(2, &key);
    assert_eq!((stage.sees(2, &key).as_str(), stage.sees(3, &key).as_str()), ("nothing", "nothing"));
    let (_, write) = stage.write(2, set(&key, "new"));
    let orders = stage.arrive(&write);
    assert_eq!(bound_for(3, &orders).len(), 1, "its home asks the other reader first: {orders:?}");
    assert_eq!(stage.committed(1, &key), "nothing");
}

#[test]
fn owner_whose_line_is_read_shares_it_until_the_next_write() {
    let (mut stage, key) = owned();
    silently(&mut stage, &key, "mine");
    let (reader, read) = stage.read(3, &key);
    let recall = stage.arrive(&read);
    let written = stage.arrive(&recall);
    assert_eq!(stage.sees(2, &key), "mine", "it goes on reading");
    let value = stage.arrive(&written);
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("mine"));
    assert_eq!((stage.sees(2, &key), stage.sees(3, &key)), ("mine".into(), "mine".into()));
    let (_, write) = stage.write(2, set(&key, "newer"));
    assert_eq!(write.len(), 1, "it owns nothing any more");
    let orders = stage.arrive(&write);
    stage.arrive(&orders);
    assert_eq!((stage.sees(2, &key), stage.sees(3, &key)), ("ask".into(), "ask".into()));
}

#[test]
fn line_leaving_while_its_owner_is_told_to_share_it() {
    let mut stage = Stage::of(&[1, 2, 3], 1 << 20);
    let key = key_of(BACK, &[(&[1, 2, 3], 1), (&[1, 2, 3, 4], 4)]);
    stage.configure(BACK, true);
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    silently(&mut stage, &key, "mine");
    let (_, read) = stage.read(3, &key);
    let recall = stage.arrive(&read);
    stage.start(4, 1, 1 << 20);
    stage.ring(&[1, 2, 3, 4]);
    // The line has to leave before the owner has heard that it may go on reading.
    let seals = stage.show(1);
    let written = stage.arrive(&recall);
    assert_eq!(stage.sees(2, &key), "mine");
    let orders = bound_for(2, &stage.arrive(&written));
    assert_eq!(orders.len(), 1, "it must forget after all, before the line may go");
    let gone = stage.arrive(&orders);
    assert_eq!(stage.sees(2, &key), "ask");
    stage.arrive(&gone);
    stage.arrive(&seals);
    stage.show_all();
    assert_eq!(stage.committed(4, &key), "mine");
}

#[test]
fn late_read_of_a_former_process_leaves_no_copy_that_its_home_forgot() {
    let (mut stage, key) = (Stage::new(), key_in(BACK));
    stage.configure(BACK, false);
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    let (_, late) = stage.read(2, &key);
    stage.crash(2);
    stage.start(2, 2, 1 << 20);
    stage.show(2);
    stage.keep(2, &key);
    stage.configure(BACK, true);
    // The home makes its only sharer the owner, as the process that it was.
    stage.arrive(&late);
    let (_, read) = stage.read(3, &key);
    let recall = stage.arrive(&read);
    assert_eq!(stage.sees(2, &key), "old");
    let lost = stage.arrive(&recall);
    assert_eq!(stage.sees(2, &key), "ask", "the home takes the line for lost now");
    let value = stage.arrive(&lost);
    stage.arrive(&value);
    assert_eq!(stage.sees(3, &key), "nothing");
}
