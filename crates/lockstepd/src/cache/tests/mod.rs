//! Three caches in one process over a network that can be cut, under simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::cache::space::Spaces;
use lockstep_core::command::{Member, NamespaceOp};
use lockstep_core::names::Incarnation;

use super::*;
use crate::peer::{Error as PeerError, Handler, Lane, Service};

mod facts;
mod figures;
mod large;
mod life;
mod moves;
mod overload;
mod watching;

const SECOND: Duration = Duration::from_secs(1);
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

/// Every message takes a millisecond, or never arrives where a link is cut.
#[derive(Default)]
struct Net {
    caches: Mutex<BTreeMap<NodeId, Arc<Cache>>>,
    /// Directed: from, to.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    requests: AtomicU64,
    /// Bytes of the largest answer.
    largest: AtomicU64,
}

struct Link(Arc<Net>, NodeId);

impl Net {
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().unwrap().contains(&(from.0, to.0))
    }

    fn cut(&self, from: u64, to: u64) {
        self.cut.lock().unwrap().insert((from, to));
    }

    /// As far as the others can see, `node` is gone, stopped or cut off.
    fn isolate(&self, node: u64) {
        for other in (0..=3).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

#[async_trait]
impl Peers for Link {
    async fn call(
        &self,
        to: NodeId,
        _: Lane,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        assert_eq!(service, Service::Cache);
        let Self(net, from) = self;
        net.requests.fetch_add(1, Ordering::Relaxed);
        let hop = Duration::from_millis(1);
        let answered = async {
            tokio::time::sleep(hop).await;
            let cache = net.caches.lock().unwrap().get(&to).cloned();
            let Some(cache) = cache.filter(|_| net.passes(*from, to)) else {
                return std::future::pending().await;
            };
            // The handler runs on although the caller may give up, as it does when an answer is lost.
            let from = *from;
            let answer = tokio::spawn(async move { cache.handle(from, payload).await }).await.unwrap();
            let bytes = answer.as_ref().map_or(0, Bytes::len);
            net.largest.fetch_max(bytes as u64, Ordering::Relaxed);
            tokio::time::sleep(hop).await;
            if net.passes(to, from) { answer } else { std::future::pending().await }
        };
        tokio::time::timeout(deadline, answered).await.unwrap_or(Err(PeerError::NoAnswer))
    }
}

struct Cluster {
    net: Arc<Net>,
    nodes: BTreeMap<u64, Arc<Cache>>,
    clock: Clock,
}

impl Cluster {
    /// Three members, each home of its part of the keys.
    async fn new() -> Self {
        Self::with_membership(FOR_EVER).await
    }

    async fn with_membership(membership: Duration) -> Self {
        Self::with(membership, Limits::default()).await
    }

    async fn with(membership: Duration, limits: Limits) -> Self {
        let (net, clock) = (Arc::new(Net::default()), Clock::tokio());
        let nodes: BTreeMap<u64, Arc<Cache>> = (1..=3)
            .map(|n| {
                let link = Arc::new(Link(net.clone(), NodeId(n)));
                (n, Cache::new(NodeId(n), clock.clone(), link, limits))
            })
            .collect();
        *net.caches.lock().unwrap() = nodes.iter().map(|(n, cache)| (NodeId(*n), cache.clone())).collect();
        let cluster = Self { net, nodes, clock };
        cluster.show(1, &[1, 2, 3], membership);
        cluster.settle().await;
        cluster
    }

    /// Shows every member of a ring that ring.
    fn show(&self, ring_epoch: u64, members: &[u64], until: Duration) {
        for node in members {
            self.nodes[node].set_view(&self.view(*node, ring_epoch, members, until));
        }
    }

    fn view(&self, node: u64, ring_epoch: u64, members: &[u64], until: Duration) -> View {
        let member = |n: &u64| Member {
            node: NodeId(*n),
            incarnation: Incarnation(1),
            url: "".into(),
            since_epoch: 1,
        };
        let me = members.contains(&node).then_some((Incarnation(1), 1));
        let mut spaces = Spaces::default();
        let op = NamespaceOp::Configure {
            name: "back".into(),
            write_back: Some(true),
            bytes_max: None,
            ttl: None,
        };
        spaces.apply(&op, &mut Vec::new());
        View { ring_epoch, me, members: members.iter().map(member).collect(), spaces, until }
    }

    /// Lets messages of ring changes travel.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// A key whose home is `node` under the current ring.
    fn key_at(&self, node: u64) -> String {
        let state = self.nodes[&node].lock();
        let is_home = |key: &String| state.home.home_of(key).is_some_and(|home| home.node.0 == node);
        (0..).map(|n| format!("k{n}")).find(is_home).unwrap()
    }

    async fn set(&self, node: u64, key: &str, value: &str) -> Result<Option<Version>, Error> {
        self.nodes[&node].write(set(key, value), 5 * SECOND).await.map(|written| written.version)
    }

    /// The value at `node` and whether it came from its own memory.
    async fn get(&self, node: u64, key: &str) -> Option<(String, bool)> {
        text(self.nodes[&node].get(&key.into(), false, 5 * SECOND).await.unwrap())
    }

    /// A figure of `node`, by name.
    fn figure(&self, node: u64, name: &str) -> u64 {
        let plain = self.nodes[&node].figures().plain;
        plain.into_iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("{name}")).1
    }

    fn local(&self, node: u64, key: &str) -> Option<String> {
        text(self.nodes[&node].get_local(key)).map(|(value, _)| value)
    }
}

fn set(key: &str, value: &str) -> Write {
    Write::new(key.into(), Change::Set(Bytes::copy_from_slice(value.as_bytes())))
}

fn text(entry: Option<Entry>) -> Option<(String, bool)> {
    entry.map(|entry| (String::from_utf8(entry.value.to_vec()).unwrap(), entry.local))
}

fn some(value: &str, local: bool) -> Option<(String, bool)> {
    Some((value.to_owned(), local))
}
