//! Walks every order in which messages, restarts and time can happen to one key, within small
//! bounds: a home and two other nodes. A message that is never delivered was lost; one may be
//! delivered twice; a message may come after any lease has ended.
//!
//! In every state that it reaches: a readable copy is the committed value; who can read a copy is in
//! the directory; an owner reads alone; what a read returned was committed at some instant while it
//! ran; a right to fill ends with any write.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::copy::{self, Copies, FlightId};
use super::home::{self, Home};
use super::message::{Addressee, Answer, Change, Forget, Had, Held, Load, Order, Value, Wish, Write};
use super::space::Spaces;
use super::tenure::View;
use super::{Key, Tag, Version, space};
use crate::command::NamespaceOp;
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

mod runs;

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const NODES: [NodeId; 2] = [NodeId(2), NodeId(3)];
const TO: Addressee = Addressee { incarnation: Incarnation(1), ring_epoch: 1 };
/// Two of these end a holder's lease and not yet the home's wait for it; three end both.
const STEP: Millis = Millis(1_000);

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    /// Whether the key's namespace lets a sole reader own it.
    write_back: bool,
    reads: u32,
    writes: u32,
    deletes: u32,
    renewals: u32,
    steps: u32,
    repeats: u32,
    restarts: u32,
    squeezes: u32,
    /// Writes by whoever owns the line.
    owned_writes: u32,
    /// Owners that give back what they own.
    returns: u32,
    flushes: u32,
    loads: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Packet {
    Read { from: NodeId, flight: FlightId },
    Value { to: NodeId, flight: FlightId, value: Value },
    Forget { to: NodeId, order: Order },
    Forgotten { from: NodeId, seq: u64, had: Had, recall: bool },
    Renew { from: NodeId, sent: Millis },
    Renewed { to: NodeId, sent: Millis, lease: Millis },
    Return { from: NodeId, grant: u64 },
    Returned { to: NodeId, grant: u64 },
}

impl Packet {
    /// The process that would send it, or take it as an answer, is no more.
    fn dies_with(&self, node: NodeId) -> bool {
        match self {
            Self::Value { to, .. } | Self::Renewed { to, .. } | Self::Returned { to, .. } => *to == node,
            Self::Read { from, .. } | Self::Renew { from, .. } | Self::Return { from, .. } => *from == node,
            Self::Forget { .. } | Self::Forgotten { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Read(NodeId),
    Write,
    Delete,
    OwnedWrite(NodeId),
    GiveBack(NodeId),
    Flush,
    Load,
    /// Fills in under the oldest right that was handed out.
    Fill,
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
    key: Key,
    now: Millis,
    home: Home,
    nodes: BTreeMap<NodeId, Copies>,
    processes: u64,
    packets: Vec<Packet>,
    budget: Budget,
    next_tag: Tag,
    /// What was committed, one after the other; `None`: nothing.
    history: Vec<Option<Version>>,
    /// What was the latest of `history` when each read began.
    reads: BTreeMap<Tag, usize>,
    /// Reads that the home has not answered yet.
    asked: BTreeMap<Tag, (NodeId, FlightId)>,
    /// Rights to fill, with the length of `history` when they were handed out.
    fills: Vec<(Version, usize)>,
    filling: Option<(Tag, usize)>,
    /// Writes of values that are under way.
    sets: BTreeSet<Tag>,
    /// Lost lines that are in `history` already.
    lost: u64,
}

/// What happened on the way, so that a walk which misses it is not taken for a proof.
#[derive(Default, Debug)]
struct Seen {
    states: BTreeSet<u64>,
    hits: u64,
    owners: u64,
    lost: u64,
    unkept: u64,
    waited_out: u64,
    read_answers: u64,
    filled: u64,
    void: u64,
}

impl World {
    fn new(budget: Budget) -> Self {
        let mut home = Home::new(HOME.node, 900);
        let namespace = if budget.write_back { "back" } else { space::DEFAULT };
        let mut spaces = Spaces::default();
        let op = NamespaceOp::Configure {
            name: namespace.into(),
            write_back: Some(budget.write_back),
            bytes_max: None,
            ttl: None,
        };
        spaces.apply(&op, &mut Vec::new());
        let view = View {
            ring_epoch: 1,
            me: Some((Incarnation(1), 1)),
            members: vec![HOME],
            spaces: Arc::new(spaces),
            until: Millis(1_000_000),
        };
        home.set_view(&view, Millis(0));
        let mut world = Self {
            key: space::join(namespace, "k"),
            now: Millis(0),
            home,
            nodes: BTreeMap::new(),
            processes: 0,
            packets: Vec::new(),
            budget,
            next_tag: 0,
            history: vec![None],
            reads: BTreeMap::new(),
            asked: BTreeMap::new(),
            fills: Vec::new(),
            filling: None,
            sets: BTreeSet::new(),
            lost: 0,
        };
        NODES.iter().for_each(|node| world.start(*node));
        world
    }

    /// A new process of `node`.
    fn start(&mut self, node: NodeId) {
        let mut copies = Copies::new(1 << 20);
        self.processes += 1;
        copies.set_process(Incarnation(self.processes));
        self.nodes.insert(node, copies);
        // Answers to its former process find nobody.
        self.packets.retain(|packet| !packet.dies_with(node));
        self.asked.retain(|_, (from, _)| *from != node);
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
            offer(budget.owned_writes, Action::OwnedWrite(node));
            offer(budget.returns, Action::GiveBack(node));
        }
        offer(budget.writes, Action::Write);
        offer(budget.deletes, Action::Delete);
        offer(budget.steps, Action::Step);
        offer(budget.squeezes, Action::Squeeze);
        offer(budget.flushes, Action::Flush);
        offer(budget.loads, Action::Load);
        offer(u32::from(!self.fills.is_empty() && self.filling.is_none()), Action::Fill);
        for at in 0..self.packets.len() {
            offer(1, Action::Deliver(at));
            offer(budget.repeats, Action::Repeat(at));
        }
        actions
    }

    fn act(&mut self, action: &Action, seen: &mut Seen) {
        let tag = self.tag();
        match *action {
            Action::Read(node) => self.read(node),
            Action::Write => {
                self.budget.writes -= 1;
                self.sets.insert(tag);
                self.write(Write { change: value(8), ..self.a_write() }, tag, seen);
            }
            Action::Delete => {
                self.budget.deletes -= 1;
                self.write(Write { change: Change::Delete, ..self.a_write() }, tag, seen);
            }
            Action::Squeeze => {
                self.budget.squeezes -= 1;
                self.write(Write { key: "big".into(), change: value(540), ..self.a_write() }, tag, seen);
            }
            Action::OwnedWrite(node) => {
                self.budget.owned_writes -= 1;
                let write = self.a_write();
                let done = self.nodes.get_mut(&node).unwrap().write(&write, self.now);
                assert!(done.is_none_or(|(answer, _)| matches!(answer, Answer::Written(Some(_)))));
            }
            Action::GiveBack(node) => {
                self.budget.returns -= 1;
                let outputs = self.nodes.get_mut(&node).unwrap().give_all_back(None);
                self.take_copies(node, outputs);
            }
            Action::Flush => {
                self.budget.flushes -= 1;
                let namespace: Arc<str> = space::of(&self.key).into();
                let outputs = self.home.flush(tag, TO, &namespace, self.now);
                self.take_home(outputs, seen);
            }
            Action::Load => {
                self.budget.loads -= 1;
                let load = Load { key: self.key.clone(), lease: Millis(60_000), wait: Millis(0) };
                let outputs = self.home.load(tag, None, load, self.now);
                self.take_home(outputs, seen);
            }
            Action::Fill => {
                let (token, since) = self.fills.remove(0);
                self.filling = Some((tag, since));
                self.write(Write { fill: Some(token), ..self.a_write() }, tag, seen);
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
                self.take_home(outputs, seen);
            }
            Action::Restart(node) => {
                self.budget.restarts -= 1;
                self.start(node);
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
        self.note_losses();
        self.commits(self.committed());
        // Rights handed out just now came after whatever else was done.
        for (_, since) in &mut self.fills {
            *since = (*since).min(self.history.len());
        }
    }

    fn note_losses(&mut self) {
        let lost = self.home.stats().lost;
        if std::mem::replace(&mut self.lost, lost) < lost {
            self.commits(None);
        }
    }

    fn commits(&mut self, version: Option<Version>) {
        if self.history.last() != Some(&version) {
            let newest = self.history.iter().flatten().max();
            assert!(
                version.as_ref().is_none_or(|it| Some(it) > newest),
                "{version:?} is back, after {newest:?}"
            );
            self.history.push(version);
        }
    }

    fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    fn a_write(&self) -> Write {
        Write {
            key: self.key.clone(),
            change: value(8),
            ttl: None,
            if_version: None,
            if_absent: false,
            fill: None,
            guard: None,
            request_id: None,
        }
    }

    /// What is committed: at the owner, on its way back from there, or at the home.
    fn committed(&self) -> Option<Version> {
        let raw = self.home.raw(&self.key, self.now).map(|held| held.version);
        let Some((owner, grant, process)) = self.home.owner(&self.key) else { return raw };
        let back = self.packets.iter().find_map(|packet| match packet {
            Packet::Forgotten { from, seq, had, recall: true } if self.home.awaits(*from, *seq) => {
                match had {
                    Had::Written(held) => live(held),
                    Had::Nothing => Some(raw),
                    Had::Lost => None,
                }
            }
            _ => None,
        });
        if let Some(back) = back {
            return back;
        }
        let copies = &self.nodes[&owner];
        if copies.process() != Some(process) {
            return None;
        }
        match copies.written(&self.key, grant, self.now) {
            Some(held) => live(&held).flatten(),
            None => raw,
        }
    }

    fn read(&mut self, node: NodeId) {
        self.budget.reads -= 1;
        let tag = self.tag();
        self.reads.insert(tag, self.history.len() - 1);
        let copies = self.nodes.get_mut(&node).unwrap();
        if copies.lookup(&self.key, self.now).is_none() {
            let outputs = copies.read(&self.key, HOME, tag, self.now);
            self.take_copies(node, outputs);
        }
    }

    fn write(&mut self, write: Write, tag: Tag, seen: &mut Seen) {
        let outputs = self.home.write_own(tag, write, self.now);
        self.take_home(outputs, seen);
    }

    fn deliver(&mut self, packet: Packet, seen: &mut Seen) {
        match packet {
            Packet::Read { from, flight } => {
                let tag = self.tag();
                let process = self.nodes[&from].process().unwrap();
                self.asked.insert(tag, (from, flight));
                let outputs = self.home.read(tag, from, TO, &self.key, Wish::Own { process }, self.now);
                self.take_home(outputs, seen);
            }
            Packet::Value { to, flight, value } => {
                let copies = self.nodes.get_mut(&to).unwrap();
                let outputs = copies.landed(flight, value, self.now);
                seen.unkept += u64::from(copies.lookup(&self.key, self.now).is_none());
                seen.read_answers += outputs.len() as u64;
                self.take_copies(to, outputs);
            }
            Packet::Forget { to, order } => {
                let had = self.nodes.get_mut(&to).unwrap().forget(&order, self.now);
                let recall = matches!(order.what, Forget::Owned { .. });
                self.packets.push(Packet::Forgotten { from: to, seq: order.seq, had, recall });
            }
            Packet::Forgotten { from, seq, had, .. } => {
                let outputs = self.home.acknowledged(from, seq, had, self.now);
                self.take_home(outputs, seen);
            }
            Packet::Renew { from, sent } => {
                if let Answer::Renewed { lease } = self.home.renew(from, TO, self.now) {
                    self.packets.push(Packet::Renewed { to: from, sent, lease });
                }
            }
            Packet::Renewed { to, sent, lease } => {
                self.nodes.get_mut(&to).unwrap().renewed(HOME, sent, lease, self.now);
            }
            Packet::Return { from, grant } => {
                let written = self.nodes[&from].returning(&self.key, grant, self.now);
                let Some(written) = written else { return };
                let (_, outputs) = self.home.returned(from, TO, &self.key, grant, written, self.now);
                self.packets.push(Packet::Returned { to: from, grant });
                self.take_home(outputs, seen);
            }
            Packet::Returned { to, grant } => {
                self.nodes.get_mut(&to).unwrap().returned(&self.key, grant);
            }
        }
    }

    fn take_home(&mut self, outputs: Vec<home::Output>, seen: &mut Seen) {
        for output in outputs {
            match output {
                home::Output::Forget { to, order } if is_about(&order, &self.key) => {
                    self.packets.push(Packet::Forget { to, order });
                }
                home::Output::Answer { tag, answer } => self.take_answer(tag, answer, seen),
                _ => {}
            }
        }
    }

    fn take_answer(&mut self, tag: Tag, answer: Answer, seen: &mut Seen) {
        // One step may commit one after the other, with reads in between.
        if self.sets.remove(&tag)
            && let Answer::Written(version) = answer
        {
            self.note_losses();
            self.commits(version);
        }
        if let Answer::Fill { token, .. } = answer {
            self.fills.push((token, usize::MAX));
        }
        if let Some((_, since)) = self.filling.take_if(|(filling, _)| *filling == tag) {
            let is_done = matches!(answer, Answer::Written(_));
            seen.filled += u64::from(is_done);
            seen.void += u64::from(!is_done);
            let between = &self.history[since..];
            assert!(!is_done || between.is_empty(), "filled in over {between:?}");
        }
        if let (Answer::Value(value), Some((to, flight))) = (answer, self.asked.remove(&tag)) {
            seen.owners += u64::from(value.grant.is_some());
            self.packets.push(Packet::Value { to, flight, value });
        }
    }

    fn take_copies(&mut self, node: NodeId, outputs: Vec<copy::Output>) {
        for output in outputs {
            match output {
                copy::Output::Ask { flight, .. } => self.packets.push(Packet::Read { from: node, flight }),
                copy::Output::Return { grant, .. } => {
                    self.packets.push(Packet::Return { from: node, grant });
                }
                copy::Output::Answer { tag, value } => {
                    let returned = value.expect("nothing fails here").map(|held| held.version);
                    let Some(began) = self.reads.remove(&tag) else { continue };
                    let allowed = &self.history[began..];
                    assert!(allowed.contains(&returned), "read {tag} returned {returned:?} of {allowed:?}");
                }
            }
        }
    }

    fn check(&self, seen: &mut Seen) {
        let committed = self.committed();
        let sharers = self.home.sharers(&self.key);
        if let Ok(held) = self.home.read_own(&self.key, self.now) {
            assert_eq!(held.map(|held| held.version), committed, "the home reads what is not committed");
        }
        let views: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|(node, copies)| copies.inspect(&self.key, self.now).map(|view| (*node, view)))
            .collect();
        for (node, view) in &views {
            seen.hits += 1;
            assert_eq!(view.version, committed, "{node} reads what is not committed");
            assert!(sharers.contains(node), "{node} reads a copy and is not in the directory");
            assert!(view.state == 'S' || views.len() == 1, "{node} owns it and {views:?} read it");
        }
        seen.lost = seen.lost.max(self.home.stats().lost);
    }

    /// Names the state, however it was reached.
    fn print(&self) -> u64 {
        let mut hash = Xxh3::new();
        let since = self.reads.values().chain(self.fills.iter().map(|(_, since)| since)).min();
        let history = (self.history.last(), since.map(|at| self.history.get(*at..)));
        let mut packets: Vec<String> = self.packets.iter().map(|p| format!("{p:?}")).collect();
        packets.sort();
        let home = self.home.uncounted();
        let nodes: Vec<_> = self.nodes.iter().map(|(node, copies)| (node, copies.uncounted())).collect();
        let waits = (&self.reads, &self.asked, &self.fills, self.filling);
        let state = (self.now, home, nodes, packets, self.budget, history, waits);
        hash.write(format!("{state:?}").as_bytes());
        hash.finish()
    }
}

fn value(len: usize) -> Change {
    Change::Set(Bytes::from(vec![b'x'; len]))
}

/// The version, unless what came back is that there is none.
fn live(held: &Held) -> Option<Option<Version>> {
    Some((held.left != Some(Millis(0))).then_some(held.version))
}

fn is_about(order: &Order, of: &Key) -> bool {
    match &order.what {
        Forget::Copy { key } | Forget::Owned { key, .. } => key == of,
        Forget::Namespace { .. } => true,
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
    println!("{} states; {}", seen.states.len(), Summary(&seen));
    seen
}

struct Summary<'a>(&'a Seen);

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { hits, owners, lost, unkept, waited_out, read_answers, filled, void, .. } = self.0;
        write!(f, "{hits} hits, {owners} grants, {lost} lost, {unkept} not kept, {waited_out} waited out, ")?;
        write!(f, "{read_answers} reads answered, {filled} filled, {void} void")
    }
}
