//! Dedup ids: which messages were pushed lately under an id of their producer's choice.
//!
//! It keeps no names, only hashes of (queue, key, id): 128 bits, so that no two ids meet by accident.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::command::{NewMessage, Refusal};
use crate::names::{MessageId, QueueName};
use crate::stamp::Millis;

/// How long a dedup id is remembered after its push, in log time.
pub const DEDUP_WINDOW: Millis = Millis(300_000);
/// Dedup ids that one shard remembers at once.
pub const DEDUP_MAX: usize = 2_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repeats {
    known: BTreeMap<u128, Known>,
    /// Every id is remembered equally long, so they go in the order in which they came.
    forget: VecDeque<(Millis, u128)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    id: MessageId,
    /// Of the payload: the same id with another one is refused.
    print: u64,
}

impl Repeats {
    /// The message that was pushed under the same id, if there is one.
    pub(super) fn find(&self, queue: &QueueName, new: &NewMessage) -> Result<Option<MessageId>, Refusal> {
        let Some(hash) = hash(queue, new) else { return Ok(None) };
        match self.known.get(&hash) {
            Some(known) if known.print == xxh3_64(&new.body) => Ok(Some(known.id)),
            Some(_) => Err(Refusal::DedupConflict),
            None => Ok(None),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= DEDUP_MAX
    }

    pub(super) fn remember(&mut self, queue: &QueueName, new: &NewMessage, id: MessageId, now: Millis) {
        let Some(hash) = hash(queue, new) else { return };
        if self.known.insert(hash, Known { id, print: xxh3_64(&new.body) }).is_none() {
            self.forget.push_back((now.plus(DEDUP_WINDOW), hash));
        }
    }

    pub(super) fn expire(&mut self, now: Millis) {
        while self.forget.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, hash)) = self.forget.pop_front() {
                self.known.remove(&hash);
            }
        }
    }
}

/// The parts are told apart by their lengths.
fn hash(queue: &QueueName, new: &NewMessage) -> Option<u128> {
    let id = new.dedup.as_ref()?;
    let key = new.key.as_ref().map_or("", |key| &key.0);
    let mut bytes = Vec::with_capacity(queue.0.len() + key.len() + id.len() + 17);
    for part in [&*queue.0, key, id] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.push(u8::from(new.key.is_some()));
    Some(xxh3_128(&bytes))
}
