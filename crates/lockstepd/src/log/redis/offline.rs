//! The logs of a cluster that is stopped: read whole, or written where none are.
//!
//! For moving a cluster. It refuses while nodes write, and overwrites nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_core::names::{MessageId, NodeId, ShardId};
use lockstep_core::shard::Settings;
use lockstep_core::{Index, Millis, Shard};
use redis::Value;

use super::append::Fate;
use super::driver::Driver;
use super::entry::{Author, Content, Position};
use super::home::{Cluster, Home};
use super::keys::Keys;
use super::link::{Failed, Link};
use super::server::{Refusal, Server};
use super::snapshot;
use super::write::{Writer, Written};
use super::{Address, Fault, chunks};
use crate::clock::unix_millis;
use crate::state::{Frozen, State};
use crate::store::bodies::{Bodies, Directory};

/// Longer than the heartbeats of most clusters: a leader writes something meanwhile.
pub(super) const STILL: Duration = Duration::from_secs(2);
/// Bodies that wait in memory until they are stored.
const STORE_BYTES: usize = 64 << 20;
/// Not a node of anybody's.
pub(super) const NOBODY: NodeId = NodeId(0);

/// A cluster's place in Redis, while none of its nodes run.
pub struct Offline {
    pub(super) server: Arc<Server>,
    pub(super) home: Home,
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

    /// A shard as it is at the end of its log.
    pub async fn read(&self, shard: ShardId) -> Result<Frozen, Refusal> {
        let state = State::with_bodies(shard, blank(), self.bodies(shard));
        let mut driver = self.driver(shard, Arc::clone(&state));
        if snapshot::pointer(&mut driver.link, &driver.keys).await.map_err(refusal)?.is_none() {
            // Nodes write one at once, because it holds what a shard is told at its creation.
            return Err(Refusal::Mistake(format!(
                "{} has no snapshot yet. Start the nodes once, and stop them again",
                driver.keys.log()
            )));
        }
        driver.catch_up().await.map_err(refusal)?;
        Ok(state.freeze())
    }

    /// Writes a shard: its own bytes, and the bodies of its messages in order, which `next` reads one by
    /// one. A later reign than any that the shard has seen begins with it.
    pub async fn write(
        &self,
        shard: ShardId,
        core: Bytes,
        mut next: impl FnMut() -> io::Result<Option<(MessageId, Bytes)>>,
    ) -> Result<(), Refusal> {
        let unreadable = |error: String| Refusal::Mistake(format!("shard {shard}: {error}"));
        let state = Shard::restore(&core).map_err(|error| unreadable(error.to_string()))?;
        let mut driver = self.driver(shard, State::new(shard, blank()));
        let before = Index(state.applied().0.saturating_sub(1));
        let before = Position { index: before, epoch: state.epoch(), seq: 0 };
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
        let mut writer = Writer {
            link: driver.link.another(),
            keys: driver.keys.clone(),
            by: at.epoch,
            chunks: Arc::default(),
        };
        let (mut bodies, mut waiting) = (Bodies::empty(self.bodies(shard)), 0);
        loop {
            let body = next().map_err(|error| unreadable(error.to_string()))?;
            if body.is_none() || waiting >= STORE_BYTES {
                let mut image = bodies.freeze();
                match writer.store(&mut image).await {
                    Ok(true) => {}
                    Ok(false) => return Err(at_work()),
                    Err(failed) => return Err(Refusal::Away(failed.why())),
                }
                let stored = image.manifest();
                bodies.adopt(&stored, |_| true).map_err(|error| unreadable(error.to_string()))?;
                waiting = 0;
                if body.is_none() {
                    return pointed(writer.point(at, core, stored).await);
                }
            }
            if let Some((id, body)) = body {
                waiting += body.len();
                bodies.put(id, body);
            }
        }
    }

    fn bodies(&self, shard: ShardId) -> Directory {
        let keys = Keys::new(&self.server.address().prefix(), shard);
        chunks::directory(Link::new(&self.server, keys.log(), STILL), keys)
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

fn at_work() -> Refusal {
    Refusal::Mistake("another import or a node is at work there".into())
}

fn pointed(written: Result<Written, Failed>) -> Result<(), Refusal> {
    match written {
        Ok(Written::Done { .. }) => Ok(()),
        Ok(Written::Superseded | Written::Without(_) | Written::Nothing) => Err(at_work()),
        Err(failed) => Err(Refusal::Away(failed.why())),
    }
}

fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::Away(why) => Refusal::Away(why),
        Fault::Broken(why) => Refusal::Mistake(why),
    }
}
