//! Messages of the stage: where each goes, and what it does when it arrives.

use lockstep_core::Millis;
use lockstep_core::cache::copy::{self, FlightId};
use lockstep_core::cache::home;
use lockstep_core::cache::message::{Addressee, Answer, Had, Held, Moved, Order, Wish, Write};
use lockstep_core::cache::{Key, Tag};
use lockstep_core::names::{Incarnation, NodeId, Origin};

use super::stage::{Stage, text};

/// A message on its way.
#[derive(Clone, Debug)]
pub enum Packet {
    Read { from: u64, by: Incarnation, flight: FlightId, home: Origin, to: Addressee, key: Key },
    Value { to: u64, flight: FlightId, answer: Answer },
    Write { from: u64, home: Origin, to: Addressee, write: Write, tag: Tag },
    Done { to: u64, tag: Tag, answer: Answer },
    Forget { to: u64, order: Order },
    Forgotten { from: u64, home: Origin, seq: u64, had: Had },
    Renew { from: u64, home: Origin, to: Addressee, sent: Millis },
    Renewed { to: u64, home: Origin, sent: Millis, answer: Answer },
    Return { from: u64, home: Origin, to: Addressee, key: Key, grant: u64, written: Option<Held> },
    Returned { to: u64, key: Key, grant: u64 },
    Seal { from: u64, to: u64, meant: Addressee, have: u64 },
    Sealed { to: u64, by: u64, ring_epoch: u64, first: u64, lines: Vec<Moved>, more: bool },
}

/// Who waits for an answer of a home.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Reader { node: u64, flight: FlightId },
    Writer { node: u64, tag: Tag },
    Sealer { node: u64 },
}

impl Stage {
    /// These messages arrive, one after the other; what they set off is on its way then. Nothing
    /// arrives at a process that is no more.
    pub fn arrive(&mut self, packets: &[Packet]) -> Vec<Packet> {
        packets.iter().flat_map(|packet| self.deliver(packet.clone())).collect()
    }

    fn deliver(&mut self, packet: Packet) -> Vec<Packet> {
        let place = packet.place();
        if !self.nodes.contains_key(&place) {
            return Vec::new();
        }
        let now = self.now(place);
        match packet {
            Packet::Read { from, by, flight, to, key, .. } => {
                let tag = self.tag(Some((place, Caller::Reader { node: from, flight })));
                let wish = Wish::Own { process: by };
                let home = &mut self.nodes.get_mut(&place).unwrap().home;
                let outputs = home.read(tag, NodeId(from), to, &key, wish, now);
                self.take_home(place, outputs)
            }
            Packet::Value { flight, answer, .. } => {
                let copies = &mut self.nodes.get_mut(&place).unwrap().copies;
                let outputs = match answer {
                    Answer::Value(value) => copies.landed(flight, value, now),
                    _ => copies.failed(flight),
                };
                self.take_copies(place, outputs)
            }
            Packet::Write { from, to, write, tag, .. } => {
                let at_home = self.tag(Some((place, Caller::Writer { node: from, tag })));
                let outputs = self.nodes.get_mut(&place).unwrap().home.write(at_home, to, write, now);
                self.take_home(place, outputs)
            }
            Packet::Done { tag, answer, .. } => {
                self.answers.insert(tag, answer);
                Vec::new()
            }
            Packet::Forget { order, .. } => {
                let had = self.nodes.get_mut(&place).unwrap().copies.forget(&order, now);
                vec![Packet::Forgotten { from: place, home: order.home, seq: order.seq, had }]
            }
            Packet::Forgotten { from, seq, had, .. } => {
                let home = &mut self.nodes.get_mut(&place).unwrap().home;
                let outputs = home.acknowledged(NodeId(from), seq, had, now);
                self.take_home(place, outputs)
            }
            Packet::Renew { from, home, to, sent } => {
                let answer = self.nodes.get_mut(&place).unwrap().home.renew(NodeId(from), to, now);
                vec![Packet::Renewed { to: from, home, sent, answer }]
            }
            Packet::Renewed { home, sent, answer, .. } => {
                let copies = &mut self.nodes.get_mut(&place).unwrap().copies;
                match answer {
                    Answer::Renewed { lease } => copies.renewed(home, sent, lease, now),
                    _ => copies.not_renewed(home),
                }
                Vec::new()
            }
            Packet::Return { from, to, key, grant, written, .. } => {
                let home = &mut self.nodes.get_mut(&place).unwrap().home;
                let (_, outputs) = home.returned(NodeId(from), to, &key, grant, written, now);
                let mut packets = self.take_home(place, outputs);
                packets.push(Packet::Returned { to: from, key, grant });
                packets
            }
            Packet::Returned { key, grant, .. } => {
                self.nodes.get_mut(&place).unwrap().copies.returned(&key, grant);
                Vec::new()
            }
            Packet::Seal { from, meant, have, .. } => {
                let tag = self.tag(Some((place, Caller::Sealer { node: from })));
                let home = &mut self.nodes.get_mut(&place).unwrap().home;
                let outputs = home.seal(tag, NodeId(from), meant, have, now);
                self.take_home(place, outputs)
            }
            Packet::Sealed { by, ring_epoch, first, lines, more, .. } => {
                let home = &mut self.nodes.get_mut(&place).unwrap().home;
                let outputs = home.sealed(NodeId(by), ring_epoch, first, lines, more, now);
                self.take_home(place, outputs)
            }
        }
    }

    pub(super) fn take_home(&mut self, at: u64, outputs: Vec<home::Output>) -> Vec<Packet> {
        let mut packets = Vec::new();
        for output in outputs {
            match output {
                home::Output::Forget { to, order } => packets.push(Packet::Forget { to: to.0, order }),
                home::Output::News(_) | home::Output::Gap | home::Output::Left { .. } => {}
                home::Output::Seal { to, ring_epoch } => {
                    let have = self.nodes[&at].home.has_lines_of(to.node);
                    let meant = Addressee { incarnation: to.incarnation, ring_epoch };
                    packets.push(Packet::Seal { from: at, to: to.node.0, meant, have });
                }
                home::Output::Answer { tag, answer } => {
                    packets.extend(self.callers.remove(&(at, tag)).map(|caller| caller.told(at, answer)));
                }
            }
        }
        packets
    }

    pub(super) fn take_copies(&mut self, at: u64, outputs: Vec<copy::Output>) -> Vec<Packet> {
        let mut packets = Vec::new();
        for output in outputs {
            match output {
                copy::Output::Ask { flight, home, key, .. } => {
                    let by = Incarnation(self.nodes[&at].incarnation);
                    let to = self.addressee(at, home);
                    packets.push(Packet::Read { from: at, by, flight, home, to, key });
                }
                copy::Output::Return { home, key, grant } => {
                    let written = self.nodes[&at].copies.returning(&key, grant, self.now(at));
                    let (to, written) = (self.addressee(at, home), written.flatten());
                    packets.push(Packet::Return { from: at, home, to, key, grant, written });
                }
                copy::Output::Answer { tag, value } => {
                    let told = value.map_or_else(|_| "ask again".to_owned(), |held| text(held.as_ref()));
                    self.told.insert(tag, told);
                }
            }
        }
        packets
    }
}

impl Caller {
    fn told(self, by: u64, answer: Answer) -> Packet {
        match (self, answer) {
            (Self::Sealer { node }, Answer::Sealed { ring_epoch, first, lines, more }) => {
                Packet::Sealed { to: node, by, ring_epoch, first, lines, more }
            }
            // Another process than the one meant; who asks goes on asking.
            (Self::Sealer { node }, answer) => Packet::Done { to: node, tag: 0, answer },
            (Self::Reader { node, flight }, answer) => Packet::Value { to: node, flight, answer },
            (Self::Writer { node, tag }, answer) => Packet::Done { to: node, tag, answer },
        }
    }
}

impl Packet {
    /// Where it goes.
    pub fn place(&self) -> u64 {
        match self {
            Self::Read { home, .. }
            | Self::Write { home, .. }
            | Self::Forgotten { home, .. }
            | Self::Renew { home, .. }
            | Self::Return { home, .. } => home.node.0,
            Self::Value { to, .. }
            | Self::Done { to, .. }
            | Self::Forget { to, .. }
            | Self::Renewed { to, .. }
            | Self::Returned { to, .. }
            | Self::Seal { to, .. }
            | Self::Sealed { to, .. } => *to,
        }
    }
}
