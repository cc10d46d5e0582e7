//! A cluster in the data directories of its nodes: read from those of a majority, written for all.
//!
//! Reading does what a node does when it starts, and changes nothing that a later start would miss.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lockstep_core::names::{NodeId, ShardId};
use lockstep_core::shard::Settings;

use super::file::Import;
use super::{Cluster, Error, first_term};
use crate::clock::unix_millis;
use crate::identity::{Directory, Identity};
use crate::log::raft::{Begin, Stored};
use crate::node::replicas;
use crate::state::{Frozen, State};
use crate::store::bodies::{self, Bodies};
use crate::store::snapshots::Snapshots;
use crate::store::wal::{self, Wal};

/// Beside the nodes' directories while an import writes them.
const MARK: &str = "import.incomplete";

/// Directories of one cluster's nodes, which this process holds alone.
pub(super) struct Directories {
    cluster: Cluster,
    replicas: BTreeMap<ShardId, Vec<NodeId>>,
    nodes: BTreeMap<NodeId, Node>,
}

struct Node {
    _alone: Directory,
    wal: Wal,
    snapshots: Snapshots,
}

impl Directories {
    /// Errors: a node runs, or they are not of one cluster.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut found: Option<Cluster> = None;
        let mut nodes = BTreeMap::new();
        for path in paths {
            let (identity, node) = open(path)?;
            let Identity { node_id, cluster_id, queue_shards, members, .. } = identity;
            let cluster = Cluster { cluster_id, queue_shards, members };
            if found.as_ref().is_some_and(|found| *found != cluster) {
                return Err(Error::new(format_args!("{} belongs to another cluster", path.display())));
            }
            found = Some(cluster);
            if nodes.insert(NodeId(node_id), node).is_some() {
                let why = format_args!("{} belongs to node {node_id}, as another one does", path.display());
                return Err(Error::new(why));
            }
        }
        let why = "name the data directories of the nodes with --data, once for each";
        let cluster = found.ok_or_else(|| Error::new(why))?;
        let replicas = replicas(cluster.queue_shards, &cluster.members);
        Ok(Self { cluster, replicas, nodes })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A shard at the end of its log, as the node has it that knows most, and who that is.
    pub(super) async fn read(&self, shard: ShardId) -> Result<(Frozen, NodeId), Error> {
        let voters = self.replicas.get(&shard).map(Vec::as_slice).unwrap_or_default();
        let here: Vec<NodeId> = voters.iter().copied().filter(|node| self.nodes.contains_key(node)).collect();
        let majority = voters.len() / 2 + 1;
        if here.len() < majority {
            return Err(Error::new(format_args!(
                "shard {shard} is kept by the nodes {voters:?}, and a majority of them knows everything that was \
                 acknowledged: name the data directories of {majority} of these with --data"
            )));
        }
        let mut best = None;
        for node in here {
            let of = &self.nodes[&node];
            let stored = Stored::open(shard, of.wal.clone()).map_err(Error::new)?;
            if let Some(reach) = stored.reach()
                && best.as_ref().is_none_or(|(most, _, _)| reach > *most)
            {
                best = Some((reach, node, stored));
            }
        }
        let (_, node, stored) = best.ok_or_else(|| {
            Error::new(format_args!("shard {shard} holds nothing: the cluster never formed"))
        })?;
        let snapshots = &self.nodes[&node].snapshots;
        let bodies = snapshots.bodies(shard).map_err(Error::new)?;
        let state = State::with_bodies(shard, Settings::default(), bodies);
        stored.replay(state.clone(), snapshots).await.map_err(Error::new)?;
        Ok((state.freeze(), node))
    }
}

fn open(path: &Path) -> Result<(Identity, Node), Error> {
    if !path.join("node.json").exists() {
        return Err(Error::new(format_args!("{} is no data directory of a node", path.display())));
    }
    let directory = Directory::open(path).map_err(Error::new)?;
    let Some(identity) = directory.identity().map_err(Error::new)? else {
        return Err(Error::new(format_args!("{} is no data directory of a node", path.display())));
    };
    let wal = path.join("wal");
    Wal::must_exist(&wal).map_err(Error::new)?;
    let wal = Wal::open(&wal, wal::Settings::default()).map_err(Error::new)?;
    let snapshots = Snapshots::open(path, bodies::Settings::default()).map_err(Error::new)?;
    Ok((identity, Node { _alone: directory, wal, snapshots }))
}

/// Writes every node's data directory below `base`. `restart`: removes first what an interrupted import
/// has left. Errors: there is something already; nothing is written then.
pub(super) async fn write(
    base: &Path,
    file: &Import,
    restart: bool,
    tell: &dyn Fn(String),
) -> Result<(), Error> {
    let cluster = file.cluster();
    let mark = base.join(MARK);
    let paths = |cluster: &Cluster| -> Vec<PathBuf> {
        cluster.members.iter().map(|node| base.join(format!("node{node}"))).collect()
    };
    if let Ok(text) = std::fs::read(&mark) {
        let left = paths(&serde_json::from_slice(&text).unwrap_or_else(|_| cluster.clone()));
        clear(base, &left, restart)?;
    }
    for path in paths(cluster) {
        if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            let why = format_args!("{} is not empty: import below another directory", path.display());
            return Err(Error::new(why));
        }
    }
    let unusable = |error: std::io::Error| Error::new(format_args!("cannot use {}: {error}", mark.display()));
    std::fs::create_dir_all(base).map_err(unusable)?;
    std::fs::write(&mark, serde_json::to_vec(cluster).expect("plain fields")).map_err(unusable)?;
    // The same at all nodes: no history before it, whatever became of it, has the same tokens.
    let now = unix_millis() / 1000;
    let mut written = Vec::new();
    for (node, path) in cluster.members.iter().zip(paths(cluster)) {
        written.push((*node, write_node(&path, *node, file, now, tell).await?));
    }
    // Last: until then no node can start in any of them, and they only fit together.
    for (node, directory) in written {
        let Cluster { cluster_id, queue_shards, members } = cluster.clone();
        let mut identity = Identity::new(node, cluster_id, queue_shards, members);
        // Larger than that of any process before, wherever those were counted.
        identity.incarnation = unix_millis();
        directory.save(&identity).map_err(Error::new)?;
    }
    std::fs::remove_file(&mark).map_err(unusable)
}

/// Removes what an interrupted import has left, if that is wanted. Nothing that a node could have used.
fn clear(base: &Path, left: &[PathBuf], restart: bool) -> Result<(), Error> {
    let base = base.display();
    let complete: Vec<_> = left.iter().filter(|path| path.join("node.json").exists()).collect();
    if !complete.is_empty() {
        return Err(Error::new(format_args!(
            "an import below {base} was interrupted at its very end: {complete:?} may have been started since. If \
             not, remove them, then import again with --restart; or import below another directory"
        )));
    }
    if !restart {
        return Err(Error::new(format_args!(
            "an import below {base} has not come to its end. If it still runs, wait for it; else add --restart, which \
             removes {left:?} and begins again; or import below another directory"
        )));
    }
    for path in left.iter().filter(|path| path.exists()) {
        std::fs::remove_dir_all(path)
            .map_err(|error| Error::new(format_args!("cannot remove {}: {error}", path.display())))?;
    }
    Ok(())
}

async fn write_node(
    path: &Path,
    node: u64,
    file: &Import,
    now: u64,
    tell: &dyn Fn(String),
) -> Result<Directory, Error> {
    let directory = Directory::open(path).map_err(Error::new)?;
    let wal = Wal::open(&path.join("wal"), wal::Settings::default()).map_err(Error::new)?;
    let settings = bodies::Settings { cache_bytes: 0, ..bodies::Settings::default() };
    let snapshots = Snapshots::open(path, settings).map_err(Error::new)?;
    let cluster = file.cluster();
    for (shard, nodes) in replicas(cluster.queue_shards, &cluster.members) {
        if !nodes.contains(&NodeId(node)) {
            continue;
        }
        let (core, mut read) = file.shard(shard)?;
        let mut kept = Bodies::empty(snapshots.bodies(shard).map_err(Error::new)?);
        while let Some((id, body)) = read.next().map_err(Error::new)? {
            kept.put(id, body);
        }
        let voters: BTreeSet<NodeId> = nodes.into_iter().collect();
        let begin = Begin { shard, voters, term: first_term(&core, now)?, core: &core };
        begin.at(&wal, &snapshots, kept.freeze()).await.map_err(Error::new)?;
        tell(format!("node {node}: {}", super::written(shard, cluster)));
    }
    Ok(directory)
}
