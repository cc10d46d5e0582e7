//! Moving a stopped cluster: out of one store into a file, and from the file into another store.
//!
//! What moves is what the logs hold: locks, queues, members, and what is remembered of requests. The
//! cache begins empty, as after any restart. It says what it does, and prints nothing itself.

mod directories;
mod file;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lockstep_core::Shard;
use lockstep_core::names::ShardId;
use serde::{Deserialize, Serialize};

use crate::log::redis::{self, Address, Offline};
use crate::state::Frozen;
use directories::Directories;
use file::{Export, Import};

/// Where a cluster's logs are.
pub enum Place {
    /// In data directories of its nodes; an import makes one for each below the first.
    Embedded(Vec<PathBuf>),
    /// In a Redis.
    Redis(Address),
}

/// Which cluster it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Made when the cluster formed.
    pub cluster_id: String,
    /// How many queue shards it has.
    pub queue_shards: u32,
    /// Its members.
    pub members: BTreeSet<u64>,
}

impl Cluster {
    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..=self.queue_shards).map(ShardId)
    }
}

/// Why a cluster did not move: a sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// Writes a stopped cluster to a file, and says so shard by shard. Errors: it runs, or something of it
/// is missing; there is no file then.
pub async fn export(from: Place, path: &Path, tell: &dyn Fn(String)) -> Result<(), Error> {
    match from {
        Place::Redis(address) => export_redis(address, path, tell).await,
        Place::Embedded(paths) => {
            let directories = Directories::open(&paths)?;
            let mut file = Export::create(path, directories.cluster())?;
            for shard in directories.cluster().shards() {
                let (frozen, of) = directories.read(shard).await?;
                tell(format!("shard {shard}: from the log of node {of}"));
                file.shard(shard, frozen, tell)?;
            }
            file.finish()
        }
    }
}

async fn export_redis(address: Address, path: &Path, tell: &dyn Fn(String)) -> Result<(), Error> {
    let store = Offline::open(address).await.map_err(Error::new)?;
    let Some(there) = store.cluster().await.map_err(Error::new)? else {
        return Err(Error::new("there is no cluster in that store under that name"));
    };
    let redis::Cluster { cluster_id, queue_shards, members, .. } = there;
    let cluster = Cluster { cluster_id, queue_shards, members };
    let shards: Vec<ShardId> = cluster.shards().collect();
    store.must_be_still(&shards).await.map_err(Error::new)?;
    let mut file = Export::create(path, &cluster)?;
    for shard in &shards {
        let frozen: Frozen = store.read(*shard).await.map_err(Error::new)?;
        // Its bodies come over the network while this thread waits for them.
        file = file.shard_beside(*shard, frozen, tell).await?;
    }
    store.must_be_still(&shards).await.map_err(Error::new)?;
    file.finish()
}

/// Writes a cluster from a file to where none is. The whole file is checked first; the cluster is made
/// known last. `restart`: takes away first what an interrupted import has left there. Answers which cluster
/// it is. Errors: the file is damaged, or there is something already.
pub async fn import(path: &Path, to: Place, restart: bool, tell: &dyn Fn(String)) -> Result<Cluster, Error> {
    let file = Import::open(path, tell)?;
    let cluster = file.cluster().clone();
    tell(format!("{} is whole: {} shards", path.display(), cluster.queue_shards + 1));
    match to {
        Place::Redis(address) => import_redis(&file, address, restart, tell).await?,
        Place::Embedded(paths) => {
            let [base] = paths.as_slice() else {
                return Err(Error::new("name one directory with --data: each node gets its own below it"));
            };
            directories::write(base, &file, restart, tell).await?;
        }
    }
    Ok(cluster)
}

async fn import_redis(
    file: &Import,
    address: Address,
    restart: bool,
    tell: &dyn Fn(String),
) -> Result<(), Error> {
    let store = Offline::open(address).await.map_err(Error::new)?;
    let cluster = file.cluster();
    let Cluster { cluster_id, queue_shards, members } = cluster.clone();
    let record = redis::Cluster::new(cluster_id, queue_shards, members);
    store.begin(&record, restart).await.map_err(Error::new)?;
    for shard in cluster.shards() {
        let (core, mut bodies) = file.shard(shard)?;
        store.write(shard, core, || bodies.next()).await.map_err(Error::new)?;
        tell(written(shard, cluster));
    }
    store.finish(&record).await.map_err(Error::new)
}

fn written(shard: ShardId, cluster: &Cluster) -> String {
    format!("shard {shard} of {} is written", cluster.queue_shards)
}

/// The first term of a restored shard: later than all of its history, and than any fork of it.
fn first_term(core: &[u8], now: u64) -> Result<u64, Error> {
    let shard = Shard::restore(core).map_err(Error::new)?;
    Ok(now.max(shard.epoch().0 + 1))
}
