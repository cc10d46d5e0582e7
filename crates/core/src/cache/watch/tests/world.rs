//! Homes, owners and a log of rings, as their drivers treat them, with one watching node among them.
//!
//! Orders and answers arrive at once, unless their node is cut off or an answer is lost on purpose. It
//! asserts nothing: [`super::promise`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ME;
use crate::cache::copy::{self, Copies, FlightId};
use crate::cache::feed::{self, FEED_BYTES_MAX, Feed, News};
use crate::cache::home::{self, Home};
use crate::cache::message::{self, Addressee, Answer, Held, Order, Refusal, Wish, Write};
use crate::cache::space::Spaces;
use crate::cache::tenure::View;
use crate::cache::watch::{Follow, Heard, Told, Watching};
use crate::cache::{Key, Tag, Version};
use crate::command::NamespaceOp;
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

/// Where lines may be owned.
pub(super) const BACK: &str = "back";
/// How long a heartbeat makes a node a member.
pub(super) const MEMBERSHIP: u64 = 5_000;
/// Room for a few lines.
const HOME_BYTES: usize = 750;
/// How often time is looked at.
const LOOK: u64 = 250;

pub(super) struct Node {
    pub(super) home: Home,
    copies: Copies,
    feed: Feed<News>,
    process: Incarnation,
    /// Another one than its process's first, if it was dropped and came back.
    incarnation: Incarnation,
    until: u64,
}

pub(super) struct World {
    pub(super) now: u64,
    ring_epoch: u64,
    /// As the log has them, with the epoch at which each came.
    members: BTreeMap<NodeId, (Incarnation, u64)>,
    incarnations: u64,
    spaces: Arc<Spaces>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Hears nothing and is not heard.
    pub(super) cut: Option<NodeId>,
    /// Gets no answer to its heartbeats.
    pub(super) unrenewed: Option<NodeId>,
    /// Who last asked to own something, and what.
    pub(super) owned: Option<(NodeId, Key)>,
    orders: Vec<(NodeId, NodeId, Order)>,
    seals: BTreeSet<(NodeId, Origin, u64)>,
    flights: BTreeMap<Tag, (NodeId, FlightId)>,
    answers: BTreeMap<Tag, Answer>,
    next_tag: Tag,
    watching: Watching,
    follows: Vec<Follow>,
    /// What the watcher keeps, and the last event that it has read.
    pub(super) kept: BTreeMap<Key, Version>,
    seen: u64,
}

impl World {
    pub(super) fn new(nodes: &[u64]) -> Self {
        let mut spaces = Spaces::default();
        let (name, write_back) = (BACK.into(), Some(true));
        spaces
            .apply(&NamespaceOp::Configure { name, write_back, bytes_max: None, ttl: None }, &mut Vec::new());
        let mut world = Self {
            now: 10_000,
            ring_epoch: 0,
            members: BTreeMap::new(),
            incarnations: 0,
            spaces: Arc::new(spaces),
            nodes: BTreeMap::new(),
            cut: None,
            unrenewed: None,
            owned: None,
            orders: Vec::new(),
            seals: BTreeSet::new(),
            flights: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_tag: 0,
            watching: Watching::new(ME),
            follows: Vec::new(),
            kept: BTreeMap::new(),
            seen: 0,
        };
        nodes.iter().for_each(|node| world.start(NodeId(*node)));
        world.settle();
        let (origins, now) = (world.origins(), Millis(world.now));
        world.follows = world.watching.enter(world.ring_epoch, origins.into_iter(), now);
        world.hear_all();
        world.seen = world.watching.last();
        world
    }

    fn now(&self) -> Millis {
        Millis(self.now)
    }

    fn origins(&self) -> Vec<Origin> {
        let origin = |(node, (incarnation, _)): (&NodeId, &(Incarnation, u64))| Origin {
            node: *node,
            incarnation: *incarnation,
        };
        self.members.iter().map(origin).collect()
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("it runs")
    }

    fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    /// A new process of `node`, which the log takes for a member, and which knows that.
    pub(super) fn join(&mut self, node: NodeId) {
        self.start(node);
        self.show(node);
    }

    fn start(&mut self, node: NodeId) {
        self.incarnations += 1;
        let process = Incarnation(self.incarnations);
        let (home, mut copies) = (Home::new(node, HOME_BYTES), Copies::new(1 << 20));
        copies.set_process(process);
        let (feed, incarnation) = (Feed::new(FEED_BYTES_MAX), process);
        self.nodes.insert(node, Node { home, copies, feed, process, incarnation, until: 0 });
        self.admit(node);
    }

    /// Its process ends.
    pub(super) fn crash(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.seals.retain(|(by, ..)| *by != node);
        self.flights.retain(|_, (by, _)| *by != node);
        self.orders.retain(|(home, ..)| *home != node);
    }

    fn admit(&mut self, node: NodeId) {
        self.ring_epoch += 1;
        let (epoch, until) = (self.ring_epoch, self.now + MEMBERSHIP);
        self.node(node).until = until;
        let incarnation = self.node(node).incarnation;
        self.members.insert(node, (incarnation, epoch));
    }

    /// The log drops a member whose time is over.
    pub(super) fn drop_member(&mut self, node: NodeId) {
        if self.members.remove(&node).is_some() {
            self.ring_epoch += 1;
        }
    }

    /// A process that was dropped is admitted again, and knows that.
    pub(super) fn come_back(&mut self, node: NodeId) {
        self.incarnations += 1;
        self.node(node).incarnation = Incarnation(self.incarnations);
        self.admit(node);
        self.show(node);
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// `node` hears of the ring.
    pub(super) fn show(&mut self, node: NodeId) {
        let (now, origins) = (self.now(), self.origins());
        let Some(known) = self.nodes.get(&node) else { return };
        let me = self.members.get(&node).filter(|(incarnation, _)| *incarnation == known.incarnation);
        let (ring_epoch, spaces) = (self.ring_epoch, self.spaces.clone());
        let view = View {
            ring_epoch,
            me: me.copied(),
            members: origins.clone(),
            spaces,
            until: Millis(known.until),
        };
        let outputs = self.node(node).home.set_view(&view, now);
        if node == ME {
            let new = self.watching.set_members(self.ring_epoch, origins.into_iter(), now);
            self.follows.extend(new);
        }
        self.take_home(node, outputs);
    }

    /// Time passes, and everybody who runs looks at it; all are heard meanwhile, unless this node `sleeps`.
    pub(super) fn later(&mut self, ms: u64, sleeps: bool) {
        for _ in 0..ms.div_ceil(LOOK) {
            self.now += LOOK;
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !(sleeps && node == ME) {
                    self.look_around(node);
                }
            }
            if !sleeps {
                self.hear_all();
            }
        }
    }

    fn look_around(&mut self, node: NodeId) {
        let (now, until, ring_epoch) = (self.now(), self.now + MEMBERSHIP, self.ring_epoch);
        let is_renewed = self.cut != Some(node) && self.unrenewed != Some(node);
        if is_renewed && self.members.get(&node).map(|(known, _)| *known) == Some(self.node(node).incarnation)
        {
            self.node(node).until = until;
            let outputs = self.node(node).home.membership_renewed(Millis(until), ring_epoch, now);
            self.take_home(node, outputs);
        }
        let outputs = self.node(node).home.tick(now);
        self.take_home(node, outputs);
        let (homes, outputs) = self.node(node).copies.renewals(now);
        self.take_copies(node, outputs);
        for home in homes {
            let to = self.addressee(node, home);
            if let Some(asked) = self.reach(node, home.node)
                && let Answer::Renewed { lease } = asked.home.renew(node, to, now)
            {
                self.node(node).copies.renewed(home, now, lease, now);
            }
        }
        if node == ME {
            let is_open = self.nodes[&ME].home.tenure().is_open(now);
            self.watching.tick(is_open, now);
        }
    }

    fn addressee(&self, from: NodeId, home: Origin) -> Addressee {
        let ring_epoch = self.nodes[&from].home.tenure().ring_epoch();
        Addressee { incarnation: home.incarnation, ring_epoch }
    }

    fn reach(&mut self, from: NodeId, to: NodeId) -> Option<&mut Node> {
        let is_cut = from != to && (self.cut == Some(from) || self.cut == Some(to));
        self.nodes.get_mut(&to).filter(|_| !is_cut)
    }

    fn take_home(&mut self, at: NodeId, outputs: Vec<home::Output>) {
        let now = self.now();
        for output in outputs {
            match output {
                home::Output::Forget { to, order } => self.orders.push((at, to, order)),
                home::Output::News(news) => self.tell(at, news),
                home::Output::Gap => {
                    self.node(at).feed.forget();
                    if at == ME {
                        self.watching.lost_own(now);
                    }
                }
                home::Output::Seal { to, ring_epoch } => drop(self.seals.insert((at, to, ring_epoch))),
                home::Output::Answer { tag, answer } => self.take_answer(tag, answer),
                home::Output::Left { .. } => {}
            }
        }
    }

    fn take_answer(&mut self, tag: Tag, answer: Answer) {
        let now = self.now();
        let Some((reader, flight)) = self.flights.remove(&tag) else {
            self.answers.insert(tag, answer);
            return;
        };
        let copies = &mut self.node(reader).copies;
        let outputs = match answer {
            Answer::Value(value) => copies.landed(flight, value, now),
            _ => copies.failed(flight),
        };
        self.take_copies(reader, outputs);
    }

    fn take_copies(&mut self, at: NodeId, outputs: Vec<copy::Output>) {
        let now = self.now();
        for output in outputs {
            match output {
                copy::Output::Answer { .. } => {}
                copy::Output::Ask { flight, home, key, may_own } => {
                    let (tag, to) = (self.tag(), self.addressee(at, home));
                    let own = Wish::Own { process: self.nodes[&at].process };
                    let wish = if may_own { own } else { Wish::Keep };
                    self.flights.insert(tag, (at, flight));
                    let outputs = match self.reach(at, home.node) {
                        Some(asked) => asked.home.read(tag, at, to, &key, wish, now),
                        None => vec![home::Output::Answer { tag, answer: Answer::Refused(Refusal::NotHome) }],
                    };
                    self.take_home(home.node, outputs);
                }
                copy::Output::Return { home, key, grant } => {
                    let to = self.addressee(at, home);
                    let Some(written) = self.nodes[&at].copies.returning(&key, grant, now) else { continue };
                    if let Some(asked) = self.reach(at, home.node) {
                        let (_, outputs) = asked.home.returned(at, to, &key, grant, written, now);
                        self.take_home(home.node, outputs);
                        self.node(at).copies.returned(&key, grant);
                    }
                }
            }
        }
    }

    fn tell(&mut self, at: NodeId, news: News) {
        if at == ME {
            self.watching.own(&news);
        }
        self.node(at).feed.push(news);
    }

    /// Orders arrive, and so do their answers.
    pub(super) fn deliver(&mut self) {
        let now = self.now();
        loop {
            let mut all = std::mem::take(&mut self.orders);
            all.retain(|(home, to, order)| {
                self.nodes.get(home).is_some_and(|n| n.home.awaits(*to, order.seq))
            });
            let (due, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(home, to, order)| {
                // An order of a former incarnation reaches nobody either.
                let is_cut = self.cut == Some(*home) || self.cut == Some(*to);
                !is_cut && self.nodes.contains_key(to) && order.home.node == *home
            });
            self.orders = waiting;
            if due.is_empty() {
                return;
            }
            for (home, to, order) in due {
                let had = self.node(to).copies.forget(&order, now);
                let outputs = self.node(home).home.acknowledged(to, order.seq, had, now);
                self.take_home(home, outputs);
            }
        }
    }

    /// Every seal that is awaited is asked for; its answer is lost if `lost` says so.
    pub(super) fn seal(&mut self, mut lost: impl FnMut() -> bool) {
        let now = self.now();
        for (by, to, ring_epoch) in self.seals.clone() {
            let is_awaited = |node: &Node| node.home.awaits_seal(to.node, ring_epoch);
            if !self.nodes.get(&by).is_some_and(is_awaited) {
                self.seals.remove(&(by, to, ring_epoch));
                continue;
            }
            let (tag, have) = (self.tag(), self.nodes[&by].home.has_lines_of(to.node));
            let meant = Addressee { incarnation: to.incarnation, ring_epoch };
            let Some(asked) = self.reach(by, to.node) else { continue };
            let outputs = asked.home.seal(tag, by, meant, have, now);
            self.take_home(to.node, outputs);
            self.deliver();
            if let Some(Answer::Sealed { ring_epoch, first, lines, more }) = self.answers.remove(&tag)
                && !lost()
            {
                let outputs = self.node(by).home.sealed(to.node, ring_epoch, first, lines, more, now);
                self.take_home(by, outputs);
            }
        }
    }

    /// Leaves as one does that has time: its lines go ahead.
    pub(super) fn leave(&mut self, node: NodeId) {
        let now = self.now();
        let outputs = self.node(node).copies.give_all_back(None);
        self.take_copies(node, outputs);
        let outputs = self.node(node).home.retire(now);
        self.take_home(node, outputs);
        self.deliver();
        let tenure = self.nodes[&node].home.tenure();
        let (origin, ring_epoch) = (tenure.origin(), tenure.ring_epoch());
        for (heir, lines) in self.nodes[&node].home.bequests(now) {
            if let Some(heir) = self.reach(node, heir) {
                heir.home.inherit(origin, ring_epoch, lines, now);
            }
        }
        self.drop_member(node);
        self.crash(node);
    }

    /// Who serves the key now.
    fn server(&self, key: &Key) -> Option<NodeId> {
        let now = self.now();
        let serving = |node: &Node| {
            self.cut.is_none_or(|cut| cut != node.home.tenure().node()) && node.home.tenure().serves(key, now)
        };
        let serving: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| serving(node)).map(|(id, _)| *id).collect();
        assert!(serving.len() <= 1, "two homes of {key:?}: {serving:?}");
        serving.first().copied()
    }

    pub(super) fn write(&mut self, write: Write) {
        let (now, tag) = (self.now(), self.tag());
        if let Some(home) = self.server(&write.key) {
            let outputs = self.node(home).home.write_own(tag, write, now);
            self.take_home(home, outputs);
            self.deliver();
        }
    }

    pub(super) fn flush(&mut self, home: NodeId, namespace: &str) {
        let (now, tag) = (self.now(), self.tag());
        if let Some(node) = self.nodes.get_mut(&home) {
            let tenure = node.home.tenure();
            let to = Addressee { incarnation: tenure.origin().incarnation, ring_epoch: tenure.ring_epoch() };
            let outputs = node.home.flush(tag, to, &namespace.into(), now);
            self.take_home(home, outputs);
            self.deliver();
        }
    }

    /// What a read answers; `None`: nobody can answer now.
    pub(super) fn read(&mut self, key: &Key) -> Option<Option<Version>> {
        let (now, tag, home) = (self.now(), self.tag(), self.server(key)?);
        let outputs = self.node(home).home.read_here(tag, key, now);
        self.take_home(home, outputs);
        self.deliver();
        match self.answers.remove(&tag) {
            Some(Answer::Value(value)) => Some(value.held.map(|held: Held| held.version)),
            _ => None,
        }
    }

    /// `node` reads `key`, and may own it from then on.
    pub(super) fn own(&mut self, node: NodeId, key: &Key) {
        let (now, tag) = (self.now(), self.tag());
        let Some(reader) = self.nodes.get_mut(&node) else { return };
        self.owned = Some((node, key.clone()));
        let home = reader.home.home_of(key).filter(|home| home.node != node);
        if let Some(home) = home
            && reader.copies.look(key, now).is_none()
        {
            let outputs = reader.copies.read(key, home, tag, now);
            self.take_copies(node, outputs);
            self.deliver();
        }
    }

    /// `node` writes what it owns, if it does.
    pub(super) fn write_owned(&mut self, node: NodeId, write: &Write) {
        let now = self.now();
        let written = self.nodes.get_mut(&node).and_then(|owner| owner.copies.write(write, now));
        let Some((answer, outputs)) = written else { return };
        if let Answer::Written(Some(version)) = answer {
            let how = match write.change {
                message::Change::Delete => feed::Change::Deleted,
                _ => feed::Change::Set,
            };
            self.tell(node, News::Changed { key: write.key.clone(), version, how });
        }
        self.take_copies(node, outputs);
    }

    /// This node hears what `node` has changed, unless the answer is lost.
    pub(super) fn hear(&mut self, node: NodeId) {
        for of in self.follows.clone() {
            if of.member.node == node {
                while self.hear_once(of) {}
            }
        }
    }

    fn hear_once(&mut self, of: Follow) -> bool {
        let now = self.now();
        let Some(ask) = self.watching.ask(of) else {
            self.follows.retain(|known| *known != of);
            return false;
        };
        let Some(asked) = self.reach(ME, of.member.node) else { return false };
        let heard = Heard::new(asked.process, asked.home.tenure().ring_epoch(), &asked.feed, ask);
        self.watching.heard(of, heard, now, now)
    }

    pub(super) fn hear_all(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.hear(node);
        }
    }

    /// The watcher reads at most so many events, and does as they say.
    pub(super) fn obey(&mut self, most: usize) {
        let since = self.watching.after(self.seen, most);
        if !since.whole {
            self.kept.clear();
            self.seen = since.last;
        }
        for told in since.entries {
            self.seen += 1;
            match told {
                Told::Reset(_) => self.kept.clear(),
                Told::News(News::Flushed { namespace }) => {
                    self.kept.retain(|key, _| crate::cache::space::of(key) != &*namespace);
                }
                Told::News(News::Changed { key, version, how }) => {
                    let is_over =
                        |kept: &Version| *kept < version || (*kept == version && how != feed::Change::Set);
                    if self.kept.get(&key).is_some_and(is_over) {
                        self.kept.remove(&key);
                    }
                }
            }
        }
    }

    /// Everybody knows the ring, has what is handed over, and serves.
    pub(super) fn settle(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.show(node);
            self.deliver();
        }
        // Once for the lines, once to see that there are no more.
        (0..3).for_each(|_| self.seal(|| false));
    }
}
