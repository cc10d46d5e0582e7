//! What a queue may be told about itself. The coordination shard decides ([`crate::configs`]); every
//! queue shard works by the copy in its own log.

use serde::{Deserialize, Serialize};

use crate::names::QueueName;
use crate::stamp::Millis;

/// How a queue behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// A message that has failed so often is dead-lettered; 0: never.
    pub max_attempts: u32,
    /// Where to; by default the queue's name with `.dead` behind it.
    pub dead_letter: Option<QueueName>,
    /// How long a delivery lasts where the consumer says nothing.
    pub visibility: Millis,
    /// Messages over all shards, in whatever state; by default the cluster's.
    pub max_messages: Option<u64>,
    /// Bytes of their payloads over all shards; by default the cluster's.
    pub max_bytes: Option<u64>,
    /// What happens behind a message that is dead-lettered.
    pub on_poison: OnPoison,
}

/// What happens behind a message that is dead-lettered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnPoison {
    /// Its key goes on with the next.
    #[default]
    Skip,
    /// Its key stops until somebody redrives the message, or resumes the key.
    ParkKey,
    /// This shard's part of the queue stops until somebody redrives the message, or resumes the queue.
    Block,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            dead_letter: None,
            visibility: Millis(30_000),
            max_messages: None,
            max_bytes: None,
            on_poison: OnPoison::Skip,
        }
    }
}

impl QueueConfig {
    /// Where the dead letters of `queue` go.
    pub fn dead_letter_of(&self, queue: &QueueName) -> QueueName {
        self.dead_letter.clone().unwrap_or_else(|| QueueName(format!("{}.dead", queue.0).into()))
    }
}
