//! What a watcher keeps is what reads answer, once it has read everything that it is told.
//!
//! Orders of events are drawn; what happens in one is [`super::world`]'s affair.

use bytes::Bytes;
use proptest::prelude::*;

use super::ME;
use super::world::{BACK, MEMBERSHIP, World};
use crate::cache::message::{Change, Write};
use crate::cache::{Key, space};
use crate::names::NodeId;

/// Longer than a home that has handed its lines over keeps them for whoever did not hear.
const LONG: u64 = 31_000;

/// Two that may be owned, and two others.
const KEYS: u8 = 4;

fn key(nth: u8) -> Key {
    let nth = nth % KEYS;
    space::join(if nth < 2 { space::DEFAULT } else { BACK }, &format!("k{nth}"))
}

fn set(key: Key) -> Write {
    Write::new(key, Change::Set(Bytes::from_static(b"value")))
}

/// What can happen. Nodes and keys are counted anew where there are fewer.
#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8),
    Delete(u8),
    /// The watcher reads it, and keeps what it sees.
    Keep(u8),
    Own(u64, u8),
    /// Whoever owns what was last asked for writes it, or deletes it.
    Silently(bool),
    Hear(u64),
    Obey(usize),
    Join(u64),
    Leave(u64),
    Restart(u64),
    /// Its membership ends by its own clock, and the watching node sleeps meanwhile or not; the log drops
    /// it, or somebody else comes, and it goes on.
    Lapse(u64, bool, bool),
    Show(u64),
    /// Answers get lost, the lowest bit first.
    Seal(u8),
    Later(u64),
    Flush(u64, u8),
    Cut(u64),
    Look,
}

fn steps() -> impl Strategy<Value = Step> {
    let (node, key) = (1_u64..=5, 0..KEYS);
    prop_oneof![
        3 => key.clone().prop_map(Step::Set),
        1 => key.clone().prop_map(Step::Delete),
        6 => key.clone().prop_map(Step::Keep),
        4 => (node.clone(), 2..KEYS).prop_map(|(node, key)| Step::Own(node, key)),
        3 => any::<bool>().prop_map(Step::Silently),
        2 => node.clone().prop_map(Step::Hear),
        1 => (0_usize..4).prop_map(Step::Obey),
        2 => node.clone().prop_map(Step::Join),
        1 => node.clone().prop_map(Step::Leave),
        1 => node.clone().prop_map(Step::Restart),
        1 => (node.clone(), any::<bool>(), any::<bool>()).prop_map(|(n, sleeps, drops)| Step::Lapse(n, sleeps, drops)),
        6 => node.clone().prop_map(Step::Show),
        4 => any::<u8>().prop_map(Step::Seal),
        3 => prop_oneof![100_u64..1_000, 2_000_u64..2_600, Just(LONG)].prop_map(Step::Later),
        1 => (node.clone(), key).prop_map(|(node, key)| Step::Flush(node, key)),
        1 => node.prop_map(Step::Cut),
        1 => Just(Step::Look),
    ]
}

fn carry_out(world: &mut World, step: Step) {
    match step {
        Step::Set(nth) => world.write(set(key(nth))),
        Step::Delete(nth) => world.write(Write::new(key(nth), Change::Delete)),
        Step::Keep(nth) => match world.read(&key(nth)) {
            Some(Some(version)) => drop(world.kept.insert(key(nth), version)),
            Some(None) => drop(world.kept.remove(&key(nth))),
            None => {}
        },
        Step::Own(node, nth) => world.own(NodeId(node), &key(nth)),
        Step::Silently(deletes) => {
            if let Some((node, key)) = world.owned.clone() {
                world.write_owned(node, &if deletes { Write::new(key, Change::Delete) } else { set(key) });
            }
        }
        Step::Hear(node) => world.hear(NodeId(node)),
        Step::Obey(most) => world.obey(most),
        Step::Show(node) => {
            world.show(NodeId(node));
            world.deliver();
        }
        Step::Seal(mut losses) => world.seal(|| {
            losses = losses.rotate_right(1);
            losses >= 128
        }),
        Step::Later(ms) => world.later(ms, false),
        Step::Flush(node, nth) => world.flush(NodeId(node), space::of(&key(nth))),
        Step::Cut(node) => {
            world.cut = if world.cut.is_none() { Some(NodeId(node)) } else { None };
        }
        Step::Look => look(world),
        other => change_members(world, other),
    }
}

fn change_members(world: &mut World, step: Step) {
    match step {
        Step::Join(node) if !world.nodes.contains_key(&NodeId(node)) => world.join(NodeId(node)),
        Step::Join(node) if !world.is_member(NodeId(node)) => world.come_back(NodeId(node)),
        Step::Leave(node) if NodeId(node) != ME && world.is_member(NodeId(node)) => world.leave(NodeId(node)),
        Step::Restart(node) if NodeId(node) != ME && world.is_member(NodeId(node)) => {
            world.crash(NodeId(node));
            world.later(MEMBERSHIP + 250, false);
            world.drop_member(NodeId(node));
            world.join(NodeId(node));
        }
        Step::Lapse(node, sleeps, drops) if world.is_member(NodeId(node)) => {
            world.unrenewed = Some(NodeId(node));
            world.later(MEMBERSHIP + 250, sleeps);
            world.unrenewed = None;
            if drops {
                world.drop_member(NodeId(node));
                return;
            }
            if let Some(new) = (1..=5).find(|node| !world.nodes.contains_key(&NodeId(*node))) {
                world.join(NodeId(new));
            }
            world.show(NodeId(node));
        }
        _ => {}
    }
}

/// Everything is quiet: the watcher reads all that it is told, and then whatever it keeps.
fn look(world: &mut World) {
    world.cut = None;
    if !world.is_member(ME) {
        world.come_back(ME);
    }
    world.settle();
    for key in (0..KEYS).map(key) {
        let answer = world.read(&key);
        world.hear_all();
        world.obey(usize::MAX);
        if let Some(answer) = answer
            && let Some(kept) = world.kept.get(&key)
        {
            assert_eq!(Some(*kept), answer, "{key:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever is lost, late, restarted, dropped, handed over or given up: nobody who obeys the stream
    /// keeps anything else than what a read answers.
    #[test]
    fn whoever_obeys_the_stream_keeps_what_reads_answer(steps in prop::collection::vec(steps(), 1..100)) {
        let mut world = World::new(&[1, 2]);
        steps.into_iter().for_each(|step| carry_out(&mut world, step));
        look(&mut world);
    }
}
