//! Three nodes with a home and copies each, and messages that travel only when a test says so.
//!
//! A message that was handed out may arrive late, twice, or never. Each node counts time by a clock of
//! its own. The stage decides nothing about coherence, and it repeats nothing by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_core::Millis;
use lockstep_core::cache::copy::Copies;
use lockstep_core::cache::home::{self, Home};
use lockstep_core::cache::message::{Addressee, Answer, Change, Held, Load, Refusal, Write};
use lockstep_core::cache::space::{self, Spaces};
use lockstep_core::cache::tenure::View;
use lockstep_core::cache::{Key, Tag, Version};
use lockstep_core::command::NamespaceOp;
use lockstep_core::names::{Incarnation, NodeId, Origin};
use lockstep_core::ring::HomeRing;

use super::packets::{Caller, Packet};

/// A write-back namespace.
pub const BACK: &str = "back";
/// When every stage begins.
pub const T0: u64 = 10_000;

pub struct Peer {
    pub home: Home,
    pub copies: Copies,
    pub(super) incarnation: u64,
    /// How fast its clock runs, in thousandths.
    rate: u64,
    asleep: bool,
}

pub struct Stage {
    /// Milliseconds since it began, as nobody's clock counts them.
    real: u64,
    pub nodes: BTreeMap<u64, Peer>,
    ring_epoch: u64,
    members: BTreeMap<u64, (u64, u64)>,
    /// When the membership of every node ends, counted from the beginning.
    pub membership: u64,
    spaces: Arc<Spaces>,
    pub(super) callers: BTreeMap<(u64, Tag), Caller>,
    next: Tag,
    pub(super) answers: BTreeMap<Tag, Answer>,
    pub(super) told: BTreeMap<Tag, String>,
}

impl Stage {
    /// Three nodes that know each other.
    pub fn new() -> Self {
        Self::of(&[1, 2, 3], 1 << 20)
    }

    /// These nodes, each with so many bytes as a home.
    pub fn of(nodes: &[u64], bytes: usize) -> Self {
        Self::members_until(1_000_000, nodes, bytes)
    }

    /// These nodes, members for so long.
    pub fn members_until(membership: u64, nodes: &[u64], bytes: usize) -> Self {
        let mut spaces = Spaces::default();
        let op =
            NamespaceOp::Configure { name: BACK.into(), write_back: Some(true), bytes_max: None, ttl: None };
        spaces.apply(&op, &mut Vec::new());
        let mut stage = Self {
            real: 0,
            nodes: BTreeMap::new(),
            ring_epoch: 1,
            members: nodes.iter().map(|node| (*node, (1, 1))).collect(),
            membership,
            spaces: Arc::new(spaces),
            callers: BTreeMap::new(),
            next: 0,
            answers: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        nodes.iter().for_each(|node| stage.start(*node, 1, bytes));
        stage.show_all();
        stage
    }

    /// A new process of `node`.
    pub fn start(&mut self, node: u64, incarnation: u64, bytes: usize) {
        let (home, mut copies) = (Home::new(NodeId(node), bytes), Copies::new(1 << 20));
        copies.set_process(Incarnation(incarnation));
        let peer = Peer { home, copies, incarnation, rate: 1_000, asleep: false };
        self.nodes.insert(node, peer);
    }

    /// Its process ends: whatever waits there waits for ever.
    pub fn crash(&mut self, node: u64) {
        self.nodes.remove(&node);
    }

    /// Its process is stopped, or its machine suspended: nothing runs there, and its clock goes on.
    pub fn sleep(&mut self, node: u64) {
        self.nodes.get_mut(&node).unwrap().asleep = true;
    }

    /// It goes on, and has not looked at anything yet.
    pub fn wake(&mut self, node: u64) {
        self.nodes.get_mut(&node).unwrap().asleep = false;
    }

    /// From now on its clock counts so many milliseconds in a thousand. To be said at the beginning.
    pub fn drift(&mut self, node: u64, rate: u64) {
        self.nodes.get_mut(&node).unwrap().rate = rate;
    }

    /// The log has another ring now; nobody knows it before [`Self::show`].
    pub fn ring(&mut self, members: &[u64]) {
        self.ring_epoch += 1;
        let epoch = self.ring_epoch;
        let nodes = &self.nodes;
        let incarnation = |node: &u64| nodes.get(node).map_or(1, |peer| peer.incarnation);
        let before = std::mem::take(&mut self.members);
        for node in members {
            let now = incarnation(node);
            let known = before.get(node).filter(|(known, _)| *known == now).copied();
            self.members.insert(*node, known.unwrap_or((now, epoch)));
        }
    }

    /// `node` hears of the ring.
    pub fn show(&mut self, node: u64) -> Vec<Packet> {
        let now = self.now(node);
        let rate = self.nodes[&node].rate;
        let origin = |(node, (incarnation, _)): (&u64, &(u64, u64))| Origin {
            node: NodeId(*node),
            incarnation: Incarnation(*incarnation),
        };
        let own = self.nodes[&node].incarnation;
        let known = self.members.get(&node).filter(|(incarnation, _)| *incarnation == own);
        let me = known.map(|(incarnation, since)| (Incarnation(*incarnation), *since));
        let view = View {
            ring_epoch: self.ring_epoch,
            me,
            members: self.members.iter().map(origin).collect(),
            spaces: Arc::clone(&self.spaces),
            // Counted short, for a clock that may be slow.
            until: Millis(T0 + self.membership * rate / 1_000 * 99 / 100),
        };
        let outputs = self.nodes.get_mut(&node).unwrap().home.set_view(&view, now);
        self.take_home(node, outputs)
    }

    /// Everybody hears of the ring, and whatever that sets off arrives.
    pub fn show_all(&mut self) {
        let mut packets = Vec::new();
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            packets.extend(self.show(node));
        }
        self.carry(packets);
    }

    /// These arrive, and whatever that sets off.
    pub fn carry(&mut self, mut packets: Vec<Packet>) {
        while !packets.is_empty() {
            packets = self.arrive(&packets);
        }
    }

    /// The namespaces are configured anew, and everybody knows.
    pub fn configure(&mut self, name: &str, write_back: bool) -> Vec<Packet> {
        let mut spaces = (*self.spaces).clone();
        let op = NamespaceOp::Configure {
            name: name.into(),
            write_back: Some(write_back),
            bytes_max: None,
            ttl: None,
        };
        spaces.apply(&op, &mut Vec::new());
        self.spaces = Arc::new(spaces);
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        nodes.into_iter().flat_map(|node| self.show(node)).collect()
    }

    pub fn now(&self, node: u64) -> Millis {
        Millis(T0 + self.real * self.nodes[&node].rate / 1_000)
    }

    /// Time passes; every node that runs looks at what is due.
    pub fn later(&mut self, ms: u64) -> Vec<Packet> {
        self.real += ms;
        let awake: Vec<u64> = self.nodes.iter().filter(|(_, p)| !p.asleep).map(|(node, _)| *node).collect();
        awake
            .into_iter()
            .flat_map(|node| {
                let now = self.now(node);
                let outputs = self.nodes.get_mut(&node).unwrap().home.tick(now);
                self.take_home(node, outputs)
            })
            .collect()
    }

    pub(super) fn addressee(&self, from: u64, home: Origin) -> Addressee {
        let ring_epoch = self.nodes[&from].home.tenure().ring_epoch();
        Addressee { incarnation: home.incarnation, ring_epoch }
    }

    pub(super) fn tag(&mut self, caller: Option<(u64, Caller)>) -> Tag {
        self.next += 1;
        if let Some((home, caller)) = caller {
            self.callers.insert((home, self.next), caller);
        }
        self.next
    }

    /// `node` reads `key`, which it may not answer by itself: joins a read that is under way, or asks.
    pub fn read(&mut self, node: u64, key: &str) -> (Tag, Vec<Packet>) {
        let home = self.nodes[&node].home.home_of(key).expect("somebody is home");
        let (tag, now) = (self.tag(None), self.now(node));
        let outputs = self.nodes.get_mut(&node).unwrap().copies.read(&key.into(), home, tag, now);
        (tag, self.take_copies(node, outputs))
    }

    /// `node` reads `key`, and the answer arrives.
    pub fn keep(&mut self, node: u64, key: &str) {
        let (_, read) = self.read(node, key);
        let value = self.arrive(&read);
        self.arrive(&value);
    }

    /// What `node` answers by itself, from its memory: `ask` if it may not.
    pub fn sees(&mut self, node: u64, key: &str) -> String {
        let now = self.now(node);
        match self.nodes.get_mut(&node).unwrap().copies.lookup(key, now) {
            None => "ask".to_owned(),
            Some(held) => text(held.as_ref()),
        }
    }

    /// What `node` answers as the home.
    pub fn committed(&self, node: u64, key: &str) -> String {
        match self.nodes[&node].home.read_own(key, self.now(node)) {
            Ok(held) => text(held.as_ref()),
            Err(Refusal::Owned) => "owned".to_owned(),
            Err(_) => "not home".to_owned(),
        }
    }

    /// `node` wants this done.
    pub fn write(&mut self, node: u64, write: Write) -> (Tag, Vec<Packet>) {
        let now = self.now(node);
        let home = self.nodes[&node].home.home_of(&write.key).expect("somebody is home");
        if let Some((answer, outputs)) = self.nodes.get_mut(&node).unwrap().copies.write(&write, now) {
            let tag = self.tag(None);
            self.answers.insert(tag, answer);
            return (tag, self.take_copies(node, outputs));
        }
        let tag = self.tag(None);
        (tag, vec![Packet::Write { from: node, home, to: self.addressee(node, home), write, tag }])
    }

    /// What the writer was told, if anything yet.
    pub fn answer(&self, tag: Tag) -> Option<&Answer> {
        self.answers.get(&tag)
    }

    /// What the reader was told, if anything yet.
    pub fn told(&self, tag: Tag) -> Option<&str> {
        self.told.get(&tag).map(String::as_str)
    }

    /// `node` asks the home of `key` to renew its lease.
    pub fn renew(&mut self, node: u64, key: &str) -> Vec<Packet> {
        let home = self.nodes[&node].home.home_of(key).expect("somebody is home");
        vec![Packet::Renew { from: node, home, to: self.addressee(node, home), sent: self.now(node) }]
    }

    /// `node` gives back what it owns.
    pub fn give_back(&mut self, node: u64) -> Vec<Packet> {
        let outputs = self.nodes.get_mut(&node).unwrap().copies.give_all_back(None);
        self.take_copies(node, outputs)
    }

    /// `node` asks the home, which is itself, for the right to fill a missing value in.
    pub fn load(&mut self, node: u64, key: &str) -> Answer {
        let now = self.now(node);
        let load = Load { key: key.into(), lease: Millis(60_000), wait: Millis(0) };
        let outputs = self.nodes.get_mut(&node).unwrap().home.load(0, None, load, now);
        match &outputs[..] {
            [home::Output::Answer { answer, .. }] => answer.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// `node`, a home, is to empty a namespace.
    pub fn flush(&mut self, node: u64, namespace: &str) -> (Tag, Vec<Packet>) {
        let now = self.now(node);
        let home = self.nodes[&node].home.tenure().origin();
        let to = self.addressee(node, home);
        let tag = self.next + 1;
        self.tag(Some((node, Caller::Writer { node, tag })));
        let outputs = self.nodes.get_mut(&node).unwrap().home.flush(tag, to, &namespace.into(), now);
        (tag, self.take_home(node, outputs))
    }
}

/// The messages among these that go to `node`.
pub fn bound_for(node: u64, packets: &[Packet]) -> Vec<Packet> {
    packets.iter().filter(|packet| packet.place() == node).cloned().collect()
}

/// A key of `namespace` whose home is the first of these nodes when the first ones are members, and the
/// second when the second ones are.
pub fn key_of(namespace: &str, homes: &[(&[u64], u64)]) -> Key {
    let home = |members: &[u64], key: &Key| {
        HomeRing::new(&members.iter().map(|node| NodeId(*node)).collect::<Vec<_>>()).home(key)
    };
    let fits = |key: &Key| homes.iter().all(|(members, node)| home(members, key) == Some(NodeId(*node)));
    (0..).map(|n| space::join(namespace, &format!("k{n}"))).find(fits).unwrap()
}

/// A key whose home is node 1, in the namespace.
pub fn key_in(namespace: &str) -> Key {
    key_of(namespace, &[(&[1, 2, 3], 1)])
}

/// So many keys whose home is node 1; the first is that of [`key_in`].
pub fn keys_in(namespace: &str, count: usize) -> Vec<Key> {
    let ring = HomeRing::new(&[1, 2, 3].map(NodeId));
    let keys = (0..).map(|n| space::join(namespace, &format!("k{n}")));
    keys.filter(|key| ring.home(key) == Some(NodeId(1))).take(count).collect()
}

pub fn set(key: &str, value: &str) -> Write {
    let change = Change::Set(bytes::Bytes::copy_from_slice(value.as_bytes()));
    Write::new(key.into(), change)
}

pub fn delete(key: &str) -> Write {
    Write { change: Change::Delete, ..set(key, "") }
}

/// The version that a write was answered with.
pub fn version(answer: Option<&Answer>) -> Version {
    match answer {
        Some(Answer::Written(Some(version)) | Answer::Counted { version, .. }) => *version,
        other => panic!("not written: {other:?}"),
    }
}

pub fn text(held: Option<&Held>) -> String {
    held.map_or_else(|| "nothing".to_owned(), |held| String::from_utf8_lossy(&held.value).into_owned())
}
