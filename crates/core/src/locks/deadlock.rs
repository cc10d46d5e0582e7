//! Cycles of waits: whether a wait that was just queued can never end.
//!
//! Somebody who waits for nothing is assumed to leave some day. From there it follows who can go on:
//! a waiter once everybody in its way can (holders, and whoever is ahead in a queue), a waiter for a
//! permit once *any* holder can. Who is left over is stuck; if a path of stuck waits leads from the
//! newcomer back to itself, it closes a cycle. (The wait-for graph with AND and OR nodes of Knapp,
//! "Deadlock detection in distributed databases", 1987.) It never looks at time: a lease that will
//! end does not count as leaving.

use std::collections::{BTreeMap, VecDeque};

use super::{Locks, Waiter};
use crate::command::{Holder, Mode};
use crate::names::{LockName, Owner, Ticket};

/// The largest part of the graph that is looked at; beyond it a cycle ends by its time-outs.
const NODES_MAX: usize = 50_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node<'a> {
    /// Gets everything it waits for, and can leave.
    Leaves(&'a Holder),
    /// Is granted.
    Granted(Ticket),
    /// Every holder of the lock leaves.
    Free(&'a LockName),
    /// Some holder of the lock leaves.
    Permit(&'a LockName),
}

/// What a node needs: all of it, but for [`Node::Permit`], which needs any.
type Needs<'a> = Vec<(Node<'a>, Option<&'a LockName>)>;

impl Locks {
    /// The cycle that `ticket`, which was just queued, closes: who waits for which lock.
    pub(super) fn cycle(&self, ticket: Ticket) -> Option<Vec<(Owner, LockName)>> {
        let holder = &self.waiter(ticket)?.want.holder;
        let person = self.people.get(holder)?;
        // Nobody can wait for somebody who holds nothing and has just come.
        if person.claims == 0 && person.tickets.len() == 1 {
            return None;
        }
        let graph = Graph::from(self, Node::Granted(ticket))?;
        graph.path_to(Node::Leaves(holder), &graph.stuck(), self)
    }

    fn needs<'a>(&'a self, node: Node<'a>) -> Needs<'a> {
        match node {
            Node::Leaves(holder) => {
                let tickets = self.people.get(holder).into_iter().flat_map(|person| &person.tickets);
                tickets.map(|ticket| (Node::Granted(*ticket), None)).collect()
            }
            Node::Granted(ticket) => match self.waiter(ticket) {
                Some(waiter) => self.needs_of(ticket, waiter),
                None => Vec::new(),
            },
            Node::Free(name) | Node::Permit(name) => {
                let holders = self.locks.get(name).into_iter().flat_map(|lock| lock.holders.keys());
                holders.map(|holder| (Node::Leaves(holder), None)).collect()
            }
        }
    }

    fn needs_of<'a>(&'a self, ticket: Ticket, waiter: &'a Waiter) -> Needs<'a> {
        let want = &waiter.want;
        let mut needs = Needs::new();
        for name in &want.names {
            let Some(lock) = self.locks.get(name) else { continue };
            if waiter.upgrade {
                let others = lock.holders.keys().filter(|holder| **holder != want.holder);
                needs.extend(others.map(|holder| (Node::Leaves(holder), Some(name))));
                continue;
            }
            if let Some(ahead) = self.ahead(lock, Some(waiter.place(ticket)), &want.holder)
                && let Some(other) = self.waiter(ahead)
            {
                // Neighbours of one kind are granted together; others have to come and go.
                let together = other.want.mode == want.mode && want.mode != Mode::Exclusive;
                let node = if together { Node::Granted(ahead) } else { Node::Leaves(&other.want.holder) };
                needs.push((node, Some(name)));
            }
            match lock.holders.values().next().map(|hold| hold.mode) {
                None => {}
                Some(_) if lock.admits(want.mode, want.limit) => {}
                Some(Mode::Permit) if want.mode == Mode::Permit => {
                    needs.push((Node::Permit(name), Some(name)));
                }
                Some(_) => needs.push((Node::Free(name), Some(name))),
            }
        }
        needs
    }
}

/// Everything that the first node may depend on.
struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    needs: Vec<Vec<(usize, Option<&'a LockName>)>>,
}

impl<'a> Graph<'a> {
    /// Everything that can be reached from `first`; `None` if that is too much.
    fn from(locks: &'a Locks, first: Node<'a>) -> Option<Self> {
        let mut graph = Self { nodes: vec![first], needs: Vec::new() };
        let mut known = BTreeMap::from([(first, 0)]);
        while let Some(node) = graph.nodes.get(graph.needs.len()) {
            let mut edges = Vec::new();
            for (needed, label) in locks.needs(*node) {
                let place = *known.entry(needed).or_insert_with(|| {
                    graph.nodes.push(needed);
                    graph.nodes.len() - 1
                });
                edges.push((place, label));
            }
            graph.needs.push(edges);
            if graph.nodes.len() > NODES_MAX {
                return None;
            }
        }
        Some(graph)
    }

    /// Which nodes can never come about, though everybody leaves who waits for nothing.
    fn stuck(&self) -> Vec<bool> {
        let mut missing: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut feeds = vec![Vec::new(); self.nodes.len()];
        for (place, needs) in self.needs.iter().enumerate() {
            let any = matches!(self.nodes[place], Node::Permit(_));
            missing.push(if any { needs.len().min(1) } else { needs.len() });
            needs.iter().for_each(|(needed, _)| feeds[*needed].push(place));
        }
        let mut stuck = vec![true; self.nodes.len()];
        let mut coming: Vec<usize> = (0..missing.len()).filter(|place| missing[*place] == 0).collect();
        while let Some(place) = coming.pop() {
            if !std::mem::replace(&mut stuck[place], false) {
                continue;
            }
            for fed in &feeds[place] {
                missing[*fed] = missing[*fed].saturating_sub(1);
                if missing[*fed] == 0 {
                    coming.push(*fed);
                }
            }
        }
        stuck
    }

    /// The shortest way through stuck nodes from the first one to `goal`.
    fn path_to(&self, goal: Node<'a>, stuck: &[bool], locks: &Locks) -> Option<Vec<(Owner, LockName)>> {
        let mut came_from: Vec<Option<(usize, Option<&LockName>)>> = vec![None; self.nodes.len()];
        let mut ahead = VecDeque::from([0]);
        let mut end = None;
        while let Some(place) = ahead.pop_front() {
            if self.nodes[place] == goal {
                end = Some(place);
                break;
            }
            for (needed, label) in &self.needs[place] {
                if stuck[*needed] && *needed != 0 && came_from[*needed].is_none() {
                    came_from[*needed] = Some((place, *label));
                    ahead.push_back(*needed);
                }
            }
        }
        let mut cycle = Vec::new();
        let mut place = end?;
        while let Some((before, label)) = came_from[place] {
            if let (Node::Granted(ticket), Some(name)) = (self.nodes[before], label)
                && let Some(waiter) = locks.waiter(ticket)
            {
                cycle.push((waiter.want.holder.owner.clone(), name.clone()));
            }
            place = before;
        }
        cycle.reverse();
        Some(cycle)
    }
}
