//! The beginning and the end of an import: a mark in Redis says that one is under way, so that one that was
//! interrupted is told from a cluster, and can be begun again.
//!
//! Shards are written in `offline.rs`.

use lockstep_core::names::ShardId;
use redis::Value;

use super::entry::Entry;
use super::home::Cluster;
use super::keys::{self, Keys};
use super::link::{Failed, Link};
use super::offline::{NOBODY, Offline, STILL};
use super::server::Refusal;
use super::snapshot;

/// Keys in one question, at most.
const AT_ONCE: usize = 256;

impl Offline {
    /// Marks that `cluster` is about to be written here. `restart`: takes away first what an interrupted
    /// import has left. Fails if there is anything else.
    pub async fn begin(&self, cluster: &Cluster, restart: bool) -> Result<(), Refusal> {
        let (at, key) = (self.server.address(), keys::import(&self.server.address().prefix()));
        if self.cluster().await?.is_some() {
            return Err(there_is_one(at));
        }
        match self.marked(&key).await? {
            Some(_) if !restart => {
                return Err(Refusal::Mistake(format!(
                    "an import into {at} has not come to its end ({key} is there). If it still runs, wait for it; else \
                     add --restart, which deletes what it has left and begins again"
                )));
            }
            Some(left) => {
                for shard in (0..=left.queue_shards).map(ShardId) {
                    self.clear(shard).await?;
                }
                self.ask(&key, redis::cmd("UNLINK").arg(&key)).await?;
            }
            None => {}
        }
        for shard in (0..=cluster.queue_shards).map(ShardId) {
            let keys = Keys::new(&at.prefix(), shard);
            let there = redis::cmd("EXISTS").arg(keys.log()).arg(keys.born()).arg(keys.pointer()).to_owned();
            if self.ask(&keys.log(), &there).await? != Value::Int(0) {
                return Err(Refusal::Mistake(format!(
                    "{} at {at} holds something already, and nothing says that an import has left it there. Import \
                     under another name (redis://…?name=NAME) or into another database",
                    keys.log()
                )));
            }
        }
        let text = serde_json::to_string(cluster).expect("plain fields");
        let set = redis::cmd("SET").arg(&key).arg(text).arg("NX").to_owned();
        match self.ask(&key, &set).await? {
            Value::Nil => Err(Refusal::Mistake(format!("another import into {at} is under way"))),
            _ => Ok(()),
        }
    }

    /// Makes `cluster` the one that is there: all of its shards are written.
    pub async fn finish(&self, cluster: &Cluster) -> Result<(), Refusal> {
        let there = self.home.found(&serde_json::to_string(cluster).expect("plain fields")).await?;
        if there != *cluster {
            return Err(there_is_one(self.server.address()));
        }
        let key = keys::import(&self.server.address().prefix());
        self.ask(&key, redis::cmd("UNLINK").arg(&key)).await.map(drop)
    }

    /// What an import says that has not come to its end.
    async fn marked(&self, key: &str) -> Result<Option<Cluster>, Refusal> {
        match self.ask(key, redis::cmd("GET").arg(key)).await? {
            Value::Nil => Ok(None),
            Value::BulkString(text) if let Ok(cluster) = serde_json::from_slice(&text) => Ok(Some(cluster)),
            _ => Err(Refusal::Mistake(format!(
                "{key} at {} was not written by this version of Lockstep: import under another name \
                 (redis://…?name=NAME)",
                self.server.address()
            ))),
        }
    }

    /// Takes away what an import has written of a shard, if nobody else has written there since.
    async fn clear(&self, shard: ShardId) -> Result<(), Refusal> {
        let keys = Keys::new(&self.server.address().prefix(), shard);
        let last = redis::cmd("XREVRANGE").arg(keys.log()).arg("+").arg("-").arg("COUNT").arg(1).to_owned();
        if let Value::Array(mut entries) = self.ask(&keys.log(), &last).await?
            && let Some(last) = entries.pop()
            && !Entry::read(last).is_ok_and(|entry| entry.author.node == NOBODY)
        {
            return Err(Refusal::Mistake(format!(
                "{} at {} holds more than an import has left there. Import under another name \
                 (redis://…?name=NAME) or into another database",
                keys.log(),
                self.server.address()
            )));
        }
        let mut gone = Vec::new();
        for set in self.names(&keys, &keys.sets()).await? {
            gone.extend(snapshot::pieces(&keys, &set));
        }
        let chunks = self.names(&keys, &keys.bodies()).await?;
        gone.extend(chunks.iter().filter_map(|name| Some(keys.body_chunk(name.parse().ok()?))));
        // Last: whoever is interrupted here can come back.
        gone.extend([keys.sets(), keys.bodies(), keys.pointer(), keys.born(), keys.log()]);
        for some in gone.chunks(AT_ONCE) {
            self.ask(&keys.log(), redis::cmd("UNLINK").arg(some)).await?;
        }
        Ok(())
    }

    async fn names(&self, keys: &Keys, of: &str) -> Result<Vec<String>, Refusal> {
        let text = |value| match value {
            Value::BulkString(text) => String::from_utf8(text).ok(),
            _ => None,
        };
        Ok(match self.ask(&keys.log(), redis::cmd("SMEMBERS").arg(of)).await? {
            Value::Array(names) => names.into_iter().filter_map(text).collect(),
            _ => Vec::new(),
        })
    }

    async fn ask(&self, key: &str, command: &redis::Cmd) -> Result<Value, Refusal> {
        let mut link = Link::new(&self.server, key.to_owned(), STILL);
        link.ask(command).await.map_err(|failed: Failed| Refusal::Away(failed.why()))
    }
}

fn there_is_one(at: &super::Address) -> Refusal {
    Refusal::Mistake(format!(
        "there is a cluster at {at} already. Import under another name (redis://…?name=NAME) or into another database"
    ))
}
