//! The log over real files: crashes, damage, rotation.

use std::path::Path;
use std::sync::mpsc;

use super::*;

const SHARD: ShardId = ShardId(3);

fn open(directory: &Path) -> Result<Wal, Error> {
    Wal::open(directory, Settings { segment_bytes: 4096, bytes_max: 8192 })
}

fn append(wal: &Wal, shard: ShardId, records: Vec<Record>) {
    let (done, durable) = mpsc::channel();
    wal.append(shard, records, Box::new(move || done.send(()).unwrap()));
    durable.recv().unwrap();
}

fn entry(index: u64) -> Record {
    Record::Entry(index, Bytes::from(format!("entry {index} {}", "x".repeat(50))))
}

fn indexes(wal: &Wal, shard: ShardId) -> Vec<u64> {
    wal.take_recovered(shard).entries.into_keys().collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![Record::Vote("first".into()), entry(1), entry(2), entry(3)]);
    append(&wal, SHARD, vec![Record::Truncate(2), Record::Vote("second".into())]);
    append(&wal, ShardId(4), vec![entry(7)]);
    append(&wal, SHARD, vec![entry(2)]);
    drop(wal);
    let wal = open(directory.path()).unwrap();
    let recovered = wal.take_recovered(SHARD);
    assert_eq!(recovered.vote, Some("second".into()));
    assert_eq!(recovered.entries.into_keys().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(indexes(&wal, ShardId(4)), [7]);
}

#[test]
fn a_batch_cut_short_at_any_byte_is_dropped_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![entry(1)]);
    drop(wal);
    let file = segment::path(directory.path(), 1);
    let before = std::fs::read(&file).unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![entry(2)]);
    drop(wal);
    let after = std::fs::read(&file).unwrap();
    let last = (0..after.len()).rfind(|at| after[*at] != before[*at]).unwrap();
    let first = (0..after.len()).find(|at| after[*at] != before[*at]).unwrap();
    for cut in first..=last {
        let mut torn = after.clone();
        torn[cut..].fill(0);
        std::fs::write(&file, &torn).unwrap();
        let wal = open(directory.path()).unwrap();
        assert_eq!(indexes(&wal, SHARD), [1], "cut at {cut}");
        append(&wal, SHARD, vec![entry(2), entry(3)]);
        drop(wal);
        assert_eq!(indexes(&open(directory.path()).unwrap(), SHARD), [1, 2, 3], "after the cut at {cut}");
    }
}

#[test]
fn damage_before_good_data_is_refused_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![entry(1)]);
    append(&wal, SHARD, vec![entry(2)]);
    drop(wal);
    let file = segment::path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[segment::HEADER as usize + 40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    match open(directory.path()) {
        Err(Error::Damaged { path, offset }) => assert_eq!((path, offset), (file, segment::HEADER)),
        other => panic!("not refused: {:?}", other.map(|_| ())),
    }
}

#[test]
fn damage_before_good_data_in_a_later_segment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    (1..100).for_each(|index| append(&wal, SHARD, vec![entry(index)]));
    drop(wal);
    let file = segment::path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(open(directory.path()), Err(Error::Damaged { path, .. }) if path == file));
}

#[test]
fn a_missing_segment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    (1..150).for_each(|index| append(&wal, SHARD, vec![entry(index)]));
    drop(wal);
    let file = segment::path(directory.path(), 2);
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open(directory.path()), Err(Error::Missing { path }) if path == file));
}

#[test]
fn a_spare_alone_is_not_taken_for_a_new_log() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![Record::Vote("mine".into())]);
    drop(wal);
    assert_eq!(segment::list(directory.path()).unwrap(), [1, 2]);
    let file = segment::path(directory.path(), 1);
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open(directory.path()), Err(Error::Missing { path }) if path == file));
}

#[test]
fn a_log_that_has_gone_as_a_whole_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let wal = directory.path().join("wal");
    assert!(matches!(Wal::must_exist(&wal), Err(Error::Missing { .. })));
    std::fs::create_dir(&wal).unwrap();
    assert!(matches!(Wal::must_exist(&wal), Err(Error::Missing { .. })));
    drop(open(&wal).unwrap());
    assert!(Wal::must_exist(&wal).is_ok());
}

#[test]
fn a_segment_that_holds_only_a_shards_first_entry_stays() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, ShardId(4), vec![entry(0)]);
    (0..150).for_each(|index| append(&wal, SHARD, vec![entry(index)]));
    append(&wal, SHARD, vec![Record::Purge(140, "140".into())]);
    assert_eq!(segment::list(directory.path()).unwrap()[0], 1);
    drop(wal);
    assert_eq!(indexes(&open(directory.path()).unwrap(), ShardId(4)), [0]);
}

#[test]
fn segments_go_once_every_shard_has_purged_past_them_and_marks_stay() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, ShardId(4), vec![entry(1)]);
    append(&wal, SHARD, vec![Record::Vote("mine".into())]);
    (1..300).for_each(|index| append(&wal, SHARD, vec![entry(index)]));
    append(&wal, SHARD, vec![Record::Purge(290, "290".into())]);
    let count = || segment::list(directory.path()).unwrap().len();
    let before = count();
    assert!(before > 5);
    assert_eq!(wal.pinned_by(), Some(ShardId(4)));
    append(&wal, ShardId(4), vec![Record::Purge(1, "1".into())]);
    assert!(count() < before / 2, "{} of {before}", count());
    assert_eq!(wal.pinned_by(), None);
    drop(wal);
    let wal = open(directory.path()).unwrap();
    let recovered = wal.take_recovered(SHARD);
    assert_eq!(recovered.vote, Some("mine".into()));
    assert_eq!(recovered.purged, Some((290, "290".into())));
    assert_eq!(recovered.entries.into_keys().collect::<Vec<_>>(), (291..300).collect::<Vec<_>>());
}

#[test]
fn many_shards_share_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let wal = Wal::open(directory.path(), Settings::default()).unwrap();
    let (done, durable) = mpsc::channel();
    for index in 1..=200 {
        for shard in 0..5 {
            let done = done.clone();
            wal.append(ShardId(shard), vec![entry(index)], Box::new(move || done.send(()).unwrap()));
        }
    }
    (0..1000).for_each(|_| durable.recv().unwrap());
    assert!(wal.syncs() < 500, "{} syncs for 1000 appends", wal.syncs());
}
