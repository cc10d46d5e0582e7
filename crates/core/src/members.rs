//! Who is alive: membership leases in log time, and the ring's epoch.
//!
//! It decides nothing about placement; `ring.rs` does, from the members listed here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{Effect, Member, MemberOp, Refusal, Reply};
use crate::context::Context;
use crate::deadlines::Deadlines;
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

/// The live members of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    ring_epoch: u64,
    live: BTreeMap<NodeId, Member>,
    /// The newest incarnation of each node whose lease has ended: it and older ones are over.
    over: BTreeMap<NodeId, Incarnation>,
    leases: Deadlines<NodeId>,
}

impl Members {
    /// Applies one command. A process whose lease ends by it is added to `ended`.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &MemberOp, ended: &mut Vec<Origin>) -> Reply {
        match op {
            MemberOp::Heartbeat { origin, url, lease } => {
                let member = Member {
                    node: origin.node,
                    incarnation: origin.incarnation,
                    url: url.clone(),
                    since_epoch: 0,
                };
                self.heartbeat(ctx, member, *lease)
            }
            MemberOp::Leave { origin } => self.leave(ctx, *origin, ended),
        }
    }

    /// Ends every lease that is due by `now`.
    pub fn expire(&mut self, now: Millis, effects: &mut Vec<Effect>, ended: &mut Vec<Origin>) {
        while let Some(node) = self.leases.pop_due(now) {
            self.end(node, effects, ended);
        }
    }

    /// When the first lease ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.leases.next()
    }

    /// How often the set of live members has changed.
    pub fn ring_epoch(&self) -> u64 {
        self.ring_epoch
    }

    /// In order of their ids.
    pub fn live(&self) -> impl Iterator<Item = &Member> {
        self.live.values()
    }

    fn heartbeat(&mut self, ctx: &mut Context<'_>, member: Member, lease: Millis) -> Reply {
        let (node, incarnation) = (member.node, member.incarnation);
        if self.over.get(&node).is_some_and(|over| incarnation <= *over) {
            return Reply::Refused(Refusal::IncarnationOver);
        }
        match self.live.get_mut(&node) {
            Some(live) if live.incarnation == incarnation => live.url = member.url,
            Some(live) if live.incarnation > incarnation => {
                return Reply::Refused(Refusal::IncarnationOver);
            }
            Some(_) => {
                let left = self.leases.at(&node).unwrap_or(ctx.now).since(ctx.now);
                return Reply::Refused(Refusal::FormerIncarnation { left });
            }
            None => {
                let since_epoch = self.bump(ctx.effects);
                self.live.insert(node, Member { since_epoch, ..member });
            }
        }
        self.leases.set(node, ctx.now.plus(lease));
        Reply::Member { ring_epoch: self.ring_epoch }
    }

    fn leave(&mut self, ctx: &mut Context<'_>, origin: Origin, ended: &mut Vec<Origin>) -> Reply {
        let lives = self.live.get(&origin.node).is_some_and(|live| live.incarnation == origin.incarnation);
        if !lives {
            return Reply::Refused(Refusal::IncarnationOver);
        }
        self.leases.remove(&origin.node);
        self.end(origin.node, ctx.effects, ended);
        Reply::Member { ring_epoch: self.ring_epoch }
    }

    fn end(&mut self, node: NodeId, effects: &mut Vec<Effect>, ended: &mut Vec<Origin>) {
        if let Some(member) = self.live.remove(&node) {
            self.over.insert(node, member.incarnation);
            ended.push(Origin { node, incarnation: member.incarnation });
            self.bump(effects);
        }
    }

    fn bump(&mut self, effects: &mut Vec<Effect>) -> u64 {
        self.ring_epoch += 1;
        effects.push(Effect::RingChanged { epoch: self.ring_epoch });
        self.ring_epoch
    }
}
