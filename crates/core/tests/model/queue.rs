//! A queue as a list that is searched from the front.

use lockstep_core::command::{Delivered, QueueOp, Refusal, Reply};
use lockstep_core::names::{MessageKey, Receipt};

#[derive(Default)]
pub struct Queue(Vec<Message>);

struct Message {
    id: u64,
    key: Option<MessageKey>,
    attempts: u32,
    /// Hidden until then; a delivery's number if it is in flight.
    until: u64,
    delivery: u64,
}

impl Queue {
    pub fn ids(&self) -> Vec<u64> {
        self.0.iter().map(|message| message.id).collect()
    }

    /// What the reply should be. Ids and deliveries are the machine's to choose: they come from `real`.
    pub fn apply(&mut self, now: u64, op: &QueueOp, real: &Reply) -> Reply {
        for message in self.0.iter_mut().filter(|message| message.until <= now) {
            (message.until, message.delivery) = (0, 0);
        }
        match op {
            QueueOp::Push { messages, .. } => {
                let Reply::Pushed(ids) = real else { panic!("{real:?}") };
                let new = &messages[0];
                let until = if new.delay.0 > 0 { now + new.delay.0 } else { 0 };
                self.0.push(Message { id: ids[0].0, key: new.key.clone(), attempts: 0, until, delivery: 0 });
                real.clone()
            }
            QueueOp::Pop { .. } => Reply::Popped(self.first().map(|at| {
                let mut message = self.0.remove(at);
                message.attempts += 1;
                delivered(&message, 0, 0)
            })),
            QueueOp::Receive { max, visibility, .. } => {
                let Reply::Received(real) = real else { panic!("{real:?}") };
                let mut received = Vec::new();
                while received.len() < *max as usize {
                    let Some(at) = self.first() else { break };
                    let number = real.get(received.len()).map_or(0, |one| one.delivery);
                    let message = &mut self.0[at];
                    message.attempts += 1;
                    (message.until, message.delivery) = (now + visibility.0, number);
                    received.push(delivered(message, number, visibility.0));
                }
                Reply::Received(received)
            }
            QueueOp::Ack { receipts } => Reply::Acked(vec![self.current(receipts[0]).map(|at| {
                self.0.remove(at);
            })]),
            QueueOp::Nack { receipt, delay, .. } => self.hide(*receipt, now, delay.0, Reply::Nacked),
            QueueOp::Extend { receipt, visibility } => match self.current(*receipt) {
                Ok(at) => {
                    self.0[at].until = now + visibility.0;
                    Reply::Extended { visibility: *visibility }
                }
                Err(refusal) => Reply::Refused(refusal),
            },
        }
    }

    fn hide(&mut self, receipt: Receipt, now: u64, delay: u64, done: Reply) -> Reply {
        match self.current(receipt) {
            Ok(at) => {
                self.0[at].delivery = 0;
                self.0[at].until = if delay > 0 { now + delay } else { 0 };
                done
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// The first that is not hidden and has no earlier message of its key before it.
    fn first(&self) -> Option<usize> {
        (0..self.0.len()).find(|at| {
            let message = &self.0[*at];
            let blocked =
                message.key.is_some() && self.0[..*at].iter().any(|earlier| earlier.key == message.key);
            message.until == 0 && !blocked
        })
    }

    fn current(&self, receipt: Receipt) -> Result<usize, Refusal> {
        let found = self.0.iter().position(|message| {
            message.id == receipt.message.0 && message.delivery == receipt.delivery && receipt.delivery > 0
        });
        found.ok_or(Refusal::StaleReceipt)
    }
}

fn delivered(message: &Message, delivery: u64, visibility: u64) -> Delivered {
    Delivered {
        id: lockstep_core::names::MessageId(message.id),
        key: message.key.clone(),
        attempts: message.attempts,
        enqueued_at: 0,
        delivery,
        visibility: lockstep_core::Millis(visibility),
    }
}
