//! The logs of a cluster that is stopped: read whole, or written where none are.
//!
//! For moving a cluster. It refuses while nodes write, and overwrites nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::shard::Settings;
use lockstep_core::{Index, Millis};
use redis::Value;

use super::driver::Driver;
use super::entry::{Author, Content, Position};
use super::home::{Cluster, Home};
use super::keys::Keys;
use super::lead::Fate;
use super::link::Link;
use super::server::{Refusal, Server};
use super::snapshot::{self, Written};
use super::{Address, Fault};
use crate::clock::unix_millis;
use crate::state::State;

/// Longer than the heartbeats of most clusters: a leader writes something meanwhile.
const STILL: Duration = Duration::from_secs(2);
/// Not a node of anybody's.
const NOBODY: NodeId = NodeId(0);

/// A cluster's place in Redis, while none of its nodes run.
pub struct Offline {
    server: Arc<Server>,
    home: Home,
}

impl Offline {
    /// Connects, and checks that Redis can be used.
    pub async fn open(address: Address) -> Result<Self, Refusal> {
        let server = Server::new(address)?;
        let home = Home::new(Arc::clone(&server), NOBODY);
        home.reach().await?;
        Ok(Self { server, home })
    }

    /// The cluster that is there.
    pub async fn cluster(&self) -> Result<Option<Cluster>, Refusal> {
        self.home.there().await
    }

    /// Fails if anybody writes to one of these shards.
    pub async fn must_be_still(&self, shards: &[ShardId]) -> Result<(), Refusal> {
        let before = self.ends(shards).await?;
        tokio::time::sleep(STILL).await;
        if self.ends(shards).await? == before {
            return Ok(());
        }
        Err(Refusal::Mistake(format!(
            "nodes of the cluster at {} are running. Stop all of them first",
            self.server.address()
        )))
    }

    /// A shard as [`State::snapshot`] writes it down, and the index that it reaches.
    pub async fn read(&self, shard: ShardId) -> Result<(Index, Bytes), Refusal> {
        let state = State::new(shard, blank());
        let mut driver = self.driver(shard, Arc::clone(&state));
        if snapshot::pointer(&mut driver.link, &driver.keys).await.map_err(refusal)?.is_none() {
            // Nodes write one at once, because it holds what a shard is told at its creation.
            return Err(Refusal::Mistake(format!(
                "{} has no snapshot yet. Start the nodes once, and stop them again",
                driver.keys.log()
            )));
        }
        driver.catch_up().await.map_err(refusal)?;
        state.snapshot().map_err(|error| Refusal::Mistake(error.to_string()))
    }

    /// Whether `bytes` are a state of `shard` that this version can read.
    pub fn check(shard: ShardId, bytes: &[u8]) -> Result<(), String> {
        State::new(shard, blank()).install(bytes).map_err(|error| error.to_string())
    }

    /// Makes `cluster` the one that is there. Fails if there is another.
    pub async fn found(&self, cluster: &Cluster) -> Result<(), Refusal> {
        let there = self.home.found(&serde_json::to_string(cluster).expect("plain fields")).await?;
        if there == *cluster {
            return Ok(());
        }
        Err(Refusal::Mistake(format!(
            "there is a cluster at {} already. Import under another name (redis://…?name=NAME) or into another \
             database",
            self.server.address()
        )))
    }

    /// Writes a shard whose state, written down by [`State::snapshot`], reaches `index`.
    pub async fn write(&self, shard: ShardId, index: Index, state: Bytes) -> Result<(), Refusal> {
        let mut driver = self.driver(shard, State::new(shard, blank()));
        let before = Position { index: Index(index.0.saturating_sub(1)), ..Position::default() };
        let at = before.reign(unix_millis() / 1000);
        match driver.append(at, &Author::new(NOBODY), Content::Reign, 0).await {
            Fate::Done => {}
            Fate::Refused(why) | Fate::Unknown(why) => return Err(Refusal::Away(why)),
            Fate::Full => return Err(Refusal::Away("Redis has no memory left".into())),
            Fate::Elsewhere(_) => {
                return Err(Refusal::Mistake(format!(
                    "{} at {} holds something already",
                    driver.keys.log(),
                    self.server.address()
                )));
            }
        }
        let keys = driver.keys.clone();
        match snapshot::write(&mut driver.link, &keys, at.epoch, at, state).await {
            Ok(Written::Done) => Ok(()),
            Ok(Written::Superseded) => {
                Err(Refusal::Mistake("another import or a node is at work there".into()))
            }
            Err(failed) => Err(Refusal::Away(failed.why())),
        }
    }

    fn driver(&self, shard: ShardId, state: Arc<State>) -> Driver {
        Driver::idle(&self.server, NOBODY, shard, state)
    }

    async fn ends(&self, shards: &[ShardId]) -> Result<Vec<Value>, Refusal> {
        let mut ends = Vec::new();
        for shard in shards {
            let keys = Keys::new(&self.server.address().prefix(), *shard);
            let mut link = Link::new(&self.server, keys.log(), STILL);
            let mut last = redis::cmd("EVAL");
            last.arg(include_str!("last.lua")).arg(1).arg(keys.log());
            ends.push(link.ask(&last).await.map_err(|failed| Refusal::Away(failed.why()))?);
        }
        Ok(ends)
    }
}

/// For a state that takes its real settings from a snapshot.
fn blank() -> Settings {
    Settings {
        max_step: Millis(0),
        memo_max: 0,
        waiters_max: 0,
        queue_shards: 1,
        messages_max: 0,
        bytes_max: 0,
    }
}

fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::Away(why) => Refusal::Away(why),
        Fault::Broken(why) => Refusal::Mistake(why),
    }
}
