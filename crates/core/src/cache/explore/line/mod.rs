//! One home and two other nodes, over one key or two: who reads, writes, owns, restarts, falls silent.
//!
//! In every state: a readable copy is the committed value; who can read a copy is in the directory; an
//! owner reads alone; what a read returned was committed at some instant while it ran; versions grow; a
//! right to fill ends with any write; what an owner wrote comes back or is a miss. The home itself
//! neither moves nor restarts here: that is [`super::ring`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::walk::Wire;
use crate::cache::copy::{Copies, FlightId};
use crate::cache::home::Home;
use crate::cache::lease::held_until;
use crate::cache::message::{Addressee, Answer, Change, Load, Write};
use crate::cache::space::Spaces;
use crate::cache::tenure::View;
use crate::cache::{Key, Tag, Version, space};
use crate::command::NamespaceOp;
use crate::names::{Incarnation, NodeId, Origin};
use crate::ring::HomeRing;
use crate::stamp::Millis;

mod actions;
mod check;
mod packets;
mod runs;

use actions::{Action, Budget};
use packets::Packet;

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const NODES: [NodeId; 2] = [NodeId(2), NodeId(3)];
const TO: Addressee = Addressee { incarnation: Incarnation(1), ring_epoch: 1 };
/// Two of these end a holder's lease and not yet the home's wait for it; three end both.
const STEP: Millis = Millis(1_000);
/// What is not used for so long goes back, and its lease is not renewed.
const IDLE: Millis = STEP;
/// The namespace of the keys.
const SPACE: &str = "space";

#[derive(Clone, Debug)]
struct World {
    keys: Vec<Key>,
    now: Millis,
    home: Home,
    spaces: Spaces,
    nodes: BTreeMap<NodeId, Copies>,
    processes: u64,
    wire: Wire<Packet>,
    budget: Budget,
    next_tag: Tag,
    /// What was committed for each key, one after the other; `None`: nothing.
    history: Vec<Vec<Option<Version>>>,
    /// The key of each read, and what was the latest of its history when it began.
    reads: BTreeMap<Tag, (usize, usize)>,
    /// Reads that the home has not answered yet.
    asked: BTreeMap<Tag, (NodeId, Incarnation, FlightId, usize)>,
    /// Rights to fill, with the length of the history when they were handed out, and whether a delete or
    /// a flush was answered since, though there may have been nothing to remove.
    fills: Vec<(Version, usize, bool)>,
    filling: Option<(Tag, usize, bool)>,
    /// Writes that are under way: of which key, and whether it is a value or its end.
    changes: BTreeMap<Tag, (usize, bool)>,
    /// Lost lines that are in the history already.
    lost: u64,
    /// Lines that had been evicted before this step.
    evicted: u64,
    /// What a client of the home's own node may read, and until when.
    lent: Option<(Option<Version>, Millis)>,
}

#[derive(Default, Debug)]
struct Seen {
    hits: u64,
    owners: u64,
    lost: u64,
    unkept: u64,
    waited_out: u64,
    read_answers: u64,
    filled: u64,
    void: u64,
    lent_hits: u64,
    /// The most nodes that could read one key at once.
    readers: usize,
    /// Renewals that were due, and lines that went back unused.
    due: u64,
    unused: u64,
}

impl World {
    fn new(budget: Budget) -> Self {
        // Whose line was lost is not known among several.
        assert!(!(budget.two_keys && (budget.write_back || budget.turns > 0)));
        let keys = ('a'..='z').map(|key| space::join(SPACE, &key.to_string()));
        let keys: Vec<Key> =
            keys.filter(|key| is_homes(key)).take(1 + usize::from(budget.two_keys)).collect();
        let mut world = Self {
            history: vec![vec![None]; keys.len()],
            keys,
            now: Millis(0),
            home: Home::new(HOME.node, 900 + 400 * usize::from(budget.two_keys)),
            spaces: Spaces::default(),
            nodes: BTreeMap::new(),
            processes: 0,
            wire: Wire::default(),
            budget,
            next_tag: 0,
            reads: BTreeMap::new(),
            asked: BTreeMap::new(),
            fills: Vec::new(),
            filling: None,
            changes: BTreeMap::new(),
            lost: 0,
            evicted: 0,
            lent: None,
        };
        world.configure(budget.write_back, &mut Seen::default());
        NODES.iter().for_each(|node| world.start(*node));
        world
    }

    fn configure(&mut self, write_back: bool, seen: &mut Seen) {
        let op = NamespaceOp::Configure {
            name: SPACE.into(),
            write_back: Some(write_back),
            bytes_max: None,
            ttl: None,
        };
        self.spaces.apply(&op, &mut Vec::new());
        // Who is no member owns nothing.
        let others = NODES.map(|node| Origin { node, incarnation: Incarnation(1) });
        let members = std::iter::once(HOME).chain(others).collect();
        let view = View {
            ring_epoch: 1,
            me: Some((Incarnation(1), 1)),
            members,
            spaces: Arc::new(self.spaces.clone()),
            until: Millis(1_000_000),
        };
        let mut outputs = self.home.set_view(&view, self.now);
        for node in NODES {
            outputs.extend(self.home.sealed(node, 1, 0, Vec::new(), false, self.now));
        }
        self.take_home(outputs, seen);
    }

    /// A new process of `node`.
    fn start(&mut self, node: NodeId) {
        let mut copies = Copies::new(1 << 20);
        self.processes += 1;
        copies.set_process(Incarnation(self.processes));
        self.nodes.insert(node, copies);
        // Answers to its former process find nobody.
        self.wire.retain(|packet| !packet.dies_with(node));
    }

    fn act(&mut self, action: Action, seen: &mut Seen) {
        self.spend(action);
        match action {
            Action::Read(node, key) => self.read(node, key),
            Action::Write(key) => {
                let tag = self.tag();
                self.changes.insert(tag, (key, true));
                self.write(Write { change: value(8), ..self.a_write(key) }, tag, seen);
            }
            Action::Delete => {
                let tag = self.tag();
                self.changes.insert(tag, (0, false));
                self.write(Write { change: Change::Delete, ..self.a_write(0) }, tag, seen);
            }
            Action::Squeeze => {
                let tag = self.tag();
                let big = (100..).map(|n| Key::from(n.to_string())).find(|key| is_homes(key));
                let key = big.expect("there is one");
                self.write(Write { key, change: value(540), ..self.a_write(0) }, tag, seen);
            }
            Action::OwnedWrite(node) => {
                let write = self.a_write(0);
                let done = self.nodes.get_mut(&node).unwrap().write(&write, self.now);
                assert!(done.is_none_or(|(answer, _)| matches!(answer, Answer::Written(Some(_)))));
            }
            Action::GiveBack(node) => {
                let outputs = self.nodes.get_mut(&node).unwrap().give_all_back(None);
                self.take_copies(node, outputs);
            }
            Action::Flush => {
                let tag = self.tag();
                let outputs = self.home.flush(tag, TO, &SPACE.into(), self.now);
                self.take_home(outputs, seen);
            }
            Action::Load => {
                let tag = self.tag();
                let load = Load { key: self.keys[0].clone(), lease: Millis(60_000), wait: Millis(0) };
                let outputs = self.home.load(tag, None, load, self.now);
                self.take_home(outputs, seen);
            }
            Action::Fill => {
                let ((token, since, is_over), tag) = (self.fills.remove(0), self.tag());
                self.filling = Some((tag, since, is_over));
                self.write(Write { fill: Some(token), ..self.a_write(0) }, tag, seen);
            }
            Action::Renew(node) => self.wire.send(Packet::Renew { from: node, sent: self.now }),
            Action::Look(node) => self.look(node, seen),
            Action::Step => {
                self.now = self.now.plus(STEP);
                let outputs = self.home.tick(self.now);
                seen.waited_out += outputs.len() as u64;
                self.take_home(outputs, seen);
            }
            Action::Restart(node) => self.start(node),
            Action::Turn => {
                let is_back = self.spaces.get(SPACE).is_some_and(|settings| settings.write_back);
                self.configure(!is_back, seen);
            }
            Action::Lend => {
                if let Some((held, lease, outputs)) = self.home.lend(&self.keys[0].clone(), self.now) {
                    self.lent = Some((held.map(|held| held.version), held_until(self.now, lease)));
                    self.take_home(outputs, seen);
                }
            }
            Action::Message(fate) => {
                let packet = self.wire.take(fate);
                self.deliver(packet, seen);
            }
        }
        self.settle();
    }

    /// What is committed now belongs to the history.
    fn settle(&mut self) {
        self.note_losses();
        self.evicted = self.home.stats().evictions;
        for key in 0..self.keys.len() {
            self.commits(key, self.committed(key));
        }
        // Rights handed out just now came after whatever else was done.
        for (_, since, _) in &mut self.fills {
            *since = (*since).min(self.history[0].len());
        }
    }

    fn note_losses(&mut self) {
        let lost = self.home.stats().lost;
        if std::mem::replace(&mut self.lost, lost) < lost {
            self.commits(0, None);
        }
    }

    fn commits(&mut self, key: usize, version: Option<Version>) {
        let history = &mut self.history[key];
        if history.last() != Some(&version) {
            let newest = history.iter().flatten().max();
            assert!(
                version.as_ref().is_none_or(|it| Some(it) > newest),
                "{version:?} is back, after {newest:?}"
            );
            history.push(version);
        }
    }

    fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    fn a_write(&self, key: usize) -> Write {
        Write::new(self.keys[key].clone(), value(8))
    }

    fn read(&mut self, node: NodeId, key: usize) {
        let copies = self.nodes.get_mut(&node).unwrap();
        if copies.lookup(&self.keys[key], self.now).is_none() {
            let tag = self.tag();
            self.reads.insert(tag, (key, self.history[key].len() - 1));
            let copies = self.nodes.get_mut(&node).unwrap();
            let outputs = copies.read(&self.keys[key], HOME, tag, self.now);
            self.take_copies(node, outputs);
        }
    }

    fn look(&mut self, node: NodeId, seen: &mut Seen) {
        let copies = self.nodes.get_mut(&node).unwrap();
        let (due, outputs) = copies.renewals_unless_idle(IDLE, self.now);
        assert!(copies.is_tidy(IDLE, self.now), "{node} keeps what is over");
        seen.due += due.len() as u64;
        seen.unused += outputs.len() as u64;
        due.iter().for_each(|_| self.wire.send(Packet::Renew { from: node, sent: self.now }));
        self.take_copies(node, outputs);
    }

    fn write(&mut self, write: Write, tag: Tag, seen: &mut Seen) {
        let outputs = self.home.write_own(tag, write, self.now);
        self.take_home(outputs, seen);
    }
}

fn value(len: usize) -> Change {
    Change::Set(Bytes::from(vec![b'x'; len]))
}

/// Whether the ring gives the key to the home.
fn is_homes(key: &str) -> bool {
    HomeRing::new(&[HOME.node, NODES[0], NODES[1]]).home(key) == Some(HOME.node)
}
