//! Parked requests: who sleeps until a ticket is decided, a queue fills, something happens to a lock or
//! the ring changes.
//!
//! Waking is a hint. Whoever wakes looks at the state again; nothing here knows what happened.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use lockstep_core::Effect;
use lockstep_core::names::{LockName, QueueName, Ticket};
use tokio::sync::watch;

/// The sleepers of one shard on this node.
#[derive(Default)]
pub struct Waiters {
    tickets: Bells<Ticket>,
    queues: Bells<QueueName>,
    outbox: watch::Sender<()>,
    locks: Mutex<BTreeMap<LockName, watch::Sender<()>>>,
    ring_epoch: watch::Sender<u64>,
}

impl Waiters {
    /// Rings when the fate of a ticket is decided.
    pub fn ticket(&self, ticket: Ticket) -> Bell<'_, Ticket> {
        self.tickets.listen(&ticket)
    }

    /// Rings when a queue has something to deliver: one sleeper for each node that watches it.
    pub fn queue(&self, queue: &QueueName) -> Bell<'_, QueueName> {
        self.queues.listen(queue)
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
                Effect::WakeTicket(ticket) => self.tickets.ring(ticket),
                Effect::WakeLock(name) => {
                    if let Some(bell) = lock(&self.locks).get(name) {
                        bell.send_replace(());
                    }
                }
                Effect::WakeQueue(queue) => self.queues.ring(queue),
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
        self.tickets.ring_all();
        self.queues.ring_all();
        self.outbox.send_replace(());
        lock(&self.locks).values().for_each(|bell| {
            bell.send_replace(());
        });
        self.ring_epoch.send_modify(|_| ());
    }
}

/// Bells that ring for whoever listens to a name; nothing is kept of names that nobody listens to.
struct Bells<K>(Mutex<BTreeMap<K, watch::Sender<()>>>);

impl<K: Ord + Clone> Bells<K> {
    fn listen(&self, name: &K) -> Bell<'_, K> {
        let rings = lock(&self.0).entry(name.clone()).or_default().subscribe();
        Bell { bells: self, name: name.clone(), rings: Some(rings) }
    }

    fn ring(&self, name: &K) {
        if let Some(bell) = lock(&self.0).get(name) {
            bell.send_replace(());
        }
    }

    fn ring_all(&self) {
        lock(&self.0).values().for_each(|bell| {
            bell.send_replace(());
        });
    }
}

impl<K> Default for Bells<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// One listener. Everybody who listens hears every ring: hear, look at the state, then wait.
pub struct Bell<'a, K: Ord> {
    bells: &'a Bells<K>,
    name: K,
    rings: Option<watch::Receiver<()>>,
}

impl<K: Ord> Bell<'_, K> {
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

impl<K: Ord> Drop for Bell<'_, K> {
    fn drop(&mut self) {
        self.rings = None;
        let mut bells = lock(&self.bells.0);
        if bells.get(&self.name).is_some_and(|bell| bell.receiver_count() == 0) {
            bells.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_sleeps_on_a_ticket_is_woken_also_when_one_of_them_has_left() {
        let waiters = Waiters::default();
        let mut sleepers = [waiters.ticket(Ticket(7)), waiters.ticket(Ticket(7))];
        drop(waiters.ticket(Ticket(7)));
        waiters.wake(&[Effect::WakeTicket(Ticket(7))]);
        for sleeper in &mut sleepers {
            tokio::time::timeout(std::time::Duration::from_secs(5), sleeper.rings()).await.expect("it rang");
        }
        drop(sleepers);
        assert!(lock(&waiters.tickets.0).is_empty(), "nobody listens any more");
    }
}
