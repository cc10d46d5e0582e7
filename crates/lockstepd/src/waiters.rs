//! Parked requests: who sleeps until a ticket is decided, a queue fills or the ring changes.
//!
//! Waking is a hint. Whoever wakes looks at the state again; nothing here knows what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lockstep_core::Effect;
use lockstep_core::names::{QueueName, Ticket};
use tokio::sync::{Notify, watch};

/// The sleepers of one shard on this node.
#[derive(Default)]
pub struct Waiters {
    tickets: Mutex<BTreeMap<Ticket, Arc<Notify>>>,
    queues: Mutex<BTreeMap<QueueName, Arc<Notify>>>,
    ring_epoch: watch::Sender<u64>,
}

impl Waiters {
    /// Sleeps on a ticket: take the bell first, then look at the state, then wait on the bell.
    pub fn ticket(&self, ticket: Ticket) -> Arc<Notify> {
        Arc::clone(lock(&self.tickets).entry(ticket).or_default())
    }

    /// The ticket's sleeper has gone.
    pub fn forget_ticket(&self, ticket: Ticket) {
        lock(&self.tickets).remove(&ticket);
    }

    /// Sleeps until a queue has something to deliver. One message wakes one sleeper.
    pub fn queue(&self, queue: &QueueName) -> Arc<Notify> {
        Arc::clone(lock(&self.queues).entry(queue.clone()).or_default())
    }

    /// The ring epoch as of the last applied change.
    pub fn ring_epoch(&self) -> watch::Receiver<u64> {
        self.ring_epoch.subscribe()
    }

    /// Passes on what an apply hinted at.
    pub fn wake(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::WakeTicket(ticket) => ring(lock(&self.tickets).get(ticket)),
                Effect::WakeQueue(queue) => ring(lock(&self.queues).get(queue)),
                Effect::RingChanged { epoch } => {
                    self.ring_epoch.send_replace(*epoch);
                }
                // Whoever follows the ring looks at the namespaces as well.
                Effect::NamespacesChanged => self.ring_epoch.send_modify(|_| ()),
            }
        }
    }

    /// Wakes everybody: the state was replaced, or leadership was lost.
    pub fn wake_all(&self) {
        lock(&self.tickets).values().for_each(|bell| bell.notify_one());
        lock(&self.queues).values().for_each(|bell| bell.notify_waiters());
        self.ring_epoch.send_modify(|_| ());
    }
}

fn ring(bell: Option<&Arc<Notify>>) {
    if let Some(bell) = bell {
        bell.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
