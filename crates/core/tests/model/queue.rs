//! Queues as one list that is searched from the front.

use lockstep_core::Millis;
use lockstep_core::command::{Delivered, NewMessage, Placed, QueueOp, Refusal, Reply};
use lockstep_core::names::{MessageId, MessageKey, QueueName, Receipt, SessionId};
use lockstep_core::queue::Totals;

/// After so many failures a message of any queue moves to that queue's `.dead`.
pub const MAX_ATTEMPTS: u32 = 2;

#[derive(Default)]
pub struct Queue {
    /// In the order of their ids.
    messages: Vec<Message>,
    remembered: Vec<(QueueName, Option<MessageKey>, String, u64)>,
    /// What has become of messages of the first queue; dead ones counted apart.
    pub totals: Totals,
    ended: Vec<SessionId>,
}

struct Message {
    id: u64,
    /// Where it is, and where it came from if it is dead.
    queue: QueueName,
    origin: Option<QueueName>,
    new: NewMessage,
    attempts: u32,
    failures: u32,
    /// Hidden until then; a delivery's number if it is in flight.
    until: u64,
    delivery: u64,
    /// How long a heartbeat of its session hides it anew.
    visibility: u64,
    session: Option<SessionId>,
    /// Gone by then, unless in flight.
    expires: u64,
}

impl Queue {
    pub fn ids(&self) -> Vec<u64> {
        self.messages.iter().map(|message| message.id).collect()
    }

    /// How many messages are in the queue, in whatever state.
    pub fn waiting(&self, queue: &str) -> u64 {
        self.messages.iter().filter(|message| &*message.queue.0 == queue).count() as u64
    }

    /// What the reply should be. Ids and deliveries are the machine's to choose: they come from `real`.
    pub fn apply(&mut self, now: u64, op: &QueueOp, real: &Reply) -> Reply {
        self.pass(now);
        match op {
            QueueOp::Push { queue, messages } => {
                let Reply::Pushed(placed) = real else { panic!("{real:?}") };
                Reply::Pushed(vec![self.push(now, queue, &messages[0], placed[0].as_ref().map(|p| p.id.0))])
            }
            QueueOp::Pop { queue } => Reply::Popped(self.first(queue).map(|at| {
                let mut message = self.messages.remove(at);
                self.totals.delivered += 1;
                message.attempts += 1;
                delivered(&message, 0, 0)
            })),
            QueueOp::Receive { session: Some(of), .. } if self.ended.contains(&of.session) => {
                Reply::Refused(Refusal::SessionExpired)
            }
            QueueOp::Receive { queue, max, visibility, session } => {
                let Reply::Received(real) = real else { panic!("{real:?}") };
                let visibility = visibility.map_or(30_000, |ms| ms.0);
                let mut received = Vec::new();
                while received.len() < *max as usize {
                    let Some(at) = self.first(queue) else { break };
                    let number = real.get(received.len()).map_or(0, |one| one.delivery);
                    let message = &mut self.messages[at];
                    message.attempts += 1;
                    (message.until, message.delivery) = (now + visibility, number);
                    (message.visibility, message.session) = (visibility, session.map(|of| of.session));
                    received.push(delivered(message, number, visibility));
                }
                Reply::Received(received)
            }
            QueueOp::Ack { receipts } => self.each(receipts, |model, at| {
                model.messages.remove(at);
                model.totals.delivered += 1;
            }),
            QueueOp::Nack { receipts, delay, failed } => {
                self.each(receipts, |model, at| model.give_back(at, now, now + delay.0, *failed))
            }
            QueueOp::Extend { receipts, visibility } => self.each(receipts, |model, at| {
                let message = &mut model.messages[at];
                (message.until, message.visibility) = (now + visibility.0, visibility.0);
            }),
            QueueOp::RenewSessions { sessions } => {
                let renewed = sessions.iter().map(|session| {
                    let held =
                        self.messages.iter_mut().filter(|m| m.delivery > 0 && m.session == Some(*session));
                    held.map(|message| message.until = message.until.max(now + message.visibility)).count()
                });
                Reply::Kept(renewed.map(|count| u32::try_from(count).unwrap()).collect())
            }
            QueueOp::EndSessions { sessions } => {
                let mut returned = 0;
                for session in sessions {
                    self.ended.push(*session);
                    let held = |m: &Message| m.delivery > 0 && m.session == Some(*session);
                    while let Some(at) = self.messages.iter().position(held) {
                        self.give_back(at, now, 0, false);
                        returned += 1;
                    }
                }
                Reply::Ended { returned }
            }
            QueueOp::Redrive { queue, max } => self.redrive(queue, *max),
            QueueOp::Purge { queue, .. } => {
                let Reply::Purged { up_to, .. } = real else { panic!("{real:?}") };
                let before = self.messages.len();
                self.messages.retain(|message| message.queue != *queue || message.delivery > 0);
                let purged = before - self.messages.len();
                self.totals.purged += purged as u64;
                Reply::Purged { purged: u32::try_from(purged).unwrap(), up_to: *up_to, more: false }
            }
            other => unreachable!("not part of this run: {other:?}"),
        }
    }

    fn push(
        &mut self,
        now: u64,
        queue: &QueueName,
        new: &NewMessage,
        real: Result<u64, &Refusal>,
    ) -> Result<Placed, Refusal> {
        if let Some(dedup) = &new.dedup {
            let known = self
                .remembered
                .iter()
                .find(|(q, key, id, _)| q == queue && *key == new.key && **id == **dedup);
            if let Some((.., id)) = known {
                return Ok(Placed { id: MessageId(*id), duplicate: true });
            }
        }
        let id = real.expect("nothing is in the way");
        if let Some(dedup) = &new.dedup {
            self.remembered.push((queue.clone(), new.key.clone(), dedup.to_string(), id));
        }
        self.totals.pushed += 1;
        self.messages.push(Message {
            id,
            queue: queue.clone(),
            origin: None,
            new: new.clone(),
            attempts: 0,
            failures: 0,
            until: if new.delay.0 > 0 { now + new.delay.0 } else { 0 },
            delivery: 0,
            visibility: 0,
            session: None,
            expires: new.ttl.map_or(u64::MAX, |ttl| now + ttl.0),
        });
        Ok(Placed { id: MessageId(id), duplicate: false })
    }

    fn redrive(&mut self, queue: &QueueName, max: u32) -> Reply {
        let mut moved = 0;
        for message in &mut self.messages {
            if message.origin.as_ref() == Some(queue) && message.delivery == 0 && moved < max {
                message.queue = message.origin.take().unwrap();
                (message.failures, message.until) = (0, 0);
                moved += 1;
            }
        }
        let left = self.messages.iter().filter(|message| message.origin.as_ref() == Some(queue)).count();
        Reply::Redriven { moved, left: left as u64 }
    }

    /// Everything that is due.
    fn pass(&mut self, now: u64) {
        let due: Vec<u64> = self.messages.iter().filter(|m| m.until <= now).map(|m| m.id).collect();
        for id in due {
            let Some(at) = self.messages.iter().position(|message| message.id == id) else { continue };
            if self.messages[at].delivery > 0 {
                self.give_back(at, now, 0, true);
            } else {
                self.messages[at].until = 0;
            }
        }
        self.drop_expired(now);
    }

    fn give_back(&mut self, at: usize, now: u64, until: u64, failed: bool) {
        let message = &mut self.messages[at];
        message.failures += u32::from(failed);
        (message.delivery, message.until) = (0, if until > now { until } else { 0 });
        if failed && message.failures >= MAX_ATTEMPTS && message.origin.is_none() {
            let dead = QueueName(format!("{}.dead", message.queue.0).into());
            message.origin = Some(std::mem::replace(&mut message.queue, dead));
            (message.expires, message.until) = (u64::MAX, 0);
        }
        self.drop_expired(now);
    }

    fn drop_expired(&mut self, now: u64) {
        let before = self.messages.len();
        self.messages.retain(|message| message.expires > now || message.delivery > 0);
        self.totals.expired += (before - self.messages.len()) as u64;
    }

    /// The first of the largest priority that is not hidden and has no earlier message of its key
    /// before it, nor any of its key in flight.
    fn first(&self, queue: &QueueName) -> Option<usize> {
        let here = |m: &&Message| m.queue == *queue;
        let free = (0..self.messages.len()).filter(|at| {
            let message = &self.messages[*at];
            let same = |other: &&Message| here(other) && other.new.key == message.new.key;
            let blocked = message.new.key.is_some()
                && (self.messages[..*at].iter().any(|other| same(&other))
                    || self.messages.iter().any(|other| same(&other) && other.delivery > 0));
            here(&message) && message.until == 0 && !blocked
        });
        free.min_by_key(|at| (std::cmp::Reverse(self.messages[*at].new.priority), *at))
    }

    fn each(&mut self, receipts: &[Receipt], mut done: impl FnMut(&mut Self, usize)) -> Reply {
        let one = |receipt: &Receipt| {
            let at = self.current(*receipt)?;
            done(self, at);
            Ok(())
        };
        Reply::Settled(receipts.iter().map(one).collect())
    }

    fn current(&self, receipt: Receipt) -> Result<usize, Refusal> {
        let found = self.messages.iter().position(|message| {
            message.id == receipt.message.0 && message.delivery == receipt.delivery && receipt.delivery > 0
        });
        found.ok_or(Refusal::StaleReceipt)
    }
}

fn delivered(message: &Message, delivery: u64, visibility: u64) -> Delivered {
    Delivered {
        id: MessageId(message.id),
        key: message.new.key.clone(),
        attempts: message.attempts,
        failures: message.failures,
        priority: message.new.priority,
        enqueued_at: message.new.enqueued_at,
        delivery,
        visibility: Millis(visibility),
    }
}
