//! What may happen next to members, their homes and a line, and how often. It does nothing itself.

use super::World;
use crate::cache::explore::walk::Fate;
use crate::names::NodeId;

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// Whether a sole reader owns the line.
    pub write_back: bool,
    pub reads: u32,
    pub writes: u32,
    pub steps: u32,
    pub heartbeats: u32,
    pub renewals: u32,
    /// Looks at what is due, as a node does all the time.
    pub looks: u32,
    pub joins: u32,
    pub drops: u32,
    pub leaves: u32,
    pub crashes: u32,
    pub flushes: u32,
    pub repeats: u32,
}

impl Budget {
    /// How often each of them may still happen.
    pub(super) fn left(&self) -> Vec<u32> {
        let Self { write_back: _, reads, writes, steps, heartbeats, renewals, looks, .. } = *self;
        let Self { joins, drops, leaves, crashes, flushes, repeats, .. } = *self;
        vec![
            reads, writes, steps, heartbeats, renewals, looks, joins, drops, leaves, crashes, flushes,
            repeats,
        ]
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Read(NodeId),
    Write(NodeId),
    Flush(NodeId),
    Renew(NodeId),
    Look(NodeId),
    Step,
    /// Asks the log to go on with its membership.
    Heartbeat(NodeId),
    /// The log takes it in: a newcomer, or one that had been dropped.
    Join(NodeId),
    /// The log drops it: its membership has ended.
    Drop(NodeId),
    /// It begins to leave.
    Retire(NodeId),
    /// It has left.
    Leave(NodeId),
    /// It hears of the newest ring.
    Show(NodeId),
    /// A new process, which is not a member yet.
    Restart(NodeId),
    Message(Fate),
}

impl World {
    pub(super) fn actions(&self) -> Vec<Action> {
        let budget = &self.budget;
        let mut actions = Vec::new();
        let mut offer = |may: bool, action: Action| actions.extend(may.then_some(action));
        for (id, node) in &self.nodes {
            let member = self.log.members.get(id);
            let is_member = member.is_some_and(|(of, ..)| *of == node.incarnation);
            let is_over = member.is_some_and(|(.., until)| self.now >= *until);
            let knows = node.home.tenure().ring_epoch();
            let is_alone = self.log.members.len() == 1;
            offer(budget.reads > 0 && knows > 0, Action::Read(*id));
            offer(budget.writes > 0 && knows > 0, Action::Write(*id));
            offer(budget.flushes > 0 && knows > 0, Action::Flush(*id));
            offer(budget.renewals > 0 && knows > 0, Action::Renew(*id));
            offer(budget.looks > 0, Action::Look(*id));
            offer(budget.heartbeats > 0 && is_member && !is_over && !node.retired, Action::Heartbeat(*id));
            offer(budget.joins > 0 && member.is_none() && !node.retired, Action::Join(*id));
            offer(budget.drops > 0 && is_over && !is_alone, Action::Drop(*id));
            offer(budget.leaves > 0 && is_member && !node.retired && !is_alone, Action::Retire(*id));
            let has_left = node.retired && node.home.has_left() && node.copies.owns_nothing();
            offer(is_member && has_left && !is_alone, Action::Leave(*id));
            offer(knows < self.log.ring_epoch, Action::Show(*id));
            offer(budget.crashes > 0, Action::Restart(*id));
        }
        offer(budget.steps > 0, Action::Step);
        actions.extend(self.wire.fates(budget.repeats > 0).into_iter().map(Action::Message));
        actions
    }

    /// It happens once less from now on.
    pub(super) fn spend(&mut self, action: Action) {
        let budget = &mut self.budget;
        let left = match action {
            Action::Read(_) => &mut budget.reads,
            Action::Write(_) => &mut budget.writes,
            Action::Flush(_) => &mut budget.flushes,
            Action::Renew(_) => &mut budget.renewals,
            Action::Look(_) => &mut budget.looks,
            Action::Step => &mut budget.steps,
            Action::Heartbeat(_) => &mut budget.heartbeats,
            Action::Join(_) => &mut budget.joins,
            Action::Drop(_) => &mut budget.drops,
            Action::Retire(_) => &mut budget.leaves,
            Action::Restart(_) => &mut budget.crashes,
            Action::Message(Fate::Repeat(_)) => &mut budget.repeats,
            Action::Leave(_) | Action::Show(_) | Action::Message(Fate::Deliver(_)) => return,
        };
        *left -= 1;
    }
}
