//! The links between nodes: one TCP proxy for each ordered pair, so that bytes from one node to
//! another can be held up while those of the other direction, or between other nodes, still flow.
//!
//! A cut link behaves like a network that loses packets: connections stay open, connecting succeeds,
//! nothing arrives. What was sent meanwhile arrives after the link is healed, as TCP would have it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// From one node to another.
type Pair = (u64, u64);

/// Every link of a cluster. Dropping it drops every connection.
pub struct Links {
    flows: BTreeMap<Pair, watch::Sender<bool>>,
    addresses: BTreeMap<Pair, SocketAddr>,
    _proxies: JoinSet<()>,
}

impl Links {
    /// Opens a proxy for each ordered pair of the nodes, whose peer addresses are given.
    pub async fn open(peers: &BTreeMap<u64, SocketAddr>) -> io::Result<Self> {
        let pairs = || peers.keys().flat_map(|from| peers.keys().map(move |to| (*from, *to)));
        let pairs = || pairs().filter(|(from, to)| from != to);
        let flows: BTreeMap<Pair, _> = pairs().map(|pair| (pair, watch::Sender::new(true))).collect();
        let mut addresses = BTreeMap::new();
        let mut proxies = JoinSet::new();
        for (from, to) in pairs() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            addresses.insert((from, to), listener.local_addr()?);
            let (there, back) = (flows[&(from, to)].subscribe(), flows[&(to, from)].subscribe());
            proxies.spawn(proxy(listener, peers[&to], there, back));
        }
        Ok(Self { flows, addresses, _proxies: proxies })
    }

    /// Where `from` must connect to reach `to`.
    pub fn address(&self, from: u64, to: u64) -> SocketAddr {
        self.addresses[&(from, to)]
    }

    /// Lets bytes from one node to another through, or holds them up.
    pub fn set(&self, from: u64, to: u64, open: bool) {
        self.flows[&(from, to)].send_replace(open);
    }

    /// Lets everything through.
    pub fn heal(&self) {
        for flow in self.flows.values() {
            flow.send_replace(true);
        }
    }
}

async fn proxy(
    listener: TcpListener,
    target: SocketAddr,
    there: watch::Receiver<bool>,
    back: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(carry(near, target, there.clone(), back.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until either side ends it.
async fn carry(
    near: TcpStream,
    target: SocketAddr,
    mut there: watch::Receiver<bool>,
    back: watch::Receiver<bool>,
) {
    // Until the link is open, not even the connection reaches the other node.
    if there.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = pump(near_in, far_out, there) => {}
        _ = pump(far_in, near_out, back) => {}
    }
}

/// Moves bytes one way. The end of the stream, too, passes only an open link.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut flow: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if flow.wait_for(|open| *open).await.is_err() || count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}
