//! Messages between nodes and from the log, and what each sets off.

use super::{COUNTED, Seen, World};
use crate::cache::copy::{self, FlightId};
use crate::cache::home;
use crate::cache::message::{Addressee, Answer, Had, Moved, Order, Value, Wish, Write};
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

/// One start of a node: an answer goes to the process that asked, or to nobody.
pub(super) type Process = u64;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Packet {
    Read {
        from: NodeId,
        by: Process,
        home: Origin,
        to: Addressee,
        flight: FlightId,
    },
    Value {
        to: NodeId,
        flight: FlightId,
        value: Value,
    },
    /// The home refused.
    Failed {
        to: NodeId,
        flight: FlightId,
    },
    Write {
        to: NodeId,
        addressee: Addressee,
        write: Write,
    },
    Forget {
        to: NodeId,
        order: Order,
    },
    Forgotten {
        from: NodeId,
        home: Origin,
        seq: u64,
        had: Had,
    },
    Renew {
        from: NodeId,
        by: Process,
        home: Origin,
        to: Addressee,
        sent: Millis,
    },
    Renewed {
        to: NodeId,
        home: Origin,
        sent: Millis,
        lease: Millis,
    },
    Return {
        from: NodeId,
        home: Origin,
        grant: u64,
    },
    Returned {
        to: NodeId,
        grant: u64,
    },
    Seal {
        from: NodeId,
        by: Process,
        to: NodeId,
        meant: Addressee,
        have: u64,
    },
    Sealed {
        to: NodeId,
        by: NodeId,
        ring_epoch: u64,
        first: u64,
        lines: Vec<Moved>,
        more: bool,
    },
    Bequest {
        to: NodeId,
        from: Origin,
        ring_epoch: u64,
        lines: Vec<Moved>,
    },
    /// The log has taken a heartbeat.
    Heard {
        to: NodeId,
        incarnation: u64,
        ring_epoch: u64,
        sent: Millis,
    },
}

/// Who waits for an answer of a home.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Reader { node: NodeId, flight: FlightId },
    Writer,
    Sealer { node: NodeId },
    Flusher { node: NodeId },
}

impl Caller {
    pub(super) fn node(&self) -> NodeId {
        match self {
            Self::Reader { node, .. } | Self::Sealer { node } | Self::Flusher { node } => *node,
            Self::Writer => NodeId(0),
        }
    }
}

impl Packet {
    /// The process that would take it as an answer, or whose state says what it holds, is no more.
    pub(super) fn dies_with(&self, node: NodeId) -> bool {
        match self {
            Self::Value { to, .. }
            | Self::Failed { to, .. }
            | Self::Renewed { to, .. }
            | Self::Returned { to, .. }
            | Self::Sealed { to, .. }
            | Self::Heard { to, .. } => *to == node,
            Self::Return { from, .. } => *from == node,
            _ => false,
        }
    }
}

impl World {
    pub(super) fn deliver(&mut self, packet: Packet, seen: &mut Seen) {
        let now = self.now;
        match packet {
            Packet::Read { from, by, home, to, flight } => {
                let tag = self.asked(home.node, by, Caller::Reader { node: from, flight });
                let (key, wish) = (self.key.clone(), Wish::Own { process: Incarnation(by) });
                let machine = &mut self.nodes.get_mut(&home.node).unwrap().home;
                let outputs = machine.read(tag, from, to, &key, wish, now);
                self.take_home(home.node, outputs, seen);
            }
            Packet::Value { to, flight, value } => {
                let outputs = self.nodes.get_mut(&to).unwrap().copies.landed(flight, value, now);
                self.take_copies(to, outputs, seen);
            }
            Packet::Failed { to, flight } => {
                let outputs = self.nodes.get_mut(&to).unwrap().copies.failed(flight);
                self.take_copies(to, outputs, seen);
            }
            Packet::Write { to, addressee, write } => {
                let tag = self.asked(to, 0, Caller::Writer);
                let outputs = self.nodes.get_mut(&to).unwrap().home.write(tag, addressee, write, now);
                self.take_home(to, outputs, seen);
            }
            Packet::Forget { to, order } => {
                let had = self.nodes.get_mut(&to).unwrap().copies.forget(&order, now);
                self.wire.send(Packet::Forgotten { from: to, home: order.home, seq: order.seq, had });
            }
            Packet::Forgotten { from, home, seq, had } => {
                // A connection ends at the process that it was opened to.
                if self.nodes[&home.node].home.tenure().origin() == home {
                    let machine = &mut self.nodes.get_mut(&home.node).unwrap().home;
                    let outputs = machine.acknowledged(from, seq, had, now);
                    self.take_home(home.node, outputs, seen);
                }
            }
            Packet::Renew { from, by, home, to, sent } => {
                let machine = &mut self.nodes.get_mut(&home.node).unwrap().home;
                let answer = machine.renew(from, to, now);
                let Some(asker) = self.nodes.get_mut(&from).filter(|node| node.process == by) else { return };
                match answer {
                    Answer::Renewed { lease } => {
                        self.wire.send(Packet::Renewed { to: from, home, sent, lease });
                    }
                    _ => asker.copies.not_renewed(home),
                }
            }
            Packet::Renewed { to, home, sent, lease } => {
                self.nodes.get_mut(&to).unwrap().copies.renewed(home, sent, lease, now);
            }
            Packet::Return { from, home, grant } => {
                let Some(written) = self.nodes[&from].copies.returning(&self.key, grant, now) else { return };
                let (to, key) = (self.addressee(from, home), self.key.clone());
                let machine = &mut self.nodes.get_mut(&home.node).unwrap().home;
                let (_, outputs) = machine.returned(from, to, &key, grant, written, now);
                self.wire.send(Packet::Returned { to: from, grant });
                self.take_home(home.node, outputs, seen);
            }
            Packet::Returned { to, grant } => {
                let key = self.key.clone();
                self.nodes.get_mut(&to).unwrap().copies.returned(&key, grant);
            }
            Packet::Seal { from, by, to, meant, have } => {
                let tag = self.asked(to, by, Caller::Sealer { node: from });
                let machine = &mut self.nodes.get_mut(&to).unwrap().home;
                let outputs = machine.seal(tag, from, meant, have, now);
                self.take_home(to, outputs, seen);
            }
            Packet::Sealed { to, by, ring_epoch, first, lines, more } => {
                seen.moved += lines.len() as u64;
                let machine = &mut self.nodes.get_mut(&to).unwrap().home;
                let outputs = machine.sealed(by, ring_epoch, first, lines, more, now);
                self.take_home(to, outputs, seen);
            }
            Packet::Bequest { to, from, ring_epoch, lines } => {
                seen.moved += lines.len() as u64;
                self.nodes.get_mut(&to).unwrap().home.inherit(from, ring_epoch, lines, now);
            }
            Packet::Heard { to, incarnation, ring_epoch, sent } => {
                let node = self.nodes.get_mut(&to).unwrap();
                if node.incarnation == incarnation {
                    node.until = node.until.max(sent.plus(COUNTED));
                    let outputs = node.home.membership_renewed(sent.plus(COUNTED), ring_epoch, now);
                    self.take_home(to, outputs, seen);
                }
            }
        }
    }

    pub(super) fn take_home(&mut self, at: NodeId, outputs: Vec<home::Output>, seen: &mut Seen) {
        for output in outputs {
            match output {
                home::Output::Forget { to, order } => self.wire.send(Packet::Forget { to, order }),
                home::Output::Seal { to: Origin { node: to, incarnation }, ring_epoch } => {
                    let have = self.nodes[&at].home.has_lines_of(to);
                    let meant = Addressee { incarnation, ring_epoch };
                    let by = self.nodes[&at].process;
                    self.wire.send(Packet::Seal { from: at, by, to, meant, have });
                }
                home::Output::Answer { tag, answer } => {
                    if let Some(caller) = self.callers.remove(&(at, tag)) {
                        self.answered(at, caller, answer, seen);
                    }
                }
                home::Output::News(_) | home::Output::Gap | home::Output::Left { .. } => {}
            }
        }
        self.bequeath(at);
    }

    fn answered(&mut self, by: NodeId, caller: Caller, answer: Answer, seen: &mut Seen) {
        match (caller, answer) {
            (Caller::Reader { node, flight }, Answer::Value(value)) => {
                seen.owners += u64::from(value.grant.is_some());
                self.wire.send(Packet::Value { to: node, flight, value });
            }
            (Caller::Reader { node, flight }, _) => self.wire.send(Packet::Failed { to: node, flight }),
            (Caller::Sealer { node }, Answer::Sealed { ring_epoch, first, lines, more }) => {
                self.wire.send(Packet::Sealed { to: node, by, ring_epoch, first, lines, more });
            }
            (Caller::Writer, Answer::Written(Some(version))) => {
                self.note_losses(by, seen);
                seen.writes += 1;
                self.commits(Some(version), seen);
            }
            (Caller::Flusher { .. }, Answer::Flushed) => {
                seen.flushed += 1;
                if self.nodes[&by].home.tenure().serves(&self.key, self.now) {
                    self.commits(None, seen);
                }
            }
            _ => {}
        }
    }

    pub(super) fn take_copies(&mut self, node: NodeId, outputs: Vec<copy::Output>, seen: &mut Seen) {
        for output in outputs {
            match output {
                copy::Output::Ask { flight, home, .. } => {
                    let to = self.addressee(node, home);
                    let by = self.nodes[&node].process;
                    self.wire.send(Packet::Read { from: node, by, home, to, flight });
                }
                copy::Output::Return { home, grant, .. } => {
                    self.wire.send(Packet::Return { from: node, home, grant });
                }
                copy::Output::Answer { tag, value } => {
                    let Some(began) = self.reads.remove(&tag) else { continue };
                    let Ok(held) = value else { continue };
                    let returned = held.map(|held| held.version);
                    let allowed = &self.history[began..];
                    assert!(allowed.contains(&returned), "read {tag} returned {returned:?} of {allowed:?}");
                    seen.read_answers += 1;
                }
            }
        }
    }
}
