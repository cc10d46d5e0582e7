//! What is committed, and what must be true of everybody who can read it.

use std::fmt::{self, Write};

use super::packets::Packet;
use super::{Action, HOME, Seen, World};
use crate::cache::Version;
use crate::cache::explore::walk::{Chances, Model};
use crate::cache::message::{Had, Held};

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
        (0..self.keys.len()).for_each(|key| self.check_key(key, seen));
        seen.lost = seen.lost.max(self.home.stats().lost);
    }

    fn tell(&self, action: &Action) -> String {
        match action {
            Action::Message(fate) => self.wire.tell(*fate),
            other => format!("{other:?}"),
        }
    }

    fn name(&self, into: &mut dyn Write) -> fmt::Result {
        write!(into, "{:?} {:?} {:?}", self.now, self.home.uncounted(), self.spaces)?;
        for (node, copies) in &self.nodes {
            write!(into, "{node:?} {:?}", copies.uncounted())?;
        }
        for (key, history) in self.history.iter().enumerate() {
            let reads = self.reads.values().filter(|(of, _)| *of == key).map(|(_, since)| *since);
            let fills = self.fills.iter().filter(|_| key == 0).map(|(_, since, _)| *since);
            let filling = self.filling.iter().filter(|_| key == 0).map(|(_, since, _)| *since);
            let since = reads.chain(fills).chain(filling).min();
            write!(into, "{:?} {:?}", history.last(), since.map(|at| history.get(at..)))?;
        }
        let waits = (&self.reads, &self.asked, &self.fills, self.filling, &self.changes, self.lent);
        write!(into, "{waits:?}")?;
        // An answer to a recall that is on its way says what is committed.
        self.wire.name(into)
    }

    fn chances(&self) -> Chances {
        Chances { left: self.budget.left(), messages: Vec::new() }
    }
}

impl World {
    /// What is committed: at the owner, on its way back from there, or at the home.
    pub(super) fn committed(&self, key: usize) -> Option<Version> {
        let key = &self.keys[key];
        let raw = self.home.raw(key, self.now).map(|held| held.version);
        let Some((owner, grant, process)) = self.home.owner(key) else { return raw };
        let back = self.wire.iter().find_map(|packet| match packet {
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
        match copies.written(key, grant, self.now) {
            Some(held) => live(&held).flatten(),
            None => raw,
        }
    }

    fn check_key(&self, key: usize, seen: &mut Seen) {
        let committed = self.committed(key);
        let name = &self.keys[key];
        let sharers = self.home.sharers(name);
        if let Ok(held) = self.home.read_own(name, self.now) {
            assert_eq!(held.map(|held| held.version), committed, "the home reads what is not committed");
        }
        let views: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|(node, copies)| copies.inspect(name, self.now).map(|view| (*node, view)))
            .collect();
        seen.readers = seen.readers.max(views.len());
        for (node, view) in &views {
            seen.hits += 1;
            assert_eq!(view.version, committed, "{node} reads what is not committed");
            assert!(sharers.contains(node), "{node} reads a copy and is not in the directory");
            assert!(view.state == 'S' || views.len() == 1, "{node} owns it and {views:?} read it");
        }
        if let Some((lent, until)) = self.lent.filter(|(_, until)| key == 0 && self.now < *until) {
            seen.lent_hits += 1;
            assert_eq!(lent, committed, "a client of the home reads what is not committed, until {until}");
            assert!(sharers.contains(&HOME.node), "a client of the home is not in the directory");
            assert!(views.iter().all(|(_, view)| view.state == 'S'), "{views:?} beside a client of the home");
        }
    }
}

/// The version, unless what came back is that there is none.
fn live(held: &Held) -> Option<Option<Version>> {
    Some((held.left != Some(crate::stamp::Millis(0))).then_some(held.version))
}
