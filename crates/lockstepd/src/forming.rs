//! Forming a cluster for the first time, and refusing to do so when it would forget promises.
//!
//! The member with the lowest id makes the cluster's id and hands it to all others; replication
//! starts only when every one of them has it on disk. A node with an empty directory whose peers
//! remember it refuses to start: it may have voted, or held the only second copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use lockstep_core::names::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::identity::{Directory, Identity};
use crate::peer::{self, Handler, Lane, Peers, Service};

const CALL: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory is empty, but the cluster knows it.
    #[error(
        "node {node} has an empty data directory, but node {peer} knows it as a member of cluster {cluster}. What it had promised there is lost: restore its directory, or remove it from the cluster and join under a new id"
    )]
    Forgotten {
        /// This node.
        node: NodeId,
        /// Who remembers it.
        peer: NodeId,
        /// The cluster.
        cluster: String,
    },
    /// A peer was started with other settings.
    #[error("node {peer} refuses to form a cluster with this node: {why}")]
    Refused {
        /// Who.
        peer: NodeId,
        /// Its words.
        why: String,
    },
    /// The data directory failed.
    #[error(transparent)]
    Identity(#[from] crate::identity::Error),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Ask {
    /// Who are you, and do you know a cluster?
    Who,
    /// Be part of this cluster.
    Form { cluster_id: String, queue_shards: u32, members: BTreeSet<u64> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Said {
    I { cluster_id: Option<String>, formed: bool },
    Agreed,
    Refused(String),
}

/// A node's part in forming: what it knows, and its answers to its peers.
pub struct Forming {
    node: NodeId,
    members: BTreeSet<u64>,
    queue_shards: u32,
    /// What this node was told to insist on.
    told_queue_shards: Option<u32>,
    directory: Directory,
    identity: watch::Sender<Option<Identity>>,
    /// Whether this node's log shows that the whole cluster has agreed.
    formed: Mutex<bool>,
}

impl Forming {
    /// Reads what the directory knows; `formed` says whether its log holds anything.
    pub fn new(
        directory: Directory,
        node: NodeId,
        members: BTreeSet<u64>,
        queue_shards: Option<u32>,
        default_queue_shards: u32,
    ) -> Result<Arc<Self>, crate::identity::Error> {
        let identity = directory.identity()?;
        if let Some(identity) = &identity {
            identity.check(&directory, node.0, queue_shards, &members)?;
        }
        let identity = watch::Sender::new(identity);
        Ok(Arc::new(Self {
            node,
            members,
            queue_shards: queue_shards.unwrap_or(default_queue_shards),
            told_queue_shards: queue_shards,
            directory,
            identity,
            formed: Mutex::new(false),
        }))
    }

    /// Where the node keeps everything.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The identity, as soon as there is one.
    pub fn identity(&self) -> watch::Receiver<Option<Identity>> {
        self.identity.subscribe()
    }

    /// This node's log shows that the cluster has formed.
    pub fn set_formed(&self) {
        *self.formed.lock().expect("nothing panics while it holds this") = true;
    }

    /// Takes the next incarnation number and keeps it on disk.
    pub fn next_incarnation(&self) -> Result<u64, crate::identity::Error> {
        let mut identity = self.identity.borrow().clone().expect("asked for only after forming");
        identity.incarnation += 1;
        self.directory.save(&identity)?;
        let incarnation = identity.incarnation;
        self.identity.send_replace(Some(identity));
        Ok(incarnation)
    }

    /// Waits until this node has an identity: its own of old, or that of a cluster that forms now.
    pub async fn join(&self, peers: &dyn Peers) -> Result<Identity, Error> {
        let mut told = 0u32;
        loop {
            if let Some(identity) = self.identity.borrow().clone() {
                return Ok(identity);
            }
            let known = self.ask_all(peers, &Ask::Who).await;
            if let Some(error) = self.forgotten(&known) {
                return Err(error);
            }
            let missing: Vec<_> = self.others().filter(|peer| !known.contains_key(peer)).collect();
            if missing.is_empty() && self.is_lowest() {
                self.found(&known)?;
                continue;
            }
            if !missing.is_empty() && told.is_multiple_of(25) {
                tracing::warn!(?missing, "forming the cluster needs every member once; still waiting");
            }
            told += 1;
            let mut identity = self.identity();
            let _ = tokio::time::timeout(PAUSE, identity.wait_for(Option::is_some)).await;
        }
    }

    /// On the lowest member of a cluster whose log is still empty: makes sure that every member
    /// has the identity on disk. Only then may replication start.
    pub async fn agree(&self, peers: &dyn Peers, identity: &Identity) -> Result<(), Error> {
        let ask = Ask::Form {
            cluster_id: identity.cluster_id.clone(),
            queue_shards: identity.queue_shards,
            members: identity.members.clone(),
        };
        loop {
            let said = self.ask_all(peers, &ask).await;
            for (peer, said) in &said {
                if let Said::Refused(why) = said {
                    return Err(Error::Refused { peer: *peer, why: why.clone() });
                }
            }
            if said.len() == self.members.len() - 1 {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether this node makes the cluster's id and starts replication.
    pub fn is_lowest(&self) -> bool {
        self.members.first() == Some(&self.node.0)
    }

    /// A half-formed cluster goes on under the id that it has; otherwise there is a new one.
    fn found(&self, known: &BTreeMap<NodeId, Said>) -> Result<(), Error> {
        let begun = known.values().find_map(|said| match said {
            Said::I { cluster_id, .. } => cluster_id.clone(),
            _ => None,
        });
        let cluster_id = begun.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let identity = Identity::new(self.node.0, cluster_id, self.queue_shards, self.members.clone());
        self.directory.save(&identity)?;
        self.identity.send_replace(Some(identity));
        Ok(())
    }

    fn forgotten(&self, known: &BTreeMap<NodeId, Said>) -> Option<Error> {
        known.iter().find_map(|(peer, said)| match said {
            Said::I { cluster_id: Some(cluster), formed: true } => {
                Some(Error::Forgotten { node: self.node, peer: *peer, cluster: cluster.clone() })
            }
            _ => None,
        })
    }

    async fn ask_all(&self, peers: &dyn Peers, ask: &Ask) -> BTreeMap<NodeId, Said> {
        let bytes = Bytes::from(postcard::to_stdvec(ask).expect("writing to memory cannot fail"));
        let calls = self.others().map(|peer| {
            let bytes = bytes.clone();
            async move {
                let said = peers.call(peer, Lane::Control, Service::Forming, bytes, CALL).await;
                (peer, said)
            }
        });
        let mut answers = BTreeMap::new();
        for (peer, said) in join_all(calls).await {
            match said {
                Ok(bytes) => {
                    if let Ok(said) = postcard::from_bytes(&bytes) {
                        answers.insert(peer, said);
                    }
                }
                Err(peer::Error::Refused(why)) => {
                    answers.insert(peer, Said::Refused(why));
                }
                Err(_) => {}
            }
        }
        answers
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|id| NodeId(*id)).filter(|id| *id != self.node)
    }

    fn answer(&self, ask: Ask) -> Said {
        let identity = self.identity.borrow().clone();
        let formed = *self.formed.lock().expect("nothing panics while it holds this");
        let Ask::Form { cluster_id, queue_shards, members } = ask else {
            return Said::I { cluster_id: identity.map(|identity| identity.cluster_id), formed };
        };
        if members != self.members {
            return Said::Refused(format!("it was started with members {:?}, not {members:?}", self.members));
        }
        if let Some(told) = self.told_queue_shards.filter(|told| *told != queue_shards) {
            return Said::Refused(format!("it was started with --queue-shards {told}, not {queue_shards}"));
        }
        match identity {
            Some(mine) if mine.cluster_id == cluster_id => Said::Agreed,
            Some(mine) if formed => Said::Refused(format!("it belongs to cluster {}", mine.cluster_id)),
            _ => self.adopt(Identity::new(self.node.0, cluster_id, queue_shards, members)),
        }
    }

    fn adopt(&self, identity: Identity) -> Said {
        match self.directory.save(&identity) {
            Ok(()) => {
                self.identity.send_replace(Some(identity));
                Said::Agreed
            }
            Err(error) => Said::Refused(error.to_string()),
        }
    }
}

#[async_trait]
impl Handler for Forming {
    async fn handle(&self, _from: NodeId, payload: Bytes) -> Result<Bytes, peer::Error> {
        let ask = postcard::from_bytes(&payload).map_err(|_| peer::Error::Malformed)?;
        let said = self.answer(ask);
        Ok(postcard::to_stdvec(&said).expect("writing to memory cannot fail").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_told_another_number_of_queue_shards_refuses_to_form() {
        let temporary = tempfile::tempdir().unwrap();
        let members = BTreeSet::from([1, 2, 3]);
        let ask = |queue_shards| Ask::Form {
            cluster_id: "c".repeat(32),
            queue_shards,
            members: BTreeSet::from([1, 2, 3]),
        };
        let directory = Directory::open(temporary.path()).unwrap();
        let forming = Forming::new(directory, NodeId(2), members, Some(5), 3).unwrap();
        assert!(matches!(forming.answer(ask(3)), Said::Refused(why) if why.contains("--queue-shards 5")));
        assert!(forming.identity().borrow().is_none(), "it adopted what it refused");
        assert!(matches!(forming.answer(ask(5)), Said::Agreed));
    }
}
