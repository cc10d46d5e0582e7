//! What a cluster keeps in Redis beside its logs: which cluster it is, and how often each node has
//! started. Nodes have no directory; this is theirs.
//!
//! Whoever comes first writes it, all others compare.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::names::{NodeId, ShardId};
use redis::Value;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::keys;
use super::link::Link;
use super::server::{Refusal, Server};
use crate::clock::unix_millis;

const FORMAT: u32 = 1;
/// How long a node that starts waits for Redis to be there.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(5);

/// The cluster whose logs lie in a Redis, under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The version of this record's format.
    pub format: u32,
    /// Made when the cluster formed: 32 hex digits.
    pub cluster_id: String,
    /// How many queue shards it has; fixed when it formed.
    pub queue_shards: u32,
    /// Its members.
    pub members: BTreeSet<u64>,
}

impl Cluster {
    /// The record of a cluster that moves here.
    pub fn new(cluster_id: String, queue_shards: u32, members: BTreeSet<u64>) -> Self {
        Self { format: FORMAT, cluster_id, queue_shards, members }
    }
}

/// A node's place in a cluster whose store is Redis.
pub struct Home {
    server: Arc<Server>,
    node: NodeId,
}

impl Home {
    /// Opens nothing yet.
    pub fn new(server: Arc<Server>, node: NodeId) -> Self {
        Self { server, node }
    }

    /// The cluster in this Redis. If there is none, there is from now on, as `new` says.
    /// Waits a while for a Redis that does not answer, and for as long as it loads its data.
    pub async fn join(
        &self,
        members: &BTreeSet<u64>,
        queue_shards: Option<u32>,
        default_queue_shards: u32,
    ) -> Result<Cluster, Refusal> {
        let new = Cluster {
            format: FORMAT,
            cluster_id: format!("{:032x}", rand::random::<u128>()),
            queue_shards: queue_shards.unwrap_or(default_queue_shards),
            members: members.clone(),
        };
        let text = serde_json::to_string(&new).expect("plain fields always serialize");
        self.reach().await?;
        let found = match self.there().await? {
            Some(there) => there,
            None => match self.remains().await? {
                None => self.found(&text).await?,
                // Another node may just have begun the cluster, and its logs.
                Some(key) => self.there().await?.ok_or_else(|| self.without_record(&key))?,
            },
        };
        let differs = |what: &str, found: String, given: String| {
            Err(Refusal::Mistake(format!(
                "the Redis at {} holds the cluster {:?}, which was formed with {what} {found}, but this node was \
                 started with {given}. Start it with what the cluster was formed with, or give the new cluster a \
                 name of its own in --store: redis://…?name=NAME",
                self.server.address(),
                self.server.address().name,
            )))
        };
        if found.members != *members {
            return differs("members", format!("{:?}", found.members), format!("{members:?}"));
        }
        match queue_shards {
            Some(given) if given != found.queue_shards => {
                differs("queue shards", found.queue_shards.to_string(), given.to_string())
            }
            _ => Ok(found),
        }
    }

    /// The next incarnation of this node: a number larger than any before.
    pub async fn next_incarnation(&self) -> Result<u64, Refusal> {
        let key = keys::incarnation(&self.server.address().prefix(), self.node);
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("incarnation.lua")).arg(1).arg(&key).arg(unix_millis());
        let mut link = Link::new(&self.server, key.clone(), ANSWER);
        match link.ask(&script).await {
            Ok(Value::BulkString(number)) => std::str::from_utf8(&number)
                .ok()
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| self.foreign(&key)),
            Ok(_) => Err(self.foreign(&key)),
            Err(failed) => Err(self.unusable(&failed.why())),
        }
    }

    /// Waits until Redis answers, and says what is in the way if that is of no use.
    pub(super) async fn reach(&self) -> Result<(), Refusal> {
        let key = keys::cluster(&self.server.address().prefix());
        let (begun, mut told) = (Instant::now(), false);
        loop {
            let why = match self.server.connect(&key).await {
                Ok(_) => return Ok(()),
                Err(Refusal::Mistake(why)) => return Err(Refusal::Mistake(why)),
                Err(Refusal::Away(why)) => why,
            };
            if begun.elapsed() > PATIENCE && !why.contains("loading") {
                return Err(Refusal::Away(format!("{why}. Is it running there? Correct --store otherwise")));
            }
            if !told {
                tracing::warn!(%why, "waiting for Redis");
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A key of logs, or of an import, that this Redis holds under the cluster's name.
    async fn remains(&self) -> Result<Option<String>, Refusal> {
        let prefix = self.server.address().prefix();
        let logs = keys::Keys::new(&prefix, ShardId::COORDINATION);
        for key in [keys::import(&prefix), logs.born(), logs.log(), logs.pointer()] {
            let mut link = Link::new(&self.server, key.clone(), ANSWER);
            match link.ask(redis::cmd("EXISTS").arg(&key)).await {
                Ok(Value::Int(0)) => {}
                Ok(_) => return Ok(Some(key)),
                Err(failed) => return Err(self.unusable(&failed.why())),
            }
        }
        Ok(None)
    }

    /// A cluster that began here now would take over logs of which it knows nothing.
    fn without_record(&self, key: &str) -> Refusal {
        let prefix = self.server.address().prefix();
        let record = keys::cluster(&prefix);
        let at = self.server.address();
        Refusal::Mistake(if key == keys::import(&prefix) {
            format!(
                "an import into {at} has not come to its end ({key} is there, {record} is not). If it still runs, \
                 wait for it; else run `lockstep cluster import --restart` with the same --store, or give the new \
                 cluster another name: redis://…?name=NAME"
            )
        } else {
            format!(
                "the Redis at {at} holds logs of a cluster ({key}) but not its record {record}: somebody deleted it. \
                 Restore Redis from a backup, or write the record again as docs/stores.md says; a new cluster needs \
                 another name: redis://…?name=NAME"
            )
        })
    }

    /// The record that is there, or else `new`.
    pub(super) async fn found(&self, new: &str) -> Result<Cluster, Refusal> {
        if let Some(there) = self.there().await? {
            return Ok(there);
        }
        let key = keys::cluster(&self.server.address().prefix());
        let mut link = Link::new(&self.server, key.clone(), ANSWER);
        let set = link.ask(redis::cmd("SET").arg(&key).arg(new).arg("NX")).await;
        set.map_err(|failed| self.unusable(&failed.why()))?;
        self.there().await?.ok_or_else(|| self.foreign(&key))
    }

    /// The record that is there.
    pub(super) async fn there(&self) -> Result<Option<Cluster>, Refusal> {
        let key = keys::cluster(&self.server.address().prefix());
        let mut link = Link::new(&self.server, key.clone(), ANSWER);
        let found = link.ask(redis::cmd("GET").arg(&key)).await;
        match found.map_err(|failed| self.wrong_type(&key, failed.why()))? {
            Value::Nil => Ok(None),
            Value::BulkString(text) => match serde_json::from_slice::<Cluster>(&text) {
                Ok(cluster) if cluster.format == FORMAT => Ok(Some(cluster)),
                _ => Err(self.foreign(&key)),
            },
            _ => Err(self.foreign(&key)),
        }
    }

    fn wrong_type(&self, key: &str, why: String) -> Refusal {
        if why.contains("WRONGTYPE") { self.foreign(key) } else { self.unusable(&why) }
    }

    fn foreign(&self, key: &str) -> Refusal {
        Refusal::Mistake(format!(
            "{key} in the Redis at {} was not written by this version of Lockstep. Give the cluster another name \
             (redis://…?name=NAME) or another database",
            self.server.address()
        ))
    }

    fn unusable(&self, why: &str) -> Refusal {
        Refusal::Away(format!("cannot use the Redis at {}: {why}", self.server.address()))
    }
}
