//! Messages between the home and the nodes, and what each sets off.

use super::{HOME, Seen, TO, World};
use crate::cache::Tag;
use crate::cache::copy::{self, FlightId};
use crate::cache::home;
use crate::cache::message::{Answer, Forget, Had, Order, Value, Wish};
use crate::names::{Incarnation, NodeId};
use crate::stamp::Millis;

/// A message about one of the keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Packet {
    Read { from: NodeId, by: Incarnation, flight: FlightId, key: usize },
    Value { to: NodeId, flight: FlightId, key: usize, value: Value },
    Forget { to: NodeId, order: Order },
    Forgotten { from: NodeId, seq: u64, had: Had, recall: bool },
    Renew { from: NodeId, sent: Millis },
    Renewed { to: NodeId, sent: Millis, lease: Millis },
    Return { from: NodeId, grant: u64 },
    Returned { to: NodeId, grant: u64 },
}

impl Packet {
    /// The process that would send it, or take it as an answer, is no more.
    pub(super) fn dies_with(&self, node: NodeId) -> bool {
        match self {
            Self::Value { to, .. } | Self::Renewed { to, .. } | Self::Returned { to, .. } => *to == node,
            Self::Renew { from, .. } | Self::Return { from, .. } => *from == node,
            // A read may be on its way still.
            Self::Read { .. } | Self::Forget { .. } | Self::Forgotten { .. } => false,
        }
    }
}

impl World {
    pub(super) fn deliver(&mut self, packet: Packet, seen: &mut Seen) {
        match packet {
            Packet::Read { from, by, flight, key } => {
                let tag = self.tag();
                self.asked.insert(tag, (from, by, flight, key));
                let wish = Wish::Own { process: by };
                let outputs = self.home.read(tag, from, TO, &self.keys[key], wish, self.now);
                self.take_home(outputs, seen);
            }
            Packet::Value { to, flight, key, value } => {
                let copies = self.nodes.get_mut(&to).unwrap();
                let outputs = copies.landed(flight, value, self.now);
                seen.unkept += u64::from(copies.lookup(&self.keys[key], self.now).is_none());
                seen.read_answers += outputs.len() as u64;
                self.take_copies(to, outputs);
            }
            Packet::Forget { to, order } if to == HOME.node => {
                self.lent = None;
                let (had, recall) = (Had::Nothing, false);
                self.wire.send(Packet::Forgotten { from: to, seq: order.seq, had, recall });
            }
            Packet::Forget { to, order } => {
                let had = self.nodes.get_mut(&to).unwrap().forget(&order, self.now);
                let recall = matches!(order.what, Forget::Owned { .. });
                self.wire.send(Packet::Forgotten { from: to, seq: order.seq, had, recall });
            }
            Packet::Forgotten { from, seq, had, .. } => {
                let outputs = self.home.acknowledged(from, seq, had, self.now);
                self.take_home(outputs, seen);
            }
            Packet::Renew { from, sent } => match self.home.renew(from, TO, self.now) {
                Answer::Renewed { lease } => self.wire.send(Packet::Renewed { to: from, sent, lease }),
                _ => self.nodes.get_mut(&from).unwrap().not_renewed(HOME),
            },
            Packet::Renewed { to, sent, lease } => {
                self.nodes.get_mut(&to).unwrap().renewed(HOME, sent, lease, self.now);
            }
            Packet::Return { from, grant } => {
                let written = self.nodes[&from].returning(&self.keys[0], grant, self.now);
                let Some(written) = written else { return };
                let key = self.keys[0].clone();
                let (_, outputs) = self.home.returned(from, TO, &key, grant, written, self.now);
                self.wire.send(Packet::Returned { to: from, grant });
                self.take_home(outputs, seen);
            }
            Packet::Returned { to, grant } => {
                let key = self.keys[0].clone();
                self.nodes.get_mut(&to).unwrap().returned(&key, grant);
            }
        }
    }

    pub(super) fn take_home(&mut self, outputs: Vec<home::Output>, seen: &mut Seen) {
        for output in outputs {
            match output {
                home::Output::Forget { to, order } if self.is_ours(&order) => {
                    self.wire.send(Packet::Forget { to, order });
                }
                home::Output::Answer { tag, answer } => self.take_answer(tag, answer, seen),
                _ => {}
            }
        }
    }

    fn is_ours(&self, order: &Order) -> bool {
        match &order.what {
            Forget::Copy { key } | Forget::Owned { key, .. } => self.keys.contains(key),
            Forget::Namespace { .. } => true,
        }
    }

    fn take_answer(&mut self, tag: Tag, answer: Answer, seen: &mut Seen) {
        // One step may commit one after the other, with reads in between.
        if let Some((key, is_set)) = self.changes.remove(&tag)
            && let Answer::Written(version) = answer
        {
            self.note_losses();
            self.commits(key, version.filter(|_| is_set));
            if !is_set {
                self.end_fills();
            }
        }
        if answer == Answer::Flushed {
            (0..self.keys.len()).for_each(|key| self.commits(key, None));
            self.end_fills();
        }
        if let Answer::Fill { token, .. } = answer {
            self.fills.push((token, usize::MAX, false));
        }
        if let Some((_, since, is_over)) = self.filling.take_if(|(filling, ..)| *filling == tag) {
            let is_done = matches!(answer, Answer::Written(_));
            seen.filled += u64::from(is_done);
            seen.void += u64::from(!is_done);
            let between = &self.history[0][since..];
            assert!(!is_done || between.is_empty(), "filled in over {between:?}");
            assert!(!is_done || !is_over, "filled in after a delete or a flush had been answered");
        }
        if let (Answer::Value(value), Some((to, by, flight, key))) = (answer, self.asked.remove(&tag)) {
            seen.owners += u64::from(value.grant.is_some());
            // The same step may have evicted the line, before it was read and written again.
            if value.held.is_none() && self.home.stats().evictions > self.evicted {
                self.commits(key, None);
            }
            if self.nodes[&to].process() == Some(by) {
                self.wire.send(Packet::Value { to, flight, key, value });
            }
        }
    }

    /// Somebody has said that nothing is to be there.
    fn end_fills(&mut self) {
        self.fills.iter_mut().for_each(|(_, _, is_over)| *is_over = true);
        self.filling.iter_mut().for_each(|(_, _, is_over)| *is_over = true);
    }

    pub(super) fn take_copies(&mut self, node: NodeId, outputs: Vec<copy::Output>) {
        for output in outputs {
            match output {
                copy::Output::Ask { flight, key, .. } => {
                    let key = self.keys.iter().position(|of| *of == key).expect("one of ours");
                    let by = self.nodes[&node].process().expect("it is a member");
                    self.wire.send(Packet::Read { from: node, by, flight, key });
                }
                copy::Output::Return { grant, .. } => self.wire.send(Packet::Return { from: node, grant }),
                copy::Output::Answer { tag, value } => {
                    let returned = value.expect("nothing fails here").map(|held| held.version);
                    let Some((key, began)) = self.reads.remove(&tag) else { continue };
                    let allowed = &self.history[key][began..];
                    assert!(allowed.contains(&returned), "read {tag} returned {returned:?} of {allowed:?}");
                }
            }
        }
    }
}
