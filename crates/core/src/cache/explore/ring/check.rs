//! What is committed, as the home that serves shows it, and what must be true of everybody else.

use std::fmt::{self, Write};

use super::{Action, Seen, World};
use crate::cache::Version;
use crate::cache::explore::walk::{Chances, Model};
use crate::names::NodeId;

impl Model for World {
    type Action = Action;
    type Seen = Seen;

    fn actions(&self) -> Vec<Action> {
        Self::actions(self)
    }

    fn act(&mut self, action: &Action, seen: &mut Seen) {
        Self::act(self, *action, seen);
    }

    fn check(&self, seen: &mut Seen) {
        let serving: Vec<NodeId> = self.serving().collect();
        assert!(serving.len() <= 1, "{serving:?} serve the same key");
        seen.served += serving.len() as u64;
        seen.homes.extend(serving.iter().map(|node| node.0));
        let committed = self.history.last().copied().flatten();
        for (id, node) in &self.nodes {
            let Some(view) = node.copies.inspect(&self.key, self.now) else { continue };
            seen.hits += 1;
            assert_eq!(view.version, committed, "{id} reads what is not committed");
            let Some(of) = node.copies.home_of(&self.key) else { continue };
            let home = &self.nodes[&of.node].home;
            if home.tenure().origin() == of {
                let knows = home.sharers(&self.key).contains(id);
                assert!(knows, "{id} reads a copy, and its home {of:?} does not know");
            }
            let others = self.nodes.iter().filter(|(other, _)| *other != id);
            let readers = others.filter(|(_, n)| n.copies.inspect(&self.key, self.now).is_some()).count();
            assert!(view.state == 'S' || readers == 0, "{id} owns it and is not alone");
        }
    }

    fn tell(&self, action: &Action) -> String {
        match action {
            Action::Message(fate) => self.wire.tell(*fate),
            other => format!("{other:?}"),
        }
    }

    fn name(&self, into: &mut dyn Write) -> fmt::Result {
        write!(into, "{:?} {:?}", self.now, self.log)?;
        for (id, node) in &self.nodes {
            let (home, copies) = (node.home.uncounted(), node.copies.uncounted());
            let rest = (node.process, node.incarnation, node.retired, node.until);
            write!(into, "{id:?} {home:?} {copies:?} {rest:?}")?;
        }
        let since = self.reads.values().min().map(|at| self.history.get(*at..));
        let newest = self.history.iter().flatten().max();
        write!(into, "{:?} {newest:?} {since:?}", self.history.last())?;
        write!(into, "{:?} {:?}", self.callers, self.reads)
    }

    fn chances(&self) -> Chances {
        Chances { left: self.budget.left(), messages: self.wire.hashes() }
    }
}

impl World {
    fn serving(&self) -> impl Iterator<Item = NodeId> {
        let serves = |(id, node): (&NodeId, &super::Node)| {
            node.home.tenure().serves(&self.key, self.now).then_some(*id)
        };
        self.nodes.iter().filter_map(serves)
    }

    /// What the serving home shows is the last value, or that it is lost.
    pub(super) fn observe(&mut self, seen: &mut Seen) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.note_losses(id, seen);
        }
        let shown = self.serving().next().and_then(|id| {
            let home = &self.nodes[&id].home;
            home.read_own(&self.key, self.now).ok().map(|held| (id, held.map(|held| held.version)))
        });
        let last = self.history.last().copied().flatten();
        match shown {
            Some((_, None)) if last.is_some() => self.commits(None, seen),
            Some((id, Some(version))) => assert_eq!(Some(version), last, "{id} shows what is not committed"),
            _ => {}
        }
    }

    /// A home has given an owner up.
    pub(super) fn note_losses(&mut self, at: NodeId, seen: &mut Seen) {
        let lost = self.nodes[&at].home.stats().lost;
        if self.lost.insert(at, lost).unwrap_or(0) < lost {
            self.commits(None, seen);
        }
    }

    pub(super) fn commits(&mut self, version: Option<Version>, seen: &mut Seen) {
        if self.history.last() == Some(&version) {
            return;
        }
        let newest = self.history.iter().flatten().max();
        let grows = version.as_ref().is_none_or(|it| Some(it) > newest);
        assert!(grows, "{version:?} is written after {newest:?}");
        seen.missed += u64::from(version.is_none());
        self.history.push(version);
    }
}
