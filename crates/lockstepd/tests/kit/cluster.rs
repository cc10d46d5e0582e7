//! A cluster of nodes, and what a test may do to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::http::Http;
use super::links::Links;
use super::node::Node;
use super::wait::eventually;

/// What a test may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many nodes.
    pub nodes: u64,
    /// Options of every `lockstep serve`.
    pub options: Vec<String>,
    /// Whether the nodes keep nothing: a Redis holds their logs, and they get no directory.
    pub redis: bool,
}

impl Settings {
    /// `nodes` nodes that notice a dead leader within a second.
    pub fn fast(nodes: u64) -> Self {
        let options = [
            ("--heartbeat-ms", "100"),
            ("--election-ms-min", "500"),
            ("--election-ms-max", "1000"),
            ("--member-lease-ms", "2000"),
            ("--log", "info"),
        ];
        let options = options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
        Self { nodes, options: options.collect(), redis: false }
    }

    /// With one more option, which wins over an earlier one of the same name.
    #[must_use]
    pub fn with(mut self, flag: &str, value: &str) -> Self {
        let at = self.options.iter().position(|option| option == flag);
        match at {
            Some(at) => value.clone_into(&mut self.options[at + 1]),
            None => self.options.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }
}

impl Settings {
    /// Like [`Self::fast`], with the Redis at `url` as the store.
    pub fn on_redis(nodes: u64, url: &str) -> Self {
        Self { redis: true, ..Self::fast(nodes) }.with("--store", url)
    }
}

/// How long a healthy cluster may take to come up, even on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running cluster. Dropping it kills its nodes; its directory is kept if the test has failed.
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
    links: Links,
    directory: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Starts `nodes` nodes with fast elections, and waits until all are ready.
    pub async fn start(nodes: u64) -> Self {
        Self::start_with(Settings::fast(nodes)).await
    }

    /// Starts a cluster, and waits until all its nodes are ready.
    pub async fn start_with(settings: Settings) -> Self {
        let mut cluster = Self::prepare(settings).await;
        cluster.start_all();
        cluster.all_ready().await;
        cluster
    }

    /// Lays a cluster out without starting a node.
    pub async fn prepare(settings: Settings) -> Self {
        let directory = tempfile::Builder::new().prefix("lockstep-test-").tempdir().expect("a directory");
        let node = |id| (id, Node::new(id, directory.path(), &settings.options));
        let mut nodes: BTreeMap<u64, Node> = (1..=settings.nodes).map(node).collect();
        let address = |node: &Node| SocketAddr::from(([127, 0, 0, 1], node.peer));
        let peers: BTreeMap<u64, SocketAddr> = nodes.values().map(|node| (node.id, address(node))).collect();
        let links = Links::open(&peers).await.expect("open the links");
        for node in nodes.values_mut() {
            let seen = |to: u64| if to == node.id { peers[&to] } else { links.address(node.id, to) };
            let parts: Vec<String> = peers.keys().map(|to| format!("{to}={}", seen(*to))).collect();
            node.members = parts.join(",");
            node.keeps_data = !settings.redis;
        }
        Self { nodes, links, directory: Some(directory) }
    }

    /// The ids of all nodes, running or not.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// All ids but one.
    pub fn others(&self, id: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|other| *other != id).collect()
    }

    /// A node.
    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    /// Asks a node over HTTP.
    pub fn http(&self, id: u64) -> Http {
        self.nodes[&id].http()
    }

    /// Where everything of this cluster lies.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("kept until the end").path()
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        self.nodes.values_mut().filter_map(|node| (!node.runs()).then_some(node)).for_each(|node| {
            node.kill();
            node.start();
        });
    }

    /// `kill -9` on every node, one right after the other.
    pub fn kill_all(&mut self) {
        self.nodes.values_mut().for_each(Node::kill);
    }

    /// Waits until every node is ready.
    pub async fn all_ready(&mut self) {
        for id in self.ids() {
            self.ready(id).await;
        }
    }

    /// Waits until a node is ready. Panics when its process has ended instead.
    pub async fn ready(&mut self, id: u64) {
        let node = self.node(id);
        let http = node.http().patient(Duration::from_secs(2));
        let what = format!("node {id} is ready");
        eventually(&what, READY_WITHIN, || {
            assert!(node.runs(), "node {id} has ended");
            async move { http.get("/ready").await.ok().filter(|answer| answer.status == 200).map(drop) }
        })
        .await;
    }

    /// The node that all of `among` call the leader; waits until they do, at most ten seconds.
    pub async fn leader_among(&self, among: &[u64]) -> u64 {
        let nodes: Vec<Http> =
            among.iter().map(|id| self.http(*id).patient(Duration::from_secs(2))).collect();
        eventually("one leader for all", Duration::from_secs(10), || async {
            agreed_leader(nodes.clone()).await.filter(|leader| among.contains(leader))
        })
        .await
    }

    /// The node that every node calls the leader.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.ids()).await
    }

    /// Holds up all bytes between two nodes.
    pub fn cut(&self, one: u64, other: u64) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Holds up bytes from one node to another; the way back stays open.
    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.links.set(from, to, false);
    }

    /// Holds up all bytes from and to a node.
    pub fn isolate(&self, id: u64) {
        self.others(id).into_iter().for_each(|other| self.cut(id, other));
    }

    /// Opens every link again.
    pub fn heal(&self) {
        self.links.heal();
    }
}

async fn agreed_leader(nodes: Vec<Http>) -> Option<u64> {
    let mut agreed = None;
    for node in nodes {
        let answer = node.get("/leader").await.ok()?;
        let leader = answer.json["leader"]["id"].as_u64()?;
        if *agreed.get_or_insert(leader) != leader {
            return None;
        }
    }
    agreed
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if !std::thread::panicking() {
            return;
        }
        for node in self.nodes.values() {
            let text = node.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- the last lines of node {} ---\n{tail}", node.id);
        }
        if let Some(directory) = self.directory.take() {
            eprintln!("--- everything is kept in {} ---", directory.keep().display());
        }
    }
}
