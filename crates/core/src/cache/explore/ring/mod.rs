//! Homes that join, die, sleep, leave and come back, over one key: a log that knows who is a member, and
//! nodes that hear of it late.
//!
//! In every state: at most one node serves the key; what it shows is the last committed value, or a miss,
//! and a value that was missed once never comes back; a readable copy is the committed value, and its
//! home, if it lives, knows of it; versions grow from home to home; what a read returned was committed at
//! some instant while it ran. Near clients and fills are not here: those are in [`super::line`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::walk::Wire;
use crate::cache::copy::Copies;
use crate::cache::home::Home;
use crate::cache::message::{Addressee, Answer, Change, Write};
use crate::cache::space::{self, Spaces};
use crate::cache::tenure::View;
use crate::cache::{Key, Tag, Version};
use crate::command::NamespaceOp;
use crate::names::{Incarnation, NodeId, Origin};
use crate::ring::HomeRing;
use crate::stamp::Millis;

mod actions;
mod check;
mod packets;
mod runs;

use actions::{Action, Budget};
use packets::{Caller, Packet, Process};

/// Two of these end a holder's lease and not yet the home's wait for it; three end both.
const STEP: Millis = Millis(1_000);
/// Of a heartbeat, as the log counts.
const MEMBERSHIP: Millis = Millis(2_500);
/// The same as a node counts, from when it asked.
const COUNTED: Millis = Millis(2_475);
/// What is not used for so long goes back, and its lease is not renewed.
const IDLE: Millis = STEP;
const SPACE: &str = "space";

#[derive(Clone, Debug)]
struct Node {
    home: Home,
    copies: Copies,
    process: Process,
    /// Another one than its process's first, if it was dropped and came back.
    incarnation: u64,
    /// It has begun to leave.
    retired: bool,
    /// As its heartbeats were answered.
    until: Millis,
}

/// What the coordination shard knows.
#[derive(Clone, Debug)]
struct Log {
    ring_epoch: u64,
    /// The incarnation, the epoch at which it came, and when its membership ends.
    members: BTreeMap<NodeId, (u64, u64, Millis)>,
    incarnations: u64,
}

#[derive(Clone, Debug)]
struct World {
    key: Key,
    now: Millis,
    log: Log,
    nodes: BTreeMap<NodeId, Node>,
    wire: Wire<Packet>,
    callers: BTreeMap<(NodeId, Tag), Caller>,
    budget: Budget,
    next_tag: Tag,
    history: Vec<Option<Version>>,
    /// What was the latest of the history when each read began.
    reads: BTreeMap<Tag, usize>,
    /// Lost lines of each process that are in the history already.
    lost: BTreeMap<NodeId, u64>,
}

#[derive(Default, Debug)]
struct Seen {
    hits: u64,
    served: u64,
    homes: BTreeSet<u64>,
    moved: u64,
    missed: u64,
    writes: u64,
    read_answers: u64,
    owners: u64,
    flushed: u64,
    /// Renewals that were due, and lines that went back unused.
    due: u64,
    unused: u64,
}

impl World {
    /// `members` know each other, and the line's home is the first of them; where everybody is a member
    /// it is the last of `all`.
    fn new(budget: Budget, members: &[u64], all: &[u64]) -> Self {
        let ids = |nodes: &[u64]| nodes.iter().map(|node| NodeId(*node)).collect::<Vec<_>>();
        let home = |nodes: &[u64], key: &Key| HomeRing::new(&ids(nodes)).home(key);
        let (first, last) = (ids(members).first().copied(), ids(all).last().copied());
        let key = (0..)
            .map(|n| space::join(SPACE, &format!("k{n}")))
            .find(|key| home(members, key) == first && (all == members || home(all, key) == last));
        let member = |node: &u64| (NodeId(*node), (*node, 1, MEMBERSHIP));
        let log = Log { ring_epoch: 1, members: members.iter().map(member).collect(), incarnations: 100 };
        let mut world = Self {
            key: key.expect("there are keys enough"),
            now: Millis(0),
            log,
            nodes: BTreeMap::new(),
            wire: Wire::default(),
            callers: BTreeMap::new(),
            budget,
            next_tag: 0,
            history: vec![None],
            reads: BTreeMap::new(),
            lost: BTreeMap::new(),
        };
        for node in ids(all) {
            world.start(node, node.0);
            world.nodes.get_mut(&node).unwrap().until = COUNTED;
        }
        world.begin(&ids(members));
        world
    }

    /// Everybody knows everybody, and a value is there.
    fn begin(&mut self, members: &[NodeId]) {
        let mut seen = Seen::default();
        members.iter().for_each(|node| self.show(*node, &mut seen));
        while let Some(fate) = self.wire.fates(false).first().copied() {
            let packet = self.wire.take(fate);
            self.deliver(packet, &mut seen);
        }
        self.write(members[0], &mut seen);
        while let Some(fate) = self.wire.fates(false).first().copied() {
            let packet = self.wire.take(fate);
            self.deliver(packet, &mut seen);
        }
        assert_eq!(self.history.len(), 2, "a value is there");
    }

    fn start(&mut self, node: NodeId, incarnation: u64) {
        let (home, mut copies) = (Home::new(node, 1 << 20), Copies::new(1 << 20));
        copies.set_process(Incarnation(incarnation));
        let process = incarnation;
        let new = Node { home, copies, process, incarnation, retired: false, until: Millis(0) };
        self.nodes.insert(node, new);
        self.lost.remove(&node);
        self.wire.retain(|packet| !packet.dies_with(node));
        self.callers.retain(|(at, _), caller| *at != node && caller.node() != node);
    }

    fn view(&self, node: NodeId) -> View {
        let Log { ring_epoch, members, .. } = &self.log;
        let own = self.nodes[&node].incarnation;
        let me = members.get(&node).filter(|(incarnation, ..)| *incarnation == own);
        let mut spaces = Spaces::default();
        let write_back = Some(self.budget.write_back);
        let op = NamespaceOp::Configure { name: SPACE.into(), write_back, bytes_max: None, ttl: None };
        spaces.apply(&op, &mut Vec::new());
        View {
            ring_epoch: *ring_epoch,
            me: me.map(|(incarnation, since, _)| (Incarnation(*incarnation), *since)),
            members: members
                .iter()
                .map(|(node, (of, ..))| Origin { node: *node, incarnation: Incarnation(*of) })
                .collect(),
            spaces: Arc::new(spaces),
            until: self.nodes[&node].until,
        }
    }

    fn act(&mut self, action: Action, seen: &mut Seen) {
        self.spend(action);
        match action {
            Action::Read(node) => self.read(node),
            Action::Write(node) => self.write(node, seen),
            Action::Flush(node) => self.flush(node),
            Action::Renew(node) => self.renew(node),
            Action::Look(node) => self.look(node, seen),
            Action::Step => self.step(seen),
            Action::Heartbeat(node) => {
                let incarnation = self.nodes[&node].incarnation;
                let ring_epoch = self.log.ring_epoch;
                self.log.members.get_mut(&node).unwrap().2 = self.now.plus(MEMBERSHIP);
                self.wire.send(Packet::Heard { to: node, incarnation, ring_epoch, sent: self.now });
            }
            Action::Join(node) => self.join(node),
            Action::Drop(node) | Action::Leave(node) => {
                self.log.members.remove(&node);
                self.log.ring_epoch += 1;
            }
            Action::Retire(node) => self.retire(node, seen),
            Action::Show(node) => self.show(node, seen),
            Action::Restart(node) => {
                self.log.incarnations += 1;
                self.start(node, self.log.incarnations);
            }
            Action::Message(fate) => {
                let packet = self.wire.take(fate);
                self.deliver(packet, seen);
            }
        }
        self.observe(seen);
    }

    fn step(&mut self, seen: &mut Seen) {
        self.now = self.now.plus(STEP);
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let outputs = self.nodes.get_mut(&id).unwrap().home.tick(self.now);
            self.take_home(id, outputs, seen);
        }
    }

    /// A process that had been dropped comes back as another.
    fn join(&mut self, node: NodeId) {
        self.log.ring_epoch += 1;
        self.log.incarnations += 1;
        let (ring_epoch, incarnation) = (self.log.ring_epoch, self.log.incarnations);
        self.nodes.get_mut(&node).unwrap().incarnation = incarnation;
        self.log.members.insert(node, (incarnation, ring_epoch, self.now.plus(MEMBERSHIP)));
        self.wire.send(Packet::Heard { to: node, incarnation, ring_epoch, sent: self.now });
    }

    fn show(&mut self, node: NodeId, seen: &mut Seen) {
        let view = self.view(node);
        let it = self.nodes.get_mut(&node).unwrap();
        let outputs = it.home.set_view(&view, self.now);
        self.take_home(node, outputs, seen);
    }

    fn retire(&mut self, node: NodeId, seen: &mut Seen) {
        let it = self.nodes.get_mut(&node).unwrap();
        it.retired = true;
        let back = it.copies.give_all_back(None);
        let outputs = it.home.retire(self.now);
        self.take_copies(node, back, seen);
        self.take_home(node, outputs, seen);
        self.bequeath(node);
    }

    /// Once nothing that it served can be read, a home that retires sends its lines ahead.
    fn bequeath(&mut self, node: NodeId) {
        let home = &self.nodes[&node].home;
        if self.nodes[&node].retired && home.has_left() {
            let (from, ring_epoch) = (home.tenure().origin(), home.tenure().ring_epoch());
            for (to, lines) in home.bequests(self.now) {
                self.wire.send(Packet::Bequest { to, from, ring_epoch, lines });
            }
        }
    }

    fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    /// Somebody waits at `at`, unless it was a process that is no more.
    fn asked(&mut self, at: NodeId, by: Process, caller: Caller) -> Tag {
        let tag = self.tag();
        if self.nodes.get(&caller.node()).is_none_or(|node| node.process == by) {
            self.callers.insert((at, tag), caller);
        }
        tag
    }

    fn addressee(&self, from: NodeId, home: Origin) -> Addressee {
        let ring_epoch = self.nodes[&from].home.tenure().ring_epoch();
        Addressee { incarnation: home.incarnation, ring_epoch }
    }

    fn home_of(&self, node: NodeId) -> Option<Origin> {
        self.nodes[&node].home.home_of(&self.key)
    }

    fn read(&mut self, node: NodeId) {
        let Some(home) = self.home_of(node).filter(|home| home.node != node) else { return };
        let it = self.nodes.get_mut(&node).unwrap();
        if it.copies.lookup(&self.key, self.now).is_none() {
            let tag = self.tag();
            self.reads.insert(tag, self.history.len() - 1);
            let copies = &mut self.nodes.get_mut(&node).unwrap().copies;
            let outputs = copies.read(&self.key, home, tag, self.now);
            self.take_copies(node, outputs, &mut Seen::default());
        }
    }

    fn write(&mut self, node: NodeId, seen: &mut Seen) {
        let Some(home) = self.home_of(node) else { return };
        let write = Write::new(self.key.clone(), Change::Set(Bytes::from_static(b"x")));
        let copies = &mut self.nodes.get_mut(&node).unwrap().copies;
        if let Some((answer, outputs)) = copies.write(&write, self.now) {
            let Answer::Written(version) = answer else { panic!("{answer:?}") };
            self.commits(version, seen);
            self.take_copies(node, outputs, seen);
            return;
        }
        let to = self.addressee(node, home);
        self.wire.send(Packet::Write { to: home.node, addressee: to, write });
    }

    fn flush(&mut self, node: NodeId) {
        let home = self.nodes[&node].home.tenure().origin();
        let to = self.addressee(node, home);
        let by = self.nodes[&node].process;
        let tag = self.asked(node, by, Caller::Flusher { node });
        let space: Arc<str> = SPACE.into();
        let outputs = self.nodes.get_mut(&node).unwrap().home.flush(tag, to, &space, self.now);
        self.take_home(node, outputs, &mut Seen::default());
    }

    fn renew(&mut self, node: NodeId) {
        if let Some(home) = self.home_of(node).filter(|home| home.node != node) {
            self.ask_to_renew(node, home);
        }
    }

    fn ask_to_renew(&mut self, node: NodeId, home: Origin) {
        let to = self.addressee(node, home);
        let by = self.nodes[&node].process;
        self.wire.send(Packet::Renew { from: node, by, home, to, sent: self.now });
    }

    fn look(&mut self, node: NodeId, seen: &mut Seen) {
        let copies = &mut self.nodes.get_mut(&node).unwrap().copies;
        let (due, outputs) = copies.renewals_unless_idle(IDLE, self.now);
        assert!(copies.is_tidy(IDLE, self.now), "{node} keeps what is over");
        seen.due += due.len() as u64;
        seen.unused += outputs.len() as u64;
        due.into_iter().for_each(|home| self.ask_to_renew(node, home));
        self.take_copies(node, outputs, seen);
    }
}
