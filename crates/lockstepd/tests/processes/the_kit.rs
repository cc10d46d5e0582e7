//! The kit itself: a test that relies on a cut link or on a check must be able to rely on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::kit::{Links, within};

/// Long enough for a byte that may pass to pass, and for one that may not to be missed.
const A_WHILE: Duration = Duration::from_millis(100);

/// Two nodes' worth of links; the connection of node 1 to node 2, and node 2's end of it.
async fn connected() -> (Links, TcpStream, TcpStream) {
    let two = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let peers = BTreeMap::from([(1, nowhere), (2, two.local_addr().unwrap())]);
    let links = Links::open(&peers).await.unwrap();
    let near = TcpStream::connect(links.address(1, 2)).await.unwrap();
    let (far, _) = within("the proxy connects", Duration::from_secs(5), two.accept()).await.unwrap();
    (links, near, far)
}

async fn arrives(stream: &mut TcpStream) -> Option<u8> {
    timeout(A_WHILE, stream.read_u8()).await.ok().map(|byte| byte.expect("the connection stays open"))
}

#[tokio::test]
async fn a_link_that_is_cut_one_way_still_carries_the_other_way() {
    let (links, mut near, mut far) = connected().await;
    links.set(1, 2, false);
    near.write_u8(7).await.unwrap();
    assert_eq!(arrives(&mut far).await, None);
    far.write_u8(8).await.unwrap();
    assert_eq!(arrives(&mut near).await, Some(8));
}

#[tokio::test]
async fn what_was_sent_over_a_cut_link_arrives_when_it_is_healed() {
    let (links, mut near, mut far) = connected().await;
    links.set(1, 2, false);
    near.write_u8(7).await.unwrap();
    assert_eq!(arrives(&mut far).await, None);
    links.heal();
    assert_eq!(within("the byte", Duration::from_secs(5), far.read_u8()).await.unwrap(), 7);
}

#[tokio::test]
async fn a_cut_link_takes_connections_that_reach_nobody() {
    let two = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let peers = BTreeMap::from([(1, nowhere), (2, two.local_addr().unwrap())]);
    let links = Links::open(&peers).await.unwrap();
    links.set(1, 2, false);
    let _near = TcpStream::connect(links.address(1, 2)).await.unwrap();
    assert!(timeout(A_WHILE, two.accept()).await.is_err());
    links.heal();
    within("the connection", Duration::from_secs(5), two.accept()).await.unwrap();
}
