//! The configuration of queues, as the coordination shard keeps it: one version after another.
//!
//! It runs no queue: each queue shard works by the copy in its own log, and takes a newer version only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{ConfigOp, Refusal, Reply};
use crate::context::Context;
use crate::names::QueueName;
use crate::queue::QueueConfig;

/// Queues that may be configured at once.
pub const CONFIGS_MAX: usize = 10_000;

/// The newest configuration of every queue that was ever configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configs(BTreeMap<QueueName, (u64, QueueConfig)>);

impl Configs {
    /// Applies one command that was not applied before. What a change leaves out stays as it is.
    pub fn apply(&mut self, ctx: &mut Context<'_>, op: &ConfigOp) -> Reply {
        let ConfigOp { queue, change } = op;
        if change.dead_letter.as_ref() == Some(queue) {
            return Reply::Refused(Refusal::Invalid);
        }
        if self.0.len() >= CONFIGS_MAX && !self.0.contains_key(queue) {
            return Reply::Refused(Refusal::TooManyQueues);
        }
        let (version, config) = self.0.entry(queue.clone()).or_default();
        *version = ctx.counter.next();
        config.max_attempts = change.max_attempts.unwrap_or(config.max_attempts);
        config.visibility = change.visibility.unwrap_or(config.visibility);
        config.on_poison = change.on_poison.unwrap_or(config.on_poison);
        config.max_messages = change.max_messages.or(config.max_messages);
        config.max_bytes = change.max_bytes.or(config.max_bytes);
        if let Some(dead_letter) = &change.dead_letter {
            config.dead_letter = Some(dead_letter.clone());
        }
        Reply::Configured { version: *version, config: config.clone() }
    }

    /// The same for one queue: at most one entry.
    pub fn one(&self, queue: &QueueName) -> Vec<(QueueName, u64, QueueConfig)> {
        let one = self.0.get(queue).map(|(version, config)| (queue.clone(), *version, config.clone()));
        one.into_iter().collect()
    }

    /// Every configured queue with the version and the configuration, in order.
    pub fn all(&self) -> Vec<(QueueName, u64, QueueConfig)> {
        self.0.iter().map(|(queue, (version, config))| (queue.clone(), *version, config.clone())).collect()
    }
}
