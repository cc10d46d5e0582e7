//! Snapshots on a real disk: the latest is read back, and damage is noticed.

use super::*;
use crate::store::bodies::Bodies;
use lockstep_core::names::MessageId;

const SHARD: ShardId = ShardId(2);

fn save(snapshots: &Snapshots, core: &str, bodies: &mut Bodies) -> Saved {
    let image = bodies.freeze();
    image.sync().unwrap();
    let core = |out: &mut Out| out.put(core.as_bytes());
    let written = snapshots.write(SHARD, "meta".into(), &image, core).unwrap();
    snapshots.activate(SHARD, written, image).unwrap()
}

fn opened(directory: &Path) -> (Snapshots, Bodies) {
    let snapshots = Snapshots::open(directory, bodies::Settings::default()).unwrap();
    let bodies = Bodies::empty(snapshots.bodies(SHARD).unwrap());
    (snapshots, bodies)
}

#[test]
fn the_latest_snapshot_is_read_back_and_a_flipped_bit_anywhere_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (snapshots, mut bodies) = opened(directory.path());
    assert!(snapshots.load(SHARD).unwrap().is_none());
    bodies.put(MessageId(7), "body".into());
    save(&snapshots, "one", &mut bodies);
    let saved = save(&snapshots, "two", &mut bodies);
    assert_eq!(saved.read_core(0, 2).unwrap(), "tw");
    assert_eq!(saved.read_core(2, 9).unwrap(), "o");
    assert_eq!(saved.read_core(3, 9).unwrap(), "");
    let loaded = snapshots.load(SHARD).unwrap().unwrap();
    assert_eq!((loaded.meta, loaded.core), ("meta".into(), "two".into()));
    let file = path(directory.path(), SHARD);
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, bad).unwrap();
        let error = snapshots.load(SHARD).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("shard-2"), "at {at}: {error}");
    }
    for cut in 0..good.len() {
        fs::write(&file, &good[..cut]).unwrap();
        assert!(snapshots.load(SHARD).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_snapshot_that_arrives_is_the_same_and_becomes_the_shards_only_when_activated() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, mut bodies) = opened(here.path());
    (1..=300).for_each(|id| bodies.put(MessageId(id), vec![7; 3_000].into()));
    let saved = save(&leader, "core", &mut bodies);
    let (follower, _) = opened(there.path());
    let send = |last: Option<usize>| {
        let mut arriving = follower.receive(SHARD).unwrap();
        for file in 0..saved.bodies.files() {
            let mut offset = 0;
            loop {
                let bytes = saved.bodies.read(file, offset, 1_000).unwrap();
                if bytes.is_empty() || Some(offset as usize) == last {
                    break;
                }
                arriving.bodies(file, &bytes).unwrap();
                offset += bytes.len() as u64;
            }
        }
        arriving.core(&saved.read_core(0, 99).unwrap());
        arriving.finish("meta".into())
    };
    assert!(send(Some(5_000)).is_err(), "a body is cut short");
    let files = || fs::read_dir(there.path().join("bodies/shard-2")).unwrap().count();
    assert_eq!(files(), 0, "a transfer that broke off leaves nothing");
    let arrived = send(None).unwrap();
    assert!(follower.load(SHARD).unwrap().is_none(), "not the shard's yet");
    follower.activate(SHARD, arrived.written, arrived.bodies).unwrap();
    let loaded = follower.load(SHARD).unwrap().unwrap();
    assert_eq!(loaded.core, "core");
    let directory = follower.bodies(SHARD).unwrap();
    let (mut same, _) = Bodies::restore(directory, &loaded.bodies, |_| true).unwrap();
    assert!(same.freeze().all().unwrap() == bodies.freeze().all().unwrap());
}

#[test]
fn a_flipped_bit_in_what_arrives_is_noticed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, mut bodies) = opened(here.path());
    (1..=3).for_each(|id| bodies.put(MessageId(id), "some body".into()));
    let saved = save(&leader, "core", &mut bodies);
    let (follower, _) = opened(there.path());
    let good = saved.bodies.read(0, 0, 1 << 20).unwrap();
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 4;
        let mut arriving = follower.receive(SHARD).unwrap();
        let noticed = arriving.bodies(0, &bad.into()).is_err() || arriving.finish("meta".into()).is_err();
        assert!(noticed, "at {at}");
    }
}
