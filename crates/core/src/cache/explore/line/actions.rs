//! What may happen next to the nodes and their lines, and how often. It does nothing itself.

use super::{NODES, World};
use crate::cache::explore::walk::Fate;
use crate::names::NodeId;

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// Whether the namespace lets a sole reader own a line, to begin with.
    pub write_back: bool,
    /// Whether there is a second key.
    pub two_keys: bool,
    /// Whether only one of the nodes does anything.
    pub alone: bool,
    pub reads: u32,
    pub writes: u32,
    pub deletes: u32,
    pub renewals: u32,
    /// Looks at what is due, as a node does all the time.
    pub looks: u32,
    pub steps: u32,
    pub repeats: u32,
    pub restarts: u32,
    pub squeezes: u32,
    /// Writes by whoever owns the line.
    pub owned_writes: u32,
    /// Owners that give back what they own.
    pub returns: u32,
    pub flushes: u32,
    pub loads: u32,
    /// The namespace begins to let readers own lines, or ends it.
    pub turns: u32,
    /// The home lets a client of its own keep a copy.
    pub lends: u32,
}

impl Budget {
    /// How often each of them may still happen.
    pub(super) fn left(&self) -> Vec<u32> {
        let Self { reads, writes, deletes, renewals, looks, steps, repeats, restarts, .. } = *self;
        let Self { squeezes, owned_writes, returns, flushes, loads, turns, lends, .. } = *self;
        let nodes = [reads, owned_writes, returns, renewals, looks, restarts];
        let home = [writes, deletes, flushes, loads, lends, squeezes, turns];
        [&nodes[..], &home[..], &[steps, repeats]].concat()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Read(NodeId, usize),
    Write(usize),
    Delete,
    OwnedWrite(NodeId),
    GiveBack(NodeId),
    Flush,
    Load,
    /// Fills in under the oldest right that was handed out.
    Fill,
    Renew(NodeId),
    Look(NodeId),
    Step,
    Restart(NodeId),
    /// Another key needs the room.
    Squeeze,
    Turn,
    Lend,
    Message(Fate),
}

impl World {
    pub(super) fn actions(&self) -> Vec<Action> {
        let budget = &self.budget;
        let mut actions = Vec::new();
        let mut offer = |left: u32, action: Action| actions.extend((left > 0).then_some(action));
        for node in NODES.into_iter().take(if budget.alone { 1 } else { NODES.len() }) {
            (0..self.keys.len()).for_each(|key| offer(budget.reads, Action::Read(node, key)));
            offer(budget.renewals, Action::Renew(node));
            offer(budget.looks, Action::Look(node));
            offer(budget.restarts, Action::Restart(node));
            offer(budget.owned_writes, Action::OwnedWrite(node));
            offer(budget.returns, Action::GiveBack(node));
        }
        (0..self.keys.len()).for_each(|key| offer(budget.writes, Action::Write(key)));
        offer(budget.deletes, Action::Delete);
        offer(budget.steps, Action::Step);
        offer(budget.squeezes, Action::Squeeze);
        offer(budget.flushes, Action::Flush);
        offer(budget.loads, Action::Load);
        offer(budget.turns, Action::Turn);
        offer(budget.lends, Action::Lend);
        offer(u32::from(!self.fills.is_empty() && self.filling.is_none()), Action::Fill);
        actions.extend(self.wire.fates(budget.repeats > 0).into_iter().map(Action::Message));
        actions
    }

    /// It happens once less from now on.
    pub(super) fn spend(&mut self, action: Action) {
        let budget = &mut self.budget;
        let left = match action {
            Action::Read(..) => &mut budget.reads,
            Action::Write(_) => &mut budget.writes,
            Action::Delete => &mut budget.deletes,
            Action::OwnedWrite(_) => &mut budget.owned_writes,
            Action::GiveBack(_) => &mut budget.returns,
            Action::Flush => &mut budget.flushes,
            Action::Load => &mut budget.loads,
            Action::Renew(_) => &mut budget.renewals,
            Action::Look(_) => &mut budget.looks,
            Action::Step => &mut budget.steps,
            Action::Restart(_) => &mut budget.restarts,
            Action::Squeeze => &mut budget.squeezes,
            Action::Turn => &mut budget.turns,
            Action::Lend => &mut budget.lends,
            Action::Message(Fate::Repeat(_)) => &mut budget.repeats,
            Action::Fill | Action::Message(Fate::Deliver(_)) => return,
        };
        *left -= 1;
    }
}
