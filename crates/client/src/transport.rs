//! One exchange with one node: HTTP/1 over kept connections.
//!
//! It neither retries nor chooses nodes. Dropping an exchange closes its connection, by which a node
//! learns that the caller has hung up.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::nodes::Url;

/// Less than the time after which a node closes a connection on which nothing is said (5 s).
const IDLE_AT_MOST: Duration = Duration::from_secs(4);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Notices a machine that went away without a word.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The largest answer that is read: a full batch of the largest payloads is smaller.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Connections to any number of nodes.
pub(crate) struct Transport {
    http: Client<HttpConnector, Full<Bytes>>,
}

/// What a node answered, whatever that was.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) leader: Option<Url>,
    pub(crate) node: Option<u64>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// The request may have reached the node.
    pub(crate) maybe_done: bool,
    pub(crate) why: String,
}

impl Transport {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(2));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_AT_MOST)
            .build(connector);
        Self { http }
    }

    /// Sends one request and reads the whole answer, in at most `patience`.
    pub(crate) async fn exchange(
        &self,
        url: &Url,
        method: &Method,
        target: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer, Broken> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{url}{target}"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(|error| Broken { maybe_done: false, why: format!("{url}{target}: {error}") })?;
        match tokio::time::timeout(patience, self.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(mut broken)) => {
                broken.why = format!("{url}: {}", broken.why);
                Err(broken)
            }
            Err(_) => Err(Broken { maybe_done: true, why: format!("{url}: no answer in {patience:?}") }),
        }
    }

    /// Opens a stream of server-sent events, to go on after an event if one is given: the status, and
    /// what follows. `patience` is for its beginning alone.
    pub(crate) async fn open(
        &self,
        url: &Url,
        target: &str,
        after: Option<&str>,
        patience: Duration,
    ) -> Result<(u16, Incoming), Broken> {
        let mut request = Request::builder().uri(format!("{url}{target}"));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let broken = |why: String| Broken { maybe_done: false, why };
        let request = request.body(Full::default()).map_err(|error| broken(format!("{url}: {error}")))?;
        match tokio::time::timeout(patience, self.http.request(request)).await {
            Ok(Ok(response)) => Ok((response.status().as_u16(), response.into_body())),
            Ok(Err(error)) => Err(broken(format!("{url}: {}", innermost(&error)))),
            Err(_) => Err(broken(format!("{url}: no answer in {patience:?}"))),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| Broken { maybe_done: !error.is_connect(), why: innermost(&error) })?;
        let (head, body) = response.into_parts();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let leader = header("lockstep-leader").map(|url| url.trim_end_matches('/').into());
        let node = header("lockstep-node").and_then(|id| id.parse().ok());
        let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = read.map_err(|error| Broken { maybe_done: true, why: error.to_string() })?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), leader, node, body })
    }
}

/// "connection refused" rather than "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
