//! All of a node's connections: one to each peer for each lane, and those that peers open to it.
//!
//! Greets with the node's identity, so that a node of another version, cluster or name is refused
//! with a sentence instead of being misunderstood.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::NodeId;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::frame::{Frame, Hello, VERSION};
use super::incoming;
use super::net::{Listener, Net, Stream};
use super::outgoing::{Connection, Link, lock};
use super::{Error, Handler, Lane, Peers, Service, Settings};

type Handlers = Arc<BTreeMap<Service, Arc<dyn Handler>>>;

/// The transport of one node.
pub struct Transport {
    node: NodeId,
    cluster: watch::Sender<Option<String>>,
    links: BTreeMap<(NodeId, Lane), Arc<Link>>,
    addresses: BTreeMap<NodeId, String>,
    handlers: Mutex<BTreeMap<Service, Arc<dyn Handler>>>,
    serving: Mutex<Option<Handlers>>,
    net: Arc<dyn Net>,
    settings: Settings,
    tasks: Mutex<Vec<AbortHandle>>,
}

const LANES: [Lane; 4] = [Lane::Control, Lane::Append, Lane::Request, Lane::Snapshot];

impl Transport {
    /// A node's transport to `addresses` (every member, itself included). Nothing moves yet.
    pub fn new(
        node: NodeId,
        addresses: BTreeMap<NodeId, String>,
        net: Arc<dyn Net>,
        settings: Settings,
    ) -> Arc<Self> {
        let others = addresses.keys().filter(|id| **id != node);
        let links = others
            .flat_map(|id| LANES.map(|lane| ((*id, lane), Link::new(settings.queue_bytes_max))))
            .collect();
        Arc::new(Self {
            node,
            cluster: watch::Sender::default(),
            links,
            addresses,
            handlers: Mutex::default(),
            serving: Mutex::default(),
            net,
            settings,
            tasks: Mutex::default(),
        })
    }

    /// The cluster that this node belongs to, as soon as it is known. Until then only forming is
    /// possible; connections from that time are opened anew.
    pub fn set_cluster(&self, cluster: &str) {
        self.cluster.send_replace(Some(cluster.to_owned()));
    }

    /// Registers who answers requests for `service`. To be done before [`Self::start`].
    pub fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        lock(&self.handlers).insert(service, handler);
    }

    /// Listens on `address` and begins to connect. Answers with where it really listens.
    pub async fn start(self: &Arc<Self>, address: &str) -> std::io::Result<SocketAddr> {
        let listener = self.net.bind(address).await?;
        let local = listener.local_addr()?;
        *lock(&self.serving) = Some(Arc::new(lock(&self.handlers).clone()));
        let mut tasks = vec![tokio::spawn(Arc::clone(self).accept(listener)).abort_handle()];
        for ((peer, lane), link) in &self.links {
            let (transport, peer, lane) = (Arc::clone(self), *peer, *lane);
            let cluster = self.cluster.subscribe();
            let hello = move || Hello::new(transport.node.0, peer.0, lane as u8, transport.cluster());
            let run = Arc::clone(link).run(
                Arc::clone(&self.net),
                self.addresses[&peer].clone(),
                hello,
                cluster,
                self.settings.clone(),
            );
            tasks.push(tokio::spawn(run).abort_handle());
        }
        lock(&self.tasks).extend(tasks);
        Ok(local)
    }

    /// Which peers have an open connection from this node.
    pub fn connected(&self) -> BTreeMap<NodeId, bool> {
        let control = self.links.iter().filter(|((_, lane), _)| *lane == Lane::Control);
        control.map(|((peer, _), link)| (*peer, link.is_up())).collect()
    }

    /// Returns once every peer refuses this node, with the words of one of them.
    pub async fn refused_by_all(&self) -> String {
        loop {
            let control = self.links.iter().filter(|((_, lane), _)| *lane == Lane::Control);
            let refusals: Option<Vec<_>> = control.map(|(_, link)| link.refusal()).collect();
            if let Some(why) = refusals.and_then(|mut all| all.pop()) {
                return why;
            }
            tokio::time::sleep(self.settings.ping_every).await;
        }
    }

    /// Closes everything, and lets go of the handlers, which know this transport.
    pub fn shutdown(&self) {
        lock(&self.handlers).clear();
        *lock(&self.serving) = None;
        lock(&self.tasks).drain(..).for_each(|task| task.abort());
    }

    fn serving(&self) -> Option<Handlers> {
        lock(&self.serving).clone()
    }

    fn cluster(&self) -> Option<String> {
        self.cluster.borrow().clone()
    }

    async fn accept(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok(stream) if connections.len() < self.settings.connections_max => {
                    connections.spawn(Arc::clone(&self).greet(stream));
                }
                Ok(_) => tracing::warn!("too many peer connections; closing a new one"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn greet(self: Arc<Self>, stream: Box<dyn Stream>) {
        let mut connection = Connection::new(stream);
        let Ok(Ok(Frame::Hello(hello))) = timeout(self.settings.silence_max, connection.next()).await else {
            tracing::info!("closing a connection that did not greet");
            return;
        };
        let said = match self.refuse(&hello) {
            Some(why) => {
                tracing::info!(peer = hello.from, why, "refusing a peer");
                Frame::Refused(why)
            }
            None => Frame::Welcome,
        };
        let welcome = said == Frame::Welcome;
        if connection.write(&said).await.is_err() || !welcome {
            return;
        }
        let Some(serving) = self.serving() else { return };
        let forming_only = hello.cluster.is_none() || self.cluster().is_none();
        let handlers = if forming_only { only_forming(&serving) } else { serving };
        let mut cluster = self.cluster.subscribe();
        cluster.mark_unchanged();
        tokio::select! {
            () = incoming::serve(connection, NodeId(hello.from), handlers, self.settings.clone()) => {}
            _ = cluster.changed(), if forming_only => {}
        }
    }

    /// Why a peer can't be served, as a sentence for it.
    fn refuse(&self, hello: &Hello) -> Option<String> {
        if hello.version != VERSION {
            let theirs = hello.version;
            return Some(format!(
                "this node speaks version {VERSION} of the peer protocol, the caller {theirs}; run the same release on both"
            ));
        }
        if hello.to != self.node.0 {
            let (node, wanted) = (self.node, hello.to);
            return Some(format!("this is node {node}, not node {wanted}; check the addresses in --members"));
        }
        if !self.addresses.contains_key(&NodeId(hello.from)) || hello.from == self.node.0 {
            return Some(format!("node {} is not among this node's --members", hello.from));
        }
        match (self.cluster(), &hello.cluster) {
            (Some(mine), Some(theirs)) if mine != *theirs => {
                Some(format!("this node belongs to cluster {mine}, the caller to {theirs}"))
            }
            _ => None,
        }
    }
}

/// Between nodes of which one has no cluster yet, nothing else may pass. Once it has one, such
/// connections are closed, and the next ones carry everything.
fn only_forming(serving: &BTreeMap<Service, Arc<dyn Handler>>) -> Arc<BTreeMap<Service, Arc<dyn Handler>>> {
    let forming = serving.iter().filter(|(service, _)| **service == Service::Forming);
    Arc::new(forming.map(|(service, handler)| (*service, Arc::clone(handler))).collect())
}

#[async_trait]
impl Peers for Transport {
    async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Error> {
        if to == self.node {
            let handler = self.serving().and_then(|serving| serving.get(&service).cloned());
            let handling = handler.ok_or(Error::Unreachable)?;
            return timeout(deadline, handling.handle(to, payload)).await.unwrap_or(Err(Error::NoAnswer));
        }
        let link = self.links.get(&(to, lane)).ok_or(Error::Unreachable)?;
        link.call(service, payload, deadline).await
    }
}
