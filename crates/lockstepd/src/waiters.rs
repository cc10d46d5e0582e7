//! Parked requests: who sleeps until a ticket is decided, a queue fills, something happens to a lock or
//! the ring changes.
//!
//! Waking is a hint. Whoever wakes looks at the state again; nothing here knows what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lockstep_core::Effect;
use lockstep_core::names::{LockName, QueueName, Ticket};
use tokio::sync::{Notify, watch};

/// The sleepers of one shard on this node.
#[derive(Default)]
pub struct Waiters {
    tickets: Mutex<BTreeMap<Ticket, Arc<Notify>>>,
    queues: Mutex<BTreeMap<QueueName, watch::Sender<()>>>,
    outbox: watch::Sender<()>,
    locks: Mutex<BTreeMap<LockName, watch::Sender<()>>>,
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

    /// Sleeps until a queue has something to deliver: one sleeper for each node that watches it.
    pub fn queue(&self, queue: &QueueName) -> Bell<'_> {
        let rings = lock(&self.queues).entry(queue.clone()).or_default().subscribe();
        Bell { waiters: self, queue: queue.clone(), rings: Some(rings) }
    }

    /// Changes whenever there is something to carry to another shard, or something was carried.
    pub fn outbox(&self) -> watch::Receiver<()> {
        self.outbox.subscribe()
    }

    /// Rings whenever something happens to a lock.
    pub fn lock(&self, name: &LockName) -> watch::Receiver<()> {
        lock(&self.locks).entry(name.clone()).or_default().subscribe()
    }

    /// One who listens to a lock goes; if it is the last, nobody is told any more.
    pub fn forget_lock(&self, name: &LockName) {
        let mut locks = lock(&self.locks);
        if locks.get(name).is_some_and(|bell| bell.receiver_count() <= 1) {
            locks.remove(name);
        }
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
                Effect::WakeLock(name) => {
                    if let Some(bell) = lock(&self.locks).get(name) {
                        bell.send_replace(());
                    }
                }
                Effect::WakeQueue(queue) => {
                    if let Some(bell) = lock(&self.queues).get(queue) {
                        bell.send_replace(());
                    }
                }
                Effect::WakeOutbox => {
                    self.outbox.send_replace(());
                }
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
        lock(&self.queues).values().for_each(|bell| {
            bell.send_replace(());
        });
        self.outbox.send_replace(());
        lock(&self.locks).values().for_each(|bell| {
            bell.send_replace(());
        });
        self.ring_epoch.send_modify(|_| ());
    }
}

/// Rings when a queue has something to deliver that it had not before.
pub struct Bell<'a> {
    waiters: &'a Waiters,
    queue: QueueName,
    rings: Option<watch::Receiver<()>>,
}

impl Bell<'_> {
    /// Whatever has rung so far is heard: look at the state after this, then wait.
    pub fn hear(&mut self) {
        if let Some(rings) = &mut self.rings {
            rings.borrow_and_update();
        }
    }

    /// Returns when it rings.
    pub async fn rings(&mut self) {
        let heard = match &mut self.rings {
            Some(rings) => rings.changed().await.is_ok(),
            None => false,
        };
        if !heard {
            std::future::pending().await
        }
    }
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        self.rings = None;
        let mut queues = lock(&self.waiters.queues);
        if queues.get(&self.queue).is_some_and(|bell| bell.receiver_count() == 0) {
            queues.remove(&self.queue);
        }
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
