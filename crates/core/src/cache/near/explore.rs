//! Walks every order in which messages, lost messages, time and restarts can happen between a node and
//! two near clients over one key, within small bounds. In every state that it reaches, what a client
//! may read is what is committed.

use std::fmt;

use super::{ClientId, Limits, Near, Note, Output};
use crate::cache::explore::walk::{Fate, Model, Wire, exhaust};
use crate::cache::lease::{self, held_until};
use crate::cache::message::{Forget, Order};
use crate::cache::{Key, Tag};
use crate::names::{Incarnation, NodeId, Origin};
use crate::stamp::Millis;

const HOME: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
/// Two of these end a client's lease and not yet the node's wait for it; three end both.
const STEP: Millis = Millis(250);

#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    asks: u32,
    syncs: u32,
    writes: u32,
    steps: u32,
    repeats: u32,
    restarts: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Packet {
    Ask { client: usize, flight: u64, sent: Millis, of: ClientId },
    Value { client: usize, flight: u64, sent: Millis, version: u64, lease: Millis },
    Sync { client: usize, acked: u64, sent: Millis, of: ClientId },
    News { client: usize, of: ClientId, notes: Vec<Note>, lease: Option<Millis>, sent: Millis },
}

#[derive(Clone, Debug, Default)]
struct Client {
    id: ClientId,
    acked: u64,
    until: Millis,
    copy: Option<u64>,
    flight: Option<u64>,
}

impl Client {
    /// The lease goes on, or begins anew without what was held before.
    fn extend(&mut self, until: Millis, now: Millis) {
        if now >= self.until {
            self.copy = None;
        }
        self.until = self.until.max(until);
    }

    fn reads(&self, now: Millis) -> Option<u64> {
        self.copy.filter(|_| now < self.until)
    }
}

#[derive(Clone, Debug)]
struct World {
    now: Millis,
    near: Near,
    clients: [Client; 2],
    wire: Wire<Packet>,
    committed: u64,
    pending: Option<Tag>,
    next: u64,
    budget: Budget,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Ask(usize),
    Sync(usize),
    Write,
    /// The order is repeated, because its answer did not come.
    Again,
    Step,
    Restart,
    Message(Fate),
}

#[derive(Debug, Default)]
struct Seen {
    hits: u64,
    commits: u64,
    expiries: u64,
    unkept: u64,
}

impl World {
    fn new(budget: Budget) -> Self {
        let now = Millis(10_000);
        let mut near = Near::new(Limits::default(), Millis(0));
        let clients = [1, 2].map(|id| Client { id, ..Client::default() });
        clients.iter().for_each(|client| near.open(client.id, now).unwrap());
        Self { now, near, clients, wire: Wire::default(), committed: 1, pending: None, next: 10, budget }
    }

    fn key() -> Key {
        "k".into()
    }

    fn actions(&self) -> Vec<Action> {
        let b = &self.budget;
        let mut actions = Vec::new();
        let mut offer = |left: bool, action| actions.extend(left.then_some(action));
        for client in 0..2 {
            offer(b.asks > 0, Action::Ask(client));
            offer(b.syncs > 0, Action::Sync(client));
        }
        offer(b.writes > 0 && self.pending.is_none(), Action::Write);
        offer(b.repeats > 0 && self.pending.is_some(), Action::Again);
        offer(b.steps > 0, Action::Step);
        offer(b.restarts > 0, Action::Restart);
        actions.extend(self.wire.fates(b.repeats > 0).into_iter().map(Action::Message));
        actions
    }

    fn act(&mut self, action: Action, seen: &mut Seen) {
        self.next += 1;
        let (number, sent) = (self.next, self.now);
        match action {
            Action::Ask(client) => {
                self.budget.asks -= 1;
                let it = &mut self.clients[client];
                it.flight = Some(number);
                self.wire.send(Packet::Ask { client, flight: number, sent, of: it.id });
            }
            Action::Sync(client) => {
                self.budget.syncs -= 1;
                let Client { acked, id, .. } = self.clients[client];
                self.wire.send(Packet::Sync { client, acked, sent, of: id });
            }
            Action::Write => {
                self.budget.writes -= 1;
                self.pending = Some(number);
                self.forget(number, seen);
            }
            Action::Again => {
                self.budget.repeats -= 1;
                self.pending = Some(number);
                self.forget(number, seen);
            }
            Action::Step => {
                self.budget.steps -= 1;
                self.now = self.now.plus(STEP);
                let outputs = self.near.tick(self.now);
                seen.expiries = seen.expiries.max(self.near.stats().lease_expiries);
                self.take(outputs, seen);
            }
            Action::Restart => {
                self.budget.restarts -= 1;
                self.near = Near::new(Limits::default(), self.now);
                // Its home asks the new process again for what it waits for.
                if self.pending.is_some() {
                    self.pending = Some(number);
                    self.forget(number, seen);
                }
            }
            Action::Message(fate) => {
                self.budget.repeats -= u32::from(matches!(fate, Fate::Repeat(_)));
                let packet = self.wire.take(fate);
                self.deliver(packet, seen);
            }
        }
    }

    fn forget(&mut self, tag: Tag, seen: &mut Seen) {
        let order = Order { home: HOME, seq: 1, what: Forget::Copy { key: Self::key() }, moves: false };
        let outputs = self.near.forget(tag, &order, self.now);
        self.take(outputs, seen);
    }

    fn take(&mut self, outputs: Vec<Output>, seen: &mut Seen) {
        for output in outputs {
            // Answers to earlier sendings of an order are as good as the last one's.
            if matches!(output, Output::Forgotten(tag) if self.pending.is_some_and(|last| tag <= last)) {
                self.pending = None;
                self.committed += 1;
                seen.commits += 1;
            }
        }
    }

    fn deliver(&mut self, packet: Packet, seen: &mut Seen) {
        match packet {
            Packet::Ask { client, flight, sent, of } => {
                // While a change is pending nobody may keep anything.
                let lent = self.pending.is_none();
                let lease = lent.then(|| self.near.keep(of, &Self::key(), HOME, lease::LEASE, self.now));
                if let Some(Ok(Some(lease))) = lease {
                    let version = self.committed;
                    self.wire.send(Packet::Value { client, flight, sent, version, lease });
                }
            }
            Packet::Value { client, flight, sent, version, lease } => {
                let (now, it) = (self.now, &mut self.clients[client]);
                let until = held_until(sent, lease);
                if it.flight.take_if(|own| *own == flight).is_some() && now < until {
                    it.extend(until, now);
                    it.copy = Some(version);
                } else {
                    seen.unkept += 1;
                }
            }
            Packet::Sync { client, acked, sent, of } => {
                let Ok(outputs) = self.near.acknowledged(of, acked, self.now) else { return };
                let leases = self.near.renew(of, |_| Some(lease::LEASE), self.now).unwrap();
                let lease = leases.first().map(|(_, lease)| *lease);
                let notes = self.near.notes(of).unwrap();
                self.wire.send(Packet::News { client, of, notes, lease, sent });
                self.take(outputs, seen);
            }
            Packet::News { client, of, notes, lease, sent } => {
                let (now, it) = (self.now, &mut self.clients[client]);
                if it.id != of {
                    return;
                }
                for note in notes {
                    if note.seq > it.acked {
                        (it.copy, it.flight, it.acked) = (None, None, note.seq);
                    }
                }
                if let Some(lease) = lease {
                    it.extend(held_until(sent, lease), now);
                }
            }
        }
    }

    fn check(&self, seen: &mut Seen) {
        for client in &self.clients {
            if let Some(read) = client.reads(self.now) {
                seen.hits += 1;
                assert_eq!(read, self.committed, "a near client reads what is not committed: {client:?}");
            }
        }
    }
}

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
        Self::check(self, seen);
    }

    fn tell(&self, action: &Action) -> String {
        match action {
            Action::Message(fate) => self.wire.tell(*fate),
            other => format!("{other:?}"),
        }
    }

    fn name(&self, into: &mut dyn fmt::Write) -> fmt::Result {
        let near = Near { stats: super::Stats::default(), ..self.near.clone() };
        let rest = (self.now, &self.clients, self.committed, self.pending, &self.budget);
        write!(into, "{near:?} {rest:?}")?;
        self.wire.name(into)
    }
}

fn explore(budget: Budget) -> Seen {
    exhaust(&World::new(budget))
}

const NONE: Budget = Budget { asks: 0, syncs: 0, writes: 0, steps: 0, repeats: 0, restarts: 0 };

#[test]
fn no_order_of_messages_and_lease_ends_lets_a_near_client_read_an_old_value() {
    let seen = explore(Budget { asks: 2, writes: 1, steps: 3, ..NONE });
    assert!(seen.hits > 0 && seen.commits > 0 && seen.expiries > 0 && seen.unkept > 0, "{seen:?}");
}

#[test]
fn a_near_client_that_syncs_at_any_moment_reads_no_old_value() {
    let seen = explore(Budget { asks: 1, syncs: 2, writes: 1, steps: 1, ..NONE });
    assert!(seen.hits > 0 && seen.commits > 0, "{seen:?}");
}

#[test]
fn repeated_orders_and_messages_let_no_near_client_read_an_old_value() {
    let seen = explore(Budget { asks: 2, syncs: 1, writes: 1, repeats: 1, ..NONE });
    assert!(seen.hits > 0 && seen.commits > 0, "{seen:?}");
}

#[test]
fn a_restarted_node_answers_for_the_near_clients_of_its_former_process() {
    let seen = explore(Budget { asks: 1, writes: 1, steps: 3, restarts: 1, ..NONE });
    assert!(seen.hits > 0 && seen.commits > 0, "{seen:?}");
}

/// Longer than the others together: `cargo test --release -p lockstep-core explore -- --include-ignored`.
#[test]
#[ignore = "takes a minute"]
fn wider_bounds_let_no_near_client_read_an_old_value_either() {
    explore(Budget { asks: 2, syncs: 1, writes: 1, steps: 3, ..NONE });
    explore(Budget { asks: 1, syncs: 2, writes: 1, steps: 3, ..NONE });
    explore(Budget { asks: 2, writes: 1, steps: 3, restarts: 1, ..NONE });
}
