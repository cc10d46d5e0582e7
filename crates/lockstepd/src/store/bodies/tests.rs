//! Bodies on a real disk: crashes, damage, rewriting, space given back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;

const SEGMENT_BYTES: u64 = 4096;

fn directory(path: &Path) -> Directory {
    let settings = Settings { segment_bytes: SEGMENT_BYTES, cache_bytes: 0 };
    Directory::open(Disk::Files(path.to_owned()), settings).unwrap()
}

fn body(id: u64) -> Bytes {
    format!("body {id} {}", "x".repeat(usize::try_from(id % 90).unwrap())).into()
}

fn put(bodies: &mut Bodies, ids: impl IntoIterator<Item = u64>) {
    ids.into_iter().for_each(|id| bodies.put(MessageId(id), body(id)));
}

fn remove(bodies: &mut Bodies, ids: impl IntoIterator<Item = u64>) {
    ids.into_iter().for_each(|id| bodies.remove(MessageId(id)));
}

/// What is there under `id`, read the way that everybody reads.
fn get(bodies: &mut Bodies, id: u64) -> Option<Bytes> {
    match bodies.find(MessageId(id)) {
        Found::Here(body) => Some(body),
        Found::Gone => None,
        Found::There(place) => {
            let read = place.read().unwrap();
            let body = read[0].1.clone();
            bodies.remember(read);
            Some(body)
        }
    }
}

/// As a snapshot does it: rewrite, sync, write down, settle.
fn save(bodies: &mut Bodies) -> Vec<u8> {
    let mut image = bodies.freeze();
    let swaps = image.compact();
    image.sync().unwrap();
    let manifest = postcard::to_stdvec(&image.manifest()).unwrap();
    bodies.settle(&image, swaps);
    manifest
}

/// As a start does it.
fn restore(path: &Path, manifest: &[u8], needed: impl Fn(u64) -> bool) -> std::io::Result<Bodies> {
    let manifest: Manifest = postcard::from_bytes(manifest).unwrap();
    let (bodies, image) = Bodies::restore(directory(path), &manifest, needed)?;
    image.remove_others()?;
    Ok(bodies)
}

fn files(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn what_was_put_is_there_until_it_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=2_000);
    put(&mut bodies, [5]);
    remove(&mut bodies, (1..=2_000_u64).filter(|id| id.is_multiple_of(3)));
    for id in 0..=2_001_u64 {
        let expected = ((1..=2_000).contains(&id) && !id.is_multiple_of(3)).then(|| body(id));
        assert_eq!(get(&mut bodies, id), expected, "{id}");
    }
    assert!(files(place.path()) > 10);
}

#[test]
fn ids_may_be_far_apart() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    let ids = [1, 2, 1 << 20, 1 << 33, (1 << 33) + 1, (1 << 53) - 1];
    put(&mut bodies, ids);
    ids.into_iter().for_each(|id| assert_eq!(get(&mut bodies, id), Some(body(id)), "{id}"));
    assert_eq!(get(&mut bodies, 1 << 32), None);
}

#[test]
fn a_restart_cuts_to_the_snapshot_and_the_log_brings_the_rest() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=200);
    let manifest = save(&mut bodies);
    put(&mut bodies, 201..=400);
    bodies.freeze();
    drop(bodies);
    let mut bodies = restore(place.path(), &manifest, |id| id != 7).unwrap();
    assert_eq!(get(&mut bodies, 7), None, "the state does not need it");
    assert_eq!(get(&mut bodies, 200), Some(body(200)));
    assert_eq!(get(&mut bodies, 201), None);
    put(&mut bodies, 190..=300);
    bodies.freeze();
    (8..=300).for_each(|id| assert_eq!(get(&mut bodies, id), Some(body(id)), "{id}"));
}

#[test]
fn files_cut_at_any_byte_behind_the_snapshot_are_mended_by_the_log_and_before_it_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=5);
    let manifest = save(&mut bodies);
    let file = place.path().join("0000000001.bodies");
    let durable = fs::metadata(&file).unwrap().len();
    put(&mut bodies, 6..=9);
    bodies.freeze();
    drop(bodies);
    let whole = fs::read(&file).unwrap();
    assert!(whole.len() as u64 > durable);
    for cut in 0..=whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        let restored = restore(place.path(), &manifest, |_| true);
        if (cut as u64) < durable {
            let error = restored.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("0000000001.bodies"), "{error}");
            continue;
        }
        let mut bodies = restored.unwrap();
        put(&mut bodies, 6..=9);
        bodies.freeze();
        (1..=9).for_each(|id| assert_eq!(get(&mut bodies, id), Some(body(id)), "{id} after a cut at {cut}"));
    }
}

#[test]
fn a_flipped_bit_is_never_served_and_its_file_is_named() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=4);
    bodies.freeze();
    let file = place.path().join("0000000001.bodies");
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, bad).unwrap();
        let mut damaged = 0;
        for id in 1..=4 {
            let Found::There(place) = bodies.find(MessageId(id)) else { panic!("{id} is on disk") };
            match place.read() {
                Ok(read) => read.into_iter().for_each(|(id, read)| assert_eq!(read, body(id), "at {at}")),
                Err(error) => {
                    damaged += 1;
                    assert!(error.to_string().contains("0000000001.bodies"), "{error}");
                    bodies.mend(MessageId(id), &body(id)).unwrap();
                }
            }
        }
        assert_eq!(damaged, 1, "at {at}");
        assert!(fs::read(&file).unwrap() == good, "mended at {at}");
    }
}

#[test]
fn files_go_when_nobody_needs_them_but_not_before_a_snapshot_says_so() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=1_000);
    let before = save(&mut bodies);
    let full = files(place.path());
    remove(&mut bodies, 1..=1_000);
    assert!(bodies.garbage() > 50_000, "{}", bodies.garbage());
    assert_eq!(files(place.path()), full, "the snapshot on disk names them");
    // A crash now: the old snapshot is still whole.
    drop(restore(place.path(), &before, |_| true).unwrap());
    save(&mut bodies);
    assert_eq!(files(place.path()), 0);
    assert_eq!((bodies.garbage(), bodies.disk_bytes()), (0, 0));
    put(&mut bodies, [1_001]);
    assert_eq!(get(&mut bodies, 1_001), Some(body(1_001)));
}

#[test]
fn what_is_mostly_dead_is_rewritten_and_what_dies_meanwhile_is_dead() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=2_000);
    save(&mut bodies);
    let full = files(place.path());
    let stays = |id: u64| id.is_multiple_of(20) || id > 1_900;
    remove(&mut bodies, (1..=2_000).filter(|id| !stays(*id)));
    let mut image = bodies.freeze();
    let swaps = image.compact();
    assert!(!swaps.is_empty());
    image.sync().unwrap();
    remove(&mut bodies, [20, 40, 2_000]);
    put(&mut bodies, 2_001..=2_050);
    let manifest = postcard::to_stdvec(&image.manifest()).unwrap();
    bodies.settle(&image, swaps);
    assert!(files(place.path()) < full / 2, "{} of {full}", files(place.path()));
    let check = |bodies: &mut Bodies, upto: u64| {
        for id in 1..=upto {
            let expected = (stays(id) && ![20, 40, 2_000].contains(&id)).then(|| body(id));
            assert_eq!(get(bodies, id), expected, "{id}");
        }
    };
    check(&mut bodies, 2_050);
    // And from disk, as the snapshot named it, whatever was rewritten or put since.
    remove(&mut bodies, 1..=1_000);
    drop(bodies);
    let mut bodies =
        restore(place.path(), &manifest, |id| stays(id) && ![20, 40, 2_000].contains(&id)).unwrap();
    check(&mut bodies, 2_000);
}

#[test]
fn a_place_stays_readable_when_its_file_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let mut bodies = Bodies::empty(directory(place.path()));
    put(&mut bodies, 1..=10);
    save(&mut bodies);
    let Found::There(pinned) = bodies.find(MessageId(3)) else { panic!("it is on disk") };
    remove(&mut bodies, 1..=10);
    save(&mut bodies);
    assert_eq!(files(place.path()), 0);
    assert_eq!(pinned.read().unwrap()[0].1, body(3));
}

#[test]
fn bodies_in_memory_are_bounded() {
    let place = tempfile::tempdir().unwrap();
    let settings = Settings { segment_bytes: 1 << 20, cache_bytes: 10_000 };
    let mut bodies = Bodies::empty(Directory::open(Disk::Files(place.path().to_owned()), settings).unwrap());
    (1..=3_000).for_each(|id| bodies.put(MessageId(id), vec![1; 1_000].into()));
    let here = (1..=3_000).filter(|id| matches!(bodies.find(MessageId(*id)), Found::Here(_))).count();
    assert!(here * 1_000 <= 10_000 + WRITE_BYTES, "{here} bodies are in memory");
    assert!(matches!(bodies.find(MessageId(3_000)), Found::Here(_)), "the newest is");
}

/// Random work against a map, with snapshots and crashes.
#[test]
fn random_work_agrees_with_a_map() {
    use proptest::test_runner::{Config, TestRunner};
    let step = (0..6_u32, 0..400_u64);
    let steps = proptest::collection::vec(step, 1..200);
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let outcome = runner.run(&steps, |steps| {
        let place = tempfile::tempdir().unwrap();
        let mut bodies = Bodies::empty(directory(place.path()));
        let mut model: BTreeMap<u64, Bytes> = BTreeMap::new();
        let mut saved = (save(&mut bodies), model.clone(), 0);
        let mut next = 0;
        for (kind, number) in steps {
            match kind {
                0..=2 => {
                    for id in next + 1..=next + 1 + number / 8 {
                        put(&mut bodies, [id]);
                        model.insert(id, body(id));
                        next = id;
                    }
                }
                3 => {
                    let from = if next == 0 { 0 } else { number * 7919 % next };
                    let dead: Vec<u64> = model.range(from..from + number / 4).map(|(id, _)| *id).collect();
                    remove(&mut bodies, dead.iter().copied());
                    dead.iter().for_each(|id| drop(model.remove(id)));
                }
                4 => saved = (save(&mut bodies), model.clone(), next),
                _ => {
                    model = saved.1.clone();
                    next = saved.2;
                    bodies = restore(place.path(), &saved.0, |id| model.contains_key(&id)).unwrap();
                }
            }
        }
        for id in 0..=next + 1 {
            assert_eq!(get(&mut bodies, id), model.get(&id).cloned(), "{id}");
        }
        Ok(())
    });
    outcome.unwrap();
}
