//! Two transports over real sockets on loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::names::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Answers what it was sent; `wait` is never answered, and dropping it is noticed.
#[derive(Default)]
struct Echo {
    seen: std::sync::Mutex<Vec<Bytes>>,
    dropped: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
}

struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, _from: NodeId, payload: Bytes) -> Result<Bytes, Error> {
        self.seen.lock().unwrap().push(payload.clone());
        if payload == "wait" {
            let _dropped = Dropped(Arc::clone(&self.dropped));
            self.waiting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        if payload.starts_with(b"later") {
            tokio::task::yield_now().await;
        }
        Ok(payload)
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn quick() -> Settings {
    Settings {
        reconnect_max: Duration::from_millis(100),
        ping_every: Duration::from_millis(50),
        silence_max: Duration::from_secs(1),
        ..Settings::default()
    }
}

struct Pair {
    addresses: BTreeMap<NodeId, String>,
    one: Arc<Transport>,
    two: Arc<Transport>,
    echo: Arc<Echo>,
}

impl Pair {
    async fn new() -> Self {
        let address = || format!("127.0.0.1:{}", free_port());
        let addresses = BTreeMap::from([(NodeId(1), address()), (NodeId(2), address())]);
        let echo = Arc::new(Echo::default());
        let one = start(1, &addresses, &echo, Some("c")).await;
        let two = start(2, &addresses, &echo, Some("c")).await;
        Self { addresses, one, two, echo }
    }

    async fn call(&self, payload: &'static str, deadline: Duration) -> Result<Bytes, Error> {
        self.one.call(NodeId(2), Lane::Request, Service::Router, payload.into(), deadline).await
    }

    /// Calls until it is answered: the links come up on their own.
    async fn until_up(&self) {
        tokio::time::timeout(LONG, async {
            while self.call("up?", LONG).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the link comes up");
    }
}

async fn start(
    node: u64,
    addresses: &BTreeMap<NodeId, String>,
    echo: &Arc<Echo>,
    cluster: Option<&str>,
) -> Arc<Transport> {
    let transport = Transport::new(NodeId(node), addresses.clone(), Arc::new(TcpNet), quick());
    if let Some(cluster) = cluster {
        transport.set_cluster(cluster);
    }
    transport.serve(Service::Router, echo.clone());
    transport.serve(Service::Forming, echo.clone());
    transport.start(&addresses[&NodeId(node)]).await.unwrap();
    transport
}

#[tokio::test]
async fn every_call_gets_its_own_answer_and_requests_arrive_in_order() {
    let pair = Pair::new().await;
    pair.until_up().await;
    pair.echo.seen.lock().unwrap().clear();
    let payloads: Vec<Bytes> =
        (0..500).map(|n| if n % 3 == 0 { format!("later {n}") } else { format!("{n}") }.into()).collect();
    let calls = payloads
        .iter()
        .map(|payload| pair.one.call(NodeId(2), Lane::Request, Service::Router, payload.clone(), LONG));
    let answers = futures::future::join_all(calls).await;
    assert_eq!(answers.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), payloads);
    assert_eq!(*pair.echo.seen.lock().unwrap(), payloads);
}

#[tokio::test]
async fn a_call_past_its_deadline_has_no_answer_and_its_handler_is_dropped() {
    let pair = Pair::new().await;
    pair.until_up().await;
    assert_eq!(pair.call("wait", Duration::from_millis(50)).await, Err(Error::NoAnswer));
    tokio::time::timeout(LONG, pair.echo.dropped.notified()).await.expect("the handler is dropped");
}

#[tokio::test]
async fn a_caller_that_goes_away_drops_its_handler() {
    let pair = Arc::new(Pair::new().await);
    pair.until_up().await;
    let call = tokio::spawn({
        let pair = Arc::clone(&pair);
        async move { pair.call("wait", LONG).await }
    });
    while pair.echo.waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    call.abort();
    tokio::time::timeout(LONG, pair.echo.dropped.notified()).await.expect("the handler is dropped");
}

#[tokio::test]
async fn a_peer_that_comes_back_is_reached_again() {
    let pair = Pair::new().await;
    pair.until_up().await;
    pair.two.shutdown();
    while pair.call("gone?", Duration::from_millis(100)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _two = start(2, &pair.addresses, &pair.echo, Some("c")).await;
    pair.until_up().await;
}

#[tokio::test]
async fn another_cluster_is_refused_with_a_sentence() {
    let address = || format!("127.0.0.1:{}", free_port());
    let addresses = BTreeMap::from([(NodeId(1), address()), (NodeId(2), address())]);
    let echo = Arc::new(Echo::default());
    let one = start(1, &addresses, &echo, Some("mine")).await;
    let _two = start(2, &addresses, &echo, Some("yours")).await;
    let refused = one.call(NodeId(2), Lane::Control, Service::Router, "x".into(), LONG).await;
    let Err(Error::Refused(why)) = refused else { panic!("not refused: {refused:?}") };
    assert!(why.contains("belongs to cluster yours"), "{why}");
}

#[tokio::test]
async fn without_a_cluster_only_forming_is_served() {
    let address = || format!("127.0.0.1:{}", free_port());
    let addresses = BTreeMap::from([(NodeId(1), address()), (NodeId(2), address())]);
    let echo = Arc::new(Echo::default());
    let one = start(1, &addresses, &echo, None).await;
    let _two = start(2, &addresses, &echo, Some("c")).await;
    let lane = Lane::Control;
    tokio::time::timeout(LONG, async {
        while one.call(NodeId(2), lane, Service::Forming, "x".into(), LONG).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("forming is served");
    let refused = one.call(NodeId(2), lane, Service::Router, "x".into(), LONG).await;
    assert_eq!(refused, Err(Error::Malformed));
}

#[tokio::test]
async fn garbage_closes_its_connection_and_harms_no_other() {
    let pair = Pair::new().await;
    pair.until_up().await;
    let mut stream = tokio::net::TcpStream::connect(&pair.addresses[&NodeId(2)]).await.unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection is closed");
    pair.until_up().await;
}

#[tokio::test]
async fn a_big_transfer_delays_no_small_call() {
    let pair = Pair::new().await;
    pair.until_up().await;
    let big = Bytes::from(vec![7; 48 * 1024 * 1024]);
    let transfer = pair.one.call(NodeId(2), Lane::Snapshot, Service::Router, big.clone(), LONG);
    let small = pair.one.call(NodeId(2), Lane::Control, Service::Router, "small".into(), LONG);
    let (first, rest) = match futures::future::select(Box::pin(transfer), Box::pin(small)).await {
        futures::future::Either::Left((answer, _)) => (answer, None),
        futures::future::Either::Right((answer, transfer)) => (answer, Some(transfer)),
    };
    assert_eq!(first, Ok("small".into()));
    assert_eq!(rest.expect("the transfer is still under way").await, Ok(big));
}

#[tokio::test]
async fn a_peer_that_went_silent_is_noticed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let addresses = BTreeMap::from([(NodeId(1), format!("127.0.0.1:{}", free_port())), (NodeId(2), address)]);
    let one = start(1, &addresses, &Arc::new(Echo::default()), Some("c")).await;
    let call = one.call(NodeId(2), Lane::Control, Service::Router, "x".into(), LONG);
    let answer =
        tokio::time::timeout(Duration::from_secs(5), call).await.expect("noticed before the deadline");
    assert_eq!(answer, Err(Error::Unreachable));
}
