//! Queues as operators see them: configuration, counts, looking inside, emptying, bringing back.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lockstep_core::command::{ConfigChange, ConfigOp, QueueOp};
use lockstep_core::names::{MessageKey, QueueName, ShardId};
use lockstep_core::query::{Answer, Query, QueueView};
use lockstep_core::queue::{QueueConfig, Totals};
use lockstep_core::{Op, Reply};

use super::super::wire::{Said, What};
use super::super::{Asked, Error, Router};
use super::Message;
use crate::rates::Rate;

/// Messages that one step of a purge or a redrive takes.
const STEP: u32 = 1_000;
/// How often the coordination shard's leader looks whether a shard lacks a configuration.
const COPY_EVERY: Duration = Duration::from_secs(10);

/// A page of names: after which, and how many at most.
#[derive(Clone, Debug)]
pub struct Page {
    /// The last name of the page before.
    pub after: Option<QueueName>,
    /// At most this many.
    pub limit: u32,
}

/// A queue over all its shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// The counts of all shards added up.
    pub view: QueueView,
    /// How fast messages came and went of late.
    pub rate: Rate,
    /// What the queue's behaviour is, where it was ever configured.
    pub config: Option<QueueConfig>,
}

impl Router {
    /// Changes a queue's configuration, and returns the whole of it once every shard works by it.
    pub async fn configure(
        &self,
        queue: QueueName,
        change: ConfigChange,
        asked: &Asked,
    ) -> Result<QueueConfig, Error> {
        let op = Op::Config(ConfigOp { queue: queue.clone(), change });
        let Reply::Configured { version, config } = self.execute(ShardId::COORDINATION, op, asked).await?
        else {
            return Err(Error::OutcomeUnknown);
        };
        let copies = self.queue_shards().into_iter().map(|shard| {
            let op = QueueOp::Configure { queue: queue.clone(), version, config: config.clone() };
            // A copy is harmless as often as it comes, and must not be mistaken for the change itself.
            async move { self.execute(shard, Op::Queue(op), &Asked::plain(asked.timeout)).await }
        });
        for copied in join_all(copies).await {
            copied.map_err(|_| Error::OutcomeUnknown)?;
        }
        Ok(config)
    }

    /// Brings configurations to shards that lack them, because a node died between the two steps.
    /// Only the coordination shard's leader does. For ever.
    pub async fn copy_configs(self: Arc<Self>) {
        loop {
            tokio::time::sleep(COPY_EVERY).await;
            let Some(replica) = self.replica(ShardId::COORDINATION).filter(|replica| replica.leads()) else {
                continue;
            };
            let Answer::Configs(newest) = replica.state().read(|shard| shard.query(&Query::Configs)) else {
                continue;
            };
            if newest.is_empty() {
                continue;
            }
            for shard in self.queue_shards() {
                if let Err(error) = self.copy_missing(shard, &newest).await {
                    tracing::debug!(%error, shard = shard.0, "could not copy the configuration of queues");
                }
            }
        }
    }

    async fn copy_missing(
        &self,
        shard: ShardId,
        newest: &[(QueueName, u64, QueueConfig)],
    ) -> Result<(), Error> {
        let known = match self.query(shard, Query::Configs, COPY_EVERY).await? {
            Answer::Configs(known) => known,
            _ => return Ok(()),
        };
        for (queue, version, config) in newest {
            if known.iter().any(|(name, at, _)| name == queue && at >= version) {
                continue;
            }
            let op = QueueOp::Configure { queue: queue.clone(), version: *version, config: config.clone() };
            self.execute(shard, Op::Queue(op), &Asked::plain(COPY_EVERY)).await?;
        }
        Ok(())
    }

    /// Counts of a queue, added up over all shards.
    pub async fn queue_stats(&self, queue: QueueName, timeout: Duration) -> Result<Stats, Error> {
        let mut sum = QueueView::default();
        for view in self.views(&queue, timeout).await {
            let (_, view) = view?;
            add(&mut sum, &view);
        }
        let rate = self.rates(&queue, timeout).await?;
        let configs = match self.query(ShardId::COORDINATION, Query::Config { queue }, timeout).await? {
            Answer::Configs(configs) => configs,
            _ => Vec::new(),
        };
        Ok(Stats { view: sum, rate, config: configs.into_iter().next().map(|(_, _, config)| config) })
    }

    async fn rates(&self, queue: &QueueName, timeout: Duration) -> Result<Rate, Error> {
        let deadline = self.deadline(timeout);
        let asks = self
            .queue_shards()
            .into_iter()
            .map(|shard| self.ask(shard, What::Rates(queue.clone()), deadline));
        let mut sum = Rate::default();
        for said in join_all(asks).await {
            if let Said::Rates(Rate { pushed, delivered, acked }) = said? {
                sum.pushed += pushed;
                sum.delivered += delivered;
                sum.acked += acked;
            }
        }
        Ok(sum)
    }

    /// The names of queues, in order.
    pub async fn queues(&self, page: &Page, timeout: Duration) -> Result<Vec<QueueName>, Error> {
        let query = Query::Queues { after: page.after.clone(), limit: page.limit };
        let asks = self.queue_shards().into_iter().map(|shard| self.query(shard, query.clone(), timeout));
        let mut names = BTreeSet::new();
        for answer in join_all(asks).await {
            if let Answer::Queues(more) = answer? {
                names.extend(more);
            }
        }
        Ok(names.into_iter().take(page.limit as usize).collect())
    }

    /// Up to `max` messages that wait, none of them taken: what is deliverable first.
    pub async fn peek(&self, queue: QueueName, max: u32, timeout: Duration) -> Result<Vec<Message>, Error> {
        let deadline = self.deadline(timeout);
        let asks = self.queue_shards().into_iter().map(|shard| {
            let what = What::Peek(queue.clone(), max);
            async move { (shard, self.ask(shard, what, deadline).await) }
        });
        let mut lists = Vec::new();
        for (shard, said) in join_all(asks).await {
            if let Said::Taken(Some(told)) = said? {
                lists.push(super::take::taken(shard, &told.reply, told.bodies).unwrap_or_default());
            }
        }
        // Each shard's own order is kept; what is older comes first among them.
        let mut lists: Vec<_> = lists.into_iter().map(VecDeque::from).collect();
        let mut merged = Vec::new();
        while merged.len() < max as usize {
            let rank = |list: &&mut VecDeque<Message>| {
                let head = list.front().map(|message| &message.delivered);
                head.map(|head| (std::cmp::Reverse(head.priority), head.enqueued_at))
            };
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(rank);
            let Some(message) = next.and_then(VecDeque::pop_front) else { break };
            merged.push(message);
        }
        Ok(merged)
    }

    /// Drops everything that waits in the queue and was pushed before this call. Says how much.
    pub async fn purge(&self, queue: QueueName, asked: &Asked) -> Result<u64, Error> {
        let purges = self.queue_shards().into_iter().map(|shard| self.purge_shard(shard, &queue, asked));
        let mut sum = 0;
        for purged in join_all(purges).await {
            sum += purged?;
        }
        Ok(sum)
    }

    async fn purge_shard(&self, shard: ShardId, queue: &QueueName, asked: &Asked) -> Result<u64, Error> {
        let (mut sum, mut mark) = (0, None);
        for step in 0_u32.. {
            let op = QueueOp::Purge { queue: queue.clone(), up_to: mark, max: STEP };
            match self.execute(shard, Op::Queue(op), &asked.step(step)).await? {
                Reply::Purged { purged, up_to, more } => {
                    sum += u64::from(purged);
                    mark = Some(up_to);
                    if !more {
                        break;
                    }
                }
                _ => return Err(Error::OutcomeUnknown),
            }
        }
        Ok(sum)
    }

    /// Brings up to `max` dead letters back into the queue that they came from. Says how many came,
    /// and how many are left.
    pub async fn redrive(&self, queue: QueueName, max: u64, asked: &Asked) -> Result<(u64, u64), Error> {
        let (mut came, mut left) = (0, 0);
        for shard in self.queue_shards() {
            for step in 0_u32.. {
                let most = u32::try_from((max - came).min(STEP.into())).unwrap_or(STEP);
                let op = QueueOp::Redrive { queue: queue.clone(), max: most };
                match self.execute(shard, Op::Queue(op), &asked.step(step)).await? {
                    Reply::Redriven { moved, left: still } => {
                        came += u64::from(moved);
                        if still == 0 || moved == 0 || came >= max {
                            left += still;
                            break;
                        }
                    }
                    _ => return Err(Error::OutcomeUnknown),
                }
            }
        }
        Ok((came, left))
    }

    /// Lets a parked key, or all of them and a blocked queue, go on. Says how many keys were parked.
    pub async fn resume(
        &self,
        queue: QueueName,
        key: Option<MessageKey>,
        asked: &Asked,
    ) -> Result<u64, Error> {
        let shards = match &key {
            Some(key) => vec![self.ring.shard_of(&queue.0, key.0.as_bytes())],
            None => self.queue_shards(),
        };
        let resumes = shards.into_iter().map(|shard| {
            let op = Op::Queue(QueueOp::Resume { queue: queue.clone(), key: key.clone() });
            self.execute(shard, op, asked)
        });
        let mut sum = 0;
        for resumed in join_all(resumes).await {
            match resumed? {
                Reply::Resumed { keys } => sum += u64::from(keys),
                _ => return Err(Error::OutcomeUnknown),
            }
        }
        Ok(sum)
    }

    pub(super) async fn views(
        &self,
        queue: &QueueName,
        timeout: Duration,
    ) -> Vec<Result<(ShardId, QueueView), Error>> {
        let asks = self.queue_shards().into_iter().map(|shard| async move {
            match self.query(shard, Query::Queue { queue: queue.clone() }, timeout).await? {
                Answer::Queue(view) => Ok((shard, view)),
                _ => Err(Error::NoLeader { shard }),
            }
        });
        join_all(asks).await
    }
}

fn add(sum: &mut QueueView, view: &QueueView) {
    let Totals { pushed, deliveries, delivered, expired, purged, dead_lettered, redriven, dead_in, dead_out } =
        view.totals;
    sum.ready += view.ready;
    sum.deliverable += view.deliverable;
    sum.in_flight += view.in_flight;
    sum.delayed += view.delayed;
    sum.dead += view.dead;
    sum.parked_keys += view.parked_keys;
    sum.blocked |= view.blocked;
    sum.bytes += view.bytes;
    sum.oldest_enqueued_at = match (sum.oldest_enqueued_at, view.oldest_enqueued_at) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    sum.version = sum.version.max(view.version);
    sum.room.messages = sum.room.messages.saturating_add(view.room.messages);
    sum.room.bytes = sum.room.bytes.saturating_add(view.room.bytes);
    sum.used.messages += view.used.messages;
    sum.used.bytes += view.used.bytes;
    sum.totals.pushed += pushed;
    sum.totals.deliveries += deliveries;
    sum.totals.delivered += delivered;
    sum.totals.expired += expired;
    sum.totals.purged += purged;
    sum.totals.dead_lettered += dead_lettered;
    sum.totals.redriven += redriven;
    sum.totals.dead_in += dead_in;
    sum.totals.dead_out += dead_out;
}
