//! Races between a value on its way to a copy and whatever ends it.

use lockstep_core::Millis;
use lockstep_core::cache::message::{Answer, Refusal, Write};
use lockstep_core::cache::space::DEFAULT;

use super::stage::{Stage, bound_for, delete, key_in, key_of, set, version};

#[test]
fn late_fill_after_invalidation() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, first) = stage.write(3, set(&key, "old"));
    stage.arrive(&first);
    let (reader, read) = stage.read(2, &key);
    let value = stage.arrive(&read);
    let (writer, write) = stage.write(3, set(&key, "new"));
    stage.carry(write);
    assert!(stage.answer(writer).is_some(), "the write has returned");
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("old"), "it asked before the write was done");
    assert_eq!(stage.sees(2, &key), "ask", "and may not keep what it was told");
}

#[test]
fn registration_after_the_value_read() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, read) = stage.read(2, &key);
    let value = stage.arrive(&read);
    // The home has read the value for it; from this instant on it must be asked before any commit.
    let (writer, write) = stage.write(1, set(&key, "new"));
    let order = stage.arrive(&write);
    assert_eq!(bound_for(2, &order).len(), 1, "{order:?}");
    stage.arrive(&value);
    assert_eq!(stage.sees(2, &key), "nothing");
    assert_eq!(stage.answer(writer), None);
    assert_eq!(stage.committed(1, &key), "nothing", "what its copy says is what is committed");
}

#[test]
fn own_writes_reply_overtaken_by_an_invalidation() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    stage.keep(2, &key);
    let (own, write) = stage.write(2, set(&key, "mine"));
    let order = stage.arrive(&write);
    assert_eq!(bound_for(2, &order).len(), 1, "the writer's own copy goes as well: {order:?}");
    let ack = stage.arrive(&order);
    let reply = stage.arrive(&ack);
    // Before the reply comes, the writer reads its value, and another write takes that away again.
    stage.keep(2, &key);
    assert_eq!(stage.sees(2, &key), "mine");
    let (_, write) = stage.write(3, set(&key, "theirs"));
    let order = stage.arrive(&write);
    let ack = stage.arrive(&order);
    stage.arrive(&ack);
    stage.arrive(&reply);
    assert!(matches!(stage.answer(own), Some(Answer::Written(Some(_)))));
    assert_eq!(stage.sees(2, &key), "ask", "a reply brings no copy back");
}

#[test]
fn invalidation_during_a_pending_fill() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (before, read) = stage.read(2, &key);
    let old = stage.arrive(&read);
    let (writer, write) = stage.write(3, set(&key, "new"));
    stage.carry(write);
    assert!(stage.answer(writer).is_some());
    let (after, again) = stage.read(2, &key);
    assert_eq!(again.len(), 1, "it does not join the read from before the write");
    stage.arrive(&old);
    assert_eq!((stage.told(before), stage.told(after)), (Some("nothing"), None));
    let new = stage.arrive(&again);
    stage.arrive(&new);
    assert_eq!(stage.told(after), Some("new"));
    assert_eq!(stage.sees(2, &key), "new");
}

#[test]
fn new_then_old_reads_before_commit() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    stage.keep(2, &key);
    stage.keep(3, &key);
    let (writer, write) = stage.write(1, set(&key, "new"));
    let orders = stage.arrive(&write);
    let one = stage.arrive(&bound_for(3, &orders));
    stage.arrive(&one);
    // Node 2 has not heard of it and reads the old value: nobody may read the new one yet.
    assert_eq!(stage.sees(2, &key), "old");
    assert_eq!(stage.committed(1, &key), "old");
    let (reader, read) = stage.read(3, &key);
    let value = stage.arrive(&read);
    stage.arrive(&value);
    assert_eq!(stage.told(reader), Some("old"));
    assert_eq!(stage.sees(3, &key), "ask", "and nobody may keep the old one any more");
    let other = stage.arrive(&bound_for(2, &orders));
    let done = stage.arrive(&other);
    assert_eq!(stage.committed(1, &key), "new");
    stage.arrive(&done);
    assert!(stage.answer(writer).is_some());
}

#[test]
fn delete_and_recreate() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let mut do_it = |write: Write| {
        let (tag, packets) = stage.write(1, write);
        let done = stage.arrive(&packets);
        stage.arrive(&done);
        stage.answer(tag).cloned()
    };
    let first = version(do_it(set(&key, "a")).as_ref());
    let gone = version(do_it(delete(&key)).as_ref());
    assert_eq!(do_it(delete(&key)), Some(Answer::Written(None)), "nothing is there, and nothing is counted");
    let second = version(do_it(set(&key, "a")).as_ref());
    assert!(first < gone && gone < second, "{first} {gone} {second}");
    let late = do_it(Write { if_version: Some(first), ..set(&key, "b") });
    let mismatch = Refusal::VersionMismatch { current: Some(second) };
    assert_eq!(late, Some(Answer::Refused(mismatch)), "the same value, and not the same line");
}

#[test]
fn absent_entry_vs_create() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    stage.keep(2, &key);
    assert_eq!(stage.sees(2, &key), "nothing", "an absence is a copy");
    let (creator, create) = stage.write(3, Write { if_absent: true, ..set(&key, "a") });
    let order = stage.arrive(&create);
    assert_eq!((stage.sees(2, &key).as_str(), stage.answer(creator)), ("nothing", None));
    let ack = stage.arrive(&order);
    let done = stage.arrive(&ack);
    stage.arrive(&done);
    version(stage.answer(creator));
    assert_eq!(stage.sees(2, &key), "ask");
}

#[test]
fn ttl_vs_write() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let short = Write { ttl: Some(Millis(1_000)), ..set(&key, "short") };
    let (_, packets) = stage.write(1, short);
    stage.arrive(&packets);
    stage.keep(2, &key);
    stage.later(500);
    let (_, write) = stage.write(1, set(&key, "for ever"));
    let order = stage.arrive(&write);
    let ack = stage.arrive(&order);
    stage.arrive(&ack);
    stage.keep(2, &key);
    stage.later(600);
    assert_eq!(stage.committed(1, &key), "for ever", "the former value's time is not this one's");
    assert_eq!(stage.sees(2, &key), "for ever");
}

#[test]
fn ttl_vs_write_that_waits() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (first, packets) = stage.write(1, Write { ttl: Some(Millis(1_000)), ..set(&key, "short") });
    let done = stage.arrive(&packets);
    stage.arrive(&done);
    let seen = Some(version(stage.answer(first)));
    stage.keep(2, &key);
    let (writer, write) = stage.write(3, Write { if_version: seen, ..set(&key, "next") });
    let order = stage.arrive(&write);
    stage.later(1_000);
    // It held when it was looked at, and the value has expired since: readers have seen nothing.
    assert_eq!(stage.committed(1, &key), "nothing");
    let ack = stage.arrive(&order);
    let done = stage.arrive(&ack);
    stage.arrive(&done);
    let mismatch = Answer::Refused(Refusal::VersionMismatch { current: None });
    assert_eq!(stage.answer(writer), Some(&mismatch));
}

#[test]
fn flush_vs_fill() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let (_, first) = stage.write(1, set(&key, "old"));
    stage.arrive(&first);
    let (_, read) = stage.read(2, &key);
    let value = stage.arrive(&read);
    let (flusher, orders) = stage.flush(1, DEFAULT);
    assert_eq!(stage.committed(1, &key), "old", "who may read it has to be asked");
    let acks = stage.arrive(&orders);
    let done = stage.arrive(&acks);
    stage.arrive(&done);
    assert_eq!(stage.answer(flusher), Some(&Answer::Flushed));
    stage.arrive(&value);
    assert_eq!(stage.sees(2, &key), "ask", "a fill from before the flush is not kept");
    assert_eq!(stage.committed(1, &key), "nothing");
    stage.keep(2, &key);
    assert_eq!(stage.sees(2, &key), "nothing");
}

#[test]
fn flush_vs_fill_of_another_home() {
    let mut stage = Stage::new();
    let (ours, theirs) = (key_in(DEFAULT), key_of(DEFAULT, &[(&[1, 2, 3], 3)]));
    let (_, first) = stage.write(3, set(&theirs, "kept"));
    stage.arrive(&first);
    stage.keep(2, &ours);
    stage.keep(2, &theirs);
    let (_, orders) = stage.flush(1, DEFAULT);
    stage.arrive(&orders);
    assert_eq!(stage.sees(2, &ours), "ask");
    assert_eq!(stage.sees(2, &theirs), "kept", "its own home has not flushed it");
}

#[test]
fn load_token_vs_write() {
    let (mut stage, key) = (Stage::new(), key_in(DEFAULT));
    let ends: [(&str, Option<Write>); 3] =
        [("write", Some(set(&key, "newer"))), ("delete", Some(delete(&key))), ("flush", None)];
    for (how, end) in ends {
        let Answer::Fill { token, .. } = stage.load(1, &key) else { panic!("there was a value") };
        let packets = match end {
            Some(write) => stage.write(1, write).1,
            None => stage.flush(1, DEFAULT).1,
        };
        stage.arrive(&packets);
        let (filler, fill) = stage.write(2, Write { fill: Some(token), ..set(&key, "slowly loaded") });
        let answer = stage.arrive(&fill);
        stage.arrive(&answer);
        assert_eq!(stage.answer(filler), Some(&Answer::Refused(Refusal::FillVoid)), "{how}");
        let (_, clear) = stage.write(1, delete(&key));
        stage.arrive(&clear);
    }
}
