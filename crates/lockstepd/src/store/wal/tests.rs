//! The log over real files: crashes, damage, rotation.

use std::path::Path;
use std::sync::mpsc;

use super::segment::Found;
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

fn entry_bytes(index: u64) -> (u64, Bytes) {
    let Record::Entry(_, bytes) = entry(index) else { unreachable!() };
    (index, bytes)
}

#[test]
fn entries_are_read_back_across_segments_truncations_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut wal = open(directory.path()).unwrap();
    for index in 1..200 {
        append(&wal, SHARD, vec![entry(index)]);
        append(&wal, ShardId(4), vec![entry(index + 1_000)]);
    }
    append(&wal, SHARD, vec![Record::Truncate(150), entry(150), entry(151)]);
    append(&wal, SHARD, vec![Record::Purge(40, "40".into())]);
    for _ in 0..2 {
        let all = wal.read(SHARD, 0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(all, (41..=151).map(entry_bytes).collect::<Vec<_>>());
        assert_eq!(wal.read(SHARD, 60, 63, usize::MAX).unwrap(), [60, 61, 62].map(entry_bytes));
        assert_eq!(wal.read(SHARD, 60, 99, 1).unwrap(), [entry_bytes(60)], "at least one");
        assert_eq!(wal.read(SHARD, 152, 999, 1).unwrap(), []);
        assert_eq!(wal.read(SHARD, 7, 7, 1).unwrap(), []);
        assert_eq!(wal.read(ShardId(4), 1_100, 1_101, 1).unwrap(), [entry_bytes(1_100)]);
        drop(wal);
        wal = open(directory.path()).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_an_entry_is_noticed_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path()).unwrap();
    append(&wal, SHARD, vec![entry(1)]);
    append(&wal, SHARD, vec![entry(2)]);
    let file = segment::path(directory.path(), 1);
    let good = std::fs::read(&file).unwrap();
    let first = segment::HEADER as usize;
    let Found::Batch(_, _, second) = segment::read(&good, first) else { panic!("a batch") };
    for at in first..second {
        let mut bad = good.clone();
        bad[at] ^= 2;
        std::fs::write(&file, &bad).unwrap();
        let padding = segment::read(&bad, first) == segment::read(&good, first);
        match wal.read(SHARD, 1, 3, usize::MAX) {
            Ok(read) => assert!(padding && read == [1, 2].map(entry_bytes), "at {at}"),
            Err(error) => assert!(error.to_string().contains("0000000001.wal"), "{error}"),
        }
        assert_eq!(wal.read(SHARD, 2, 3, usize::MAX).unwrap(), [entry_bytes(2)]);
    }
}
