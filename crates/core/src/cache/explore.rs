//! Walks every order in which messages, restarts and time can happen to one key, within small
//! bounds: a home and two other nodes. A message that is never delivered was lost; one may be
//! delivered twice; a message may come after any lease has ended.
//!
//! In every state that it reaches: a readable copy is the committed value; who can read a copy is in
//! the directory; what a read returned was committed at some instant while it ran.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::copy::{self, Copies, FlightId};
use super::home::{self, Home};
use super::message::{Addressee, Answer, Value, Write};
use super::tenure::View;
use super::{Key, Tag, Version};
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const NODES: [NodeId; 2] = [NodeId(2), NodeId(3)];
const TO: Addressee = Addressee { incarnation: Incarnation(1), ring_epoch: 1 };
const KEY: &str = "k";
/// Two of these end a holder's lease and not yet the home's wait for it; three end both.
const STEP: Millis = Millis(1_000);

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug)]
struct Budget {
    reads: u32,
    writes: u32,
    deletes: u32,
    renewals: u32,
    steps: u32,
    repeats: u32,
    restarts: u32,
    squeezes: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Packet {
    Read { from: NodeId, flight: FlightId },
    Value { to: NodeId, flight: FlightId, value: Value },
    Invalidate { to: NodeId, seq: u64 },
    Invalidated { from: NodeId, seq: u64 },
    Renew { from: NodeId, sent: Millis },
    Renewed { to: NodeId, sent: Millis, lease: Millis },
}

#[derive(Clone, Debug)]
enum Action {
    Read(NodeId),
    Write,
    Delete,
    Renew(NodeId),
    Step,
    Restart(NodeId),
    /// Another key needs the room.
    Squeeze,
    Deliver(usize),
    /// Delivers it and leaves another one like it on the way.
    Repeat(usize),
}

#[derive(Clone, Debug)]
struct World {
    now: Millis,
    home: Home,
    nodes: BTreeMap<NodeId, Copies>,
    packets: Vec<Packet>,
    budget: Budget,
    next_tag: Tag,
    /// What was committed, one after the other; `None`: nothing.
    history: Vec<Option<Version>>,
    /// What was the latest of `history` when each read began.
    reads: BTreeMap<Tag, usize>,
}

/// What happened on the way, so that a walk which misses it is not taken for a proof.
#[derive(Default, Debug)]
struct Seen {
    states: BTreeSet<u64>,
    hits: u64,
    unkept: u64,
    waited_out: u64,
    read_answers: u64,
}

impl World {
    fn new(budget: Budget) -> Self {
        let mut home = Home::new(HOME.node, 700);
        let view = View {
            ring_epoch: 1,
            me: Some((Incarnation(1), 1)),
            members: vec![HOME],
            until: Millis(1_000_000),
        };
        home.set_view(&view, Millis(0));
        Self {
            now: Millis(0),
            home,
            nodes: NODES.map(|node| (node, Copies::new(1 << 20))).into(),
            packets: Vec::new(),
            budget,
            next_tag: 0,
            history: vec![None],
            reads: BTreeMap::new(),
        }
    }

    fn actions(&self) -> Vec<Action> {
        let budget = &self.budget;
        let mut actions = Vec::new();
        let mut offer = |left: u32, action: Action| {
            if left > 0 {
                actions.push(action);
            }
        };
        for node in NODES {
            offer(budget.reads, Action::Read(node));
            offer(budget.renewals, Action::Renew(node));
            offer(budget.restarts, Action::Restart(node));
        }
        offer(budget.writes, Action::Write);
        offer(budget.deletes, Action::Delete);
        offer(budget.steps, Action::Step);
        offer(budget.squeezes, Action::Squeeze);
        for at in 0..self.packets.len() {
            offer(1, Action::Deliver(at));
            offer(budget.repeats, Action::Repeat(at));
        }
        actions
    }

    fn act(&mut self, action: &Action, seen: &mut Seen) {
        match *action {
            Action::Read(node) => self.read(node),
            Action::Write => {
                self.budget.writes -= 1;
                self.write(KEY, Some(8));
            }
            Action::Delete => {
                self.budget.deletes -= 1;
                self.write(KEY, None);
            }
            Action::Squeeze => {
                self.budget.squeezes -= 1;
                self.write("big", Some(400));
            }
            Action::Renew(node) => {
                self.budget.renewals -= 1;
                self.packets.push(Packet::Renew { from: node, sent: self.now });
            }
            Action::Step => {
                self.budget.steps -= 1;
                self.now = self.now.plus(STEP);
                let outputs = self.home.tick(self.now);
                seen.waited_out += outputs.len() as u64;
                self.take_home(outputs);
            }
            Action::Restart(node) => {
                self.budget.restarts -= 1;
                self.nodes.insert(node, Copies::new(1 << 20));
                // Answers to its former process find nobody.
                self.packets.retain(
                    |p| !matches!(p, Packet::Value { to, .. } | Packet::Renewed { to, .. } if *to == node),
                );
                self.packets.retain(
                    |p| !matches!(p, Packet::Read { from, .. } | Packet::Renew { from, .. } if *from == node),
                );
            }
            Action::Deliver(at) => {
                let packet = self.packets.remove(at);
                self.deliver(packet, seen);
            }
            Action::Repeat(at) => {
                self.budget.repeats -= 1;
                let packet = self.packets[at].clone();
                self.deliver(packet, seen);
            }
        }
        let committed = self.committed();
        if self.history.last() != Some(&committed) {
            self.history.push(committed);
        }
    }

    fn committed(&self) -> Option<Version> {
        self.home.read_own(KEY, self.now).expect("serves throughout").map(|held| held.version)
    }

    fn read(&mut self, node: NodeId) {
        self.budget.reads -= 1;
        self.next_tag += 1;
        let tag = self.next_tag;
        self.reads.insert(tag, self.history.len() - 1);
        let copies = self.nodes.get_mut(&node).unwrap();
        if copies.lookup(KEY, self.now).is_none() {
            let outputs = copies.read(&KEY.into(), HOME, tag, self.now);
            self.take_copies(node, outputs);
        }
    }

    fn write(&mut self, key: &str, len: Option<usize>) {
        self.next_tag += 1;
        let write = Write {
            key: key.into(),
            value: len.map(|len| Bytes::from(vec![b'x'; len])),
            ttl: None,
            if_version: None,
            if_absent: false,
            request_id: None,
        };
        let outputs = self.home.write_own(self.next_tag, write, self.now);
        self.take_home(outputs);
    }

    fn deliver(&mut self, packet: Packet, seen: &mut Seen) {
        match packet {
            Packet::Read { from, flight } => {
                let (answer, outputs) = self.home.read(from, TO, &Key::from(KEY), true, self.now);
                let Answer::Value(value) = answer else { panic!("{answer:?}") };
                self.packets.push(Packet::Value { to: from, flight, value });
                self.take_home(outputs);
            }
            Packet::Value { to, flight, value } => {
                let copies = self.nodes.get_mut(&to).unwrap();
                let outputs = copies.landed(flight, value, self.now);
                seen.unkept += u64::from(copies.lookup(KEY, self.now).is_none());
                seen.read_answers += outputs.len() as u64;
                self.take_copies(to, outputs);
            }
            Packet::Invalidate { to, seq } => {
                self.nodes.get_mut(&to).unwrap().invalidate(KEY);
                self.packets.push(Packet::Invalidated { from: to, seq });
            }
            Packet::Invalidated { from, seq } => {
                let outputs = self.home.acknowledged(from, seq, self.now);
                self.take_home(outputs);
            }
            Packet::Renew { from, sent } => {
                if let Answer::Renewed { lease } = self.home.renew(from, TO, self.now) {
                    self.packets.push(Packet::Renewed { to: from, sent, lease });
                }
            }
            Packet::Renewed { to, sent, lease } => {
                self.nodes.get_mut(&to).unwrap().renewed(HOME, sent, lease, self.now);
            }
        }
    }

    fn take_home(&mut self, outputs: Vec<home::Output>) {
        for output in outputs {
            match output {
                home::Output::Invalidate { to, order } if &*order.key == KEY => {
                    self.packets.push(Packet::Invalidate { to, seq: order.seq });
                }
                _ => {}
            }
        }
    }

    fn take_copies(&mut self, node: NodeId, outputs: Vec<copy::Output>) {
        for output in outputs {
            match output {
                copy::Output::Ask { flight, .. } => self.packets.push(Packet::Read { from: node, flight }),
                copy::Output::Answer { tag, value } => {
                    let returned = value.expect("nothing fails here").map(|held| held.version);
                    let began = self.reads.remove(&tag).unwrap();
                    let allowed = &self.history[began..];
                    assert!(allowed.contains(&returned), "read {tag} returned {returned:?} of {allowed:?}");
                }
            }
        }
    }

    fn check(&self, seen: &mut Seen) {
        let committed = self.committed();
        let sharers = self.home.sharers(KEY);
        for (node, copies) in &self.nodes {
            let Some(copy) = copies.clone().lookup(KEY, self.now) else { continue };
            seen.hits += 1;
            assert_eq!(copy.map(|held| held.version), committed, "{node} reads what is not committed");
            assert!(sharers.contains(node), "{node} reads a copy and is not in the directory");
        }
    }

    /// Names the state, however it was reached.
    fn print(&self) -> u64 {
        let mut hash = Xxh3::new();
        let history = (self.history.last(), &self.history[self.reads.values().min().map_or(0, |at| *at)..]);
        let mut packets: Vec<String> = self.packets.iter().map(|p| format!("{p:?}")).collect();
        packets.sort();
        let state = (self.now, &self.home, &self.nodes, packets, self.budget, history, &self.reads);
        hash.write(format!("{state:?}").as_bytes());
        hash.finish()
    }
}

fn walk(world: &World, path: &mut Vec<Action>, seen: &mut Seen) {
    for action in world.actions() {
        let mut next = world.clone();
        path.push(action);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            next.act(&path[path.len() - 1], seen);
            next.check(seen);
        }));
        if outcome.is_err() {
            panic!("reached by {path:?}");
        }
        if seen.states.insert(next.print()) {
            walk(&next, path, seen);
        }
        path.pop();
    }
}

fn explore(budget: Budget) -> Seen {
    let mut seen = Seen::default();
    walk(&World::new(budget), &mut Vec::new(), &mut seen);
    println!(
        "{} states, {} hits, {} reads answered, {} not kept, {} waited out",
        seen.states.len(),
        seen.hits,
        seen.read_answers,
        seen.unkept,
        seen.waited_out
    );
    seen
}

const NONE: Budget =
    Budget { reads: 0, writes: 0, deletes: 0, renewals: 0, steps: 0, repeats: 0, restarts: 0, squeezes: 0 };

#[test]
fn no_order_of_messages_and_lease_ends_shows_a_stale_or_uncommitted_value() {
    let seen = explore(Budget { reads: 2, writes: 1, steps: 3, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0 && seen.waited_out > 0 && seen.read_answers > 0, "{seen:?}");
}

#[test]
fn a_renewal_at_any_moment_revives_no_stale_copy() {
    let seen = explore(Budget { reads: 1, writes: 1, renewals: 1, steps: 4, ..NONE });
    assert!(seen.hits > 0 && seen.waited_out > 0, "{seen:?}");
}

#[test]
fn repeated_messages_and_restarted_sharers_show_no_stale_value() {
    let seen = explore(Budget { reads: 2, writes: 1, repeats: 1, restarts: 1, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn eviction_delete_and_creation_show_no_stale_value() {
    let seen = explore(Budget { reads: 1, writes: 2, deletes: 1, squeezes: 1, ..NONE });
    assert!(seen.hits > 0 && seen.unkept > 0, "{seen:?}");
}

/// Minutes in a debug build: `cargo test --release -p lockstep-core explore -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn wider_bounds_show_no_stale_value_either() {
    explore(Budget { reads: 3, writes: 1, steps: 3, ..NONE });
    explore(Budget { reads: 2, writes: 2, deletes: 1, squeezes: 1, steps: 1, ..NONE });
    explore(Budget { reads: 2, writes: 1, renewals: 1, steps: 3, ..NONE });
}
