//! Consumers of this node that wait for a message: however many they are, each shard of a queue is
//! watched once.
//!
//! Being woken is a hint. A watch lives as long as somebody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lockstep_core::names::{QueueName, ShardId};
use tokio::sync::{mpsc, oneshot};

use super::super::Router;
use super::super::wire::{Said, What};

/// One question to a shard's leader sleeps at most this long.
const WATCH: Duration = Duration::from_secs(20);
/// The pause after a shard could not be asked.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest that those who were woken keep the watch from waking others.
const LOOK: Duration = Duration::from_secs(1);

/// Everybody who waits, by queue.
#[derive(Default)]
pub(in super::super) struct Watches(Mutex<BTreeMap<QueueName, Sleepers>>);

#[derive(Default)]
struct Sleepers {
    last: u64,
    /// First come, first woken.
    waiting: BTreeMap<u64, oneshot::Sender<Woken>>,
    /// The shards that are watched.
    watched: Vec<ShardId>,
}

/// Somebody was woken; until it is dropped, it is looking.
pub(super) struct Woken {
    /// Where there is something to take.
    pub(super) shard: ShardId,
    _looking: mpsc::Sender<()>,
}

impl Watches {
    /// Sleeps until a shard has something for this sleeper, at most `left`.
    pub(super) async fn sleep(
        &self,
        router: &Arc<Router>,
        queue: &QueueName,
        left: Duration,
    ) -> Option<Woken> {
        let (place, woken) = self.lie_down(router, queue);
        let _leave = Leave { watches: self, queue, place };
        tokio::time::timeout(left, woken).await.ok()?.ok()
    }

    fn lie_down(&self, router: &Arc<Router>, queue: &QueueName) -> (u64, oneshot::Receiver<Woken>) {
        let (bell, woken) = oneshot::channel();
        let mut watches = self.lock();
        let sleepers = watches.entry(queue.clone()).or_default();
        sleepers.last += 1;
        sleepers.waiting.insert(sleepers.last, bell);
        for shard in router.queue_shards() {
            if !sleepers.watched.contains(&shard) {
                sleepers.watched.push(shard);
                tokio::spawn(watch(Arc::clone(router), queue.clone(), shard));
            }
        }
        (sleepers.last, woken)
    }

    /// Whether anybody still waits; if not, the shard is no longer watched.
    fn goes_on(&self, queue: &QueueName, shard: ShardId) -> bool {
        let mut watches = self.lock();
        let Some(sleepers) = watches.get_mut(queue) else { return false };
        if !sleepers.waiting.is_empty() {
            return true;
        }
        sleepers.watched.retain(|watched| *watched != shard);
        if sleepers.watched.is_empty() {
            watches.remove(queue);
        }
        false
    }

    /// Wakes up to `count`. Answers what ends when all of them have looked.
    fn wake(&self, queue: &QueueName, shard: ShardId, count: u64) -> mpsc::Receiver<()> {
        let (looking, looked) = mpsc::channel(1);
        let mut left = count;
        let mut watches = self.lock();
        while left > 0 {
            let Some(sleepers) = watches.get_mut(queue) else { break };
            let Some((_, bell)) = sleepers.waiting.pop_first() else { break };
            left -= u64::from(bell.send(Woken { shard, _looking: looking.clone() }).is_ok());
        }
        looked
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueName, Sleepers>> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}

async fn watch(router: Arc<Router>, queue: QueueName, shard: ShardId) {
    while router.watches.goes_on(&queue, shard) {
        let ms = u64::try_from(WATCH.as_millis()).unwrap_or(u64::MAX);
        let deadline = router.deadline(WATCH * 2);
        match router.ask(shard, What::AwaitQueue(queue.clone(), ms), deadline).await {
            Ok(Said::Deliverable(count)) if count > 0 => {
                let mut looked = router.watches.wake(&queue, shard, count);
                let _ = tokio::time::timeout(LOOK, looked.recv()).await;
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

struct Leave<'a> {
    watches: &'a Watches,
    queue: &'a QueueName,
    place: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(sleepers) = self.watches.lock().get_mut(self.queue) {
            sleepers.waiting.remove(&self.place);
        }
    }
}
