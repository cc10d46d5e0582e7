//! What clients do with the cache, in a namespace that is written through and one whose lines have owners.

use std::time::Duration;

use lockstep_core::cache::space::{self, join};
use lockstep_core::command::NamespaceOp;
use lockstep_core::names::ShardId;
use lockstep_core::{Millis, Op};
use lockstepd::cache::{Change, DEFAULT, Error, Key, Loaded, Version, Write, Written};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::history::What;
use super::workload::{ASKED, Clients, now};

/// A write-back namespace.
const BACK: &str = "back";

impl Clients {
    /// Half of the keys lie in a namespace whose lines have owners.
    fn key(&self, rng: &mut SmallRng) -> Key {
        let namespace = if rng.random_bool(0.5) && self.node.cache.knows(BACK) { BACK } else { DEFAULT };
        join(namespace, &format!("k{}", rng.random_range(0..3u32)))
    }

    /// Whatever comes of it: another client may have done it, or will.
    pub(super) async fn configure(&self) {
        let op =
            NamespaceOp::Configure { name: BACK.into(), write_back: Some(true), bytes_max: None, ttl: None };
        let begun = now();
        if let Err(error) = self.node.router.execute(ShardId::COORDINATION, Op::Namespace(op), &ASKED).await {
            self.failed("configure", begun, &error);
        }
    }

    pub(super) async fn write(&self, rng: &mut SmallRng, value: String) {
        if rng.random_bool(0.2) {
            return self.swap(rng, value).await;
        }
        let mut write = Write::new(self.key(rng), Change::Set(value.clone().into_bytes().into()));
        if rng.random_bool(0.3) {
            write = Write::new(join(space::of(&write.key), "n"), Change::Add(1));
        } else if rng.random_bool(0.15) {
            write.change = Change::Delete;
        } else if rng.random_bool(0.1) {
            write.if_absent = true;
        }
        if rng.random_bool(0.3) {
            write.request_id = Some(value);
        }
        let mut writes = vec![write];
        if rng.random_bool(0.2) {
            writes.push(Write::new(self.key(rng), Change::Set("\"many\"".into())));
        }
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let begun = now();
        for (key, outcome) in keys.into_iter().zip(self.node.cache.write_many(writes, ASKED.timeout).await) {
            self.wrote(&key, begun, outcome);
        }
    }

    fn wrote(&self, key: &Key, begun: Duration, outcome: Result<Written, Error>) {
        let key = key.to_string();
        match outcome {
            Ok(Written { version: Some(version), sum: Some(sum) }) => {
                let version = pair(version);
                self.history.add(self.id, begun, What::Counted { key: key.clone(), version, sum });
                self.history.add(self.id, begun, What::Wrote { key, version });
            }
            Ok(Written { version: Some(version), .. }) => {
                self.history.add(self.id, begun, What::Wrote { key, version: pair(version) });
            }
            Ok(_) => {}
            Err(error) => self.failed("write", begun, &error),
        }
    }

    /// Reads, thinks, and writes if nobody has written in between.
    async fn swap(&self, rng: &mut SmallRng, value: String) {
        let key = self.key(rng);
        let begun = now();
        let Ok(Some(entry)) = self.node.cache.get(&key, false, ASKED.timeout).await else { return };
        let from = entry.version;
        self.history.add(self.id, begun, What::Read { key: key.to_string(), version: Some(pair(from)) });
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        let change = Change::Set(value.into_bytes().into());
        let write = Write { if_version: Some(from), ..Write::new(key.clone(), change) };
        let begun = now();
        let outcome = self.node.cache.write(write, ASKED.timeout).await;
        if let Ok(Written { version: Some(version), .. }) = &outcome {
            let (key, from, to) = (key.to_string(), pair(from), pair(*version));
            self.history.add(self.id, begun, What::Swapped { key, from, to });
        }
        self.wrote(&key, begun, outcome);
    }

    /// Fills a missing value in, slowly, if nobody else does.
    pub(super) async fn load(&self, rng: &mut SmallRng, value: String) {
        let (key, lease) = (self.key(rng), Millis(2_000));
        let begun = now();
        let loaded =
            self.node.cache.load(key.clone(), lease, Duration::from_millis(200), ASKED.timeout).await;
        match loaded {
            Ok(Loaded::Hit(entry)) => {
                let version = Some(pair(entry.version));
                self.history.add(self.id, begun, What::Read { key: key.to_string(), version });
            }
            Ok(Loaded::Loading { .. }) => {}
            Ok(Loaded::Fill { token, .. }) => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
                let change = Change::Set(value.into_bytes().into());
                let write = Write { fill: Some(token), ..Write::new(key.clone(), change) };
                let begun = now();
                let outcome = self.node.cache.write(write, ASKED.timeout).await;
                if let Ok(Written { version: Some(version), .. }) = &outcome {
                    let (key, from, to) = (key.to_string(), pair(token), pair(*version));
                    self.history.add(self.id, begun, What::Swapped { key, from, to });
                }
                self.wrote(&key, begun, outcome);
            }
            Err(error) => self.failed("load", begun, &error),
        }
    }

    pub(super) async fn flush(&self) {
        let begun = now();
        match self.node.cache.flush(DEFAULT, None, ASKED.timeout).await {
            Ok(()) => self.history.add(self.id, begun, What::Flushed),
            Err(error) => self.failed("flush", begun, &error),
        }
    }

    pub(super) async fn read(&self, rng: &mut SmallRng) {
        let key = if rng.random_bool(0.2) { join(DEFAULT, "n") } else { self.key(rng) };
        let begun = now();
        match self.node.cache.get(&key, rng.random_bool(0.2), ASKED.timeout).await {
            Ok(entry) => {
                let version = entry.map(|entry| pair(entry.version));
                self.history.add(self.id, begun, What::Read { key: key.to_string(), version });
            }
            Err(error) => self.failed("read", begun, &error),
        }
    }
}

fn pair(version: Version) -> (u64, u64) {
    (version.epoch, version.counter)
}
