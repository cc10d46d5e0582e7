//! A node that says what a test tells it to, and remembers what it was asked.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What a node answers: a status and a body, or silence for ever.
#[derive(Clone, Debug)]
pub enum Say {
    Answer(u16, Value),
    /// The same after a while.
    Late(Duration, u16, Value),
    Nothing,
    HangUp,
}

/// One request as a node saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub body: Value,
    pub at: std::time::Instant,
}

type Script = Arc<dyn Fn(usize, &Seen) -> Say + Send + Sync>;

/// A running node. Dropping it breaks its connections.
pub struct Node {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    leader: Arc<Mutex<Option<String>>>,
    hung_up: Arc<Mutex<usize>>,
    _serving: JoinSet<()>,
}

impl Node {
    /// `script` gets the number of the request, from 0, and the request.
    pub async fn start(script: impl Fn(usize, &Seen) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, leader, hung_up) = (Arc::default(), Arc::default(), Arc::default());
        let mut serving = JoinSet::new();
        serving.spawn(accept(
            listener,
            Arc::new(script),
            Arc::clone(&seen),
            Arc::clone(&leader),
            Arc::clone(&hung_up),
        ));
        Self { url, seen, leader, hung_up, _serving: serving }
    }

    /// Names a leader on every reply from now on.
    pub fn name_leader(&self, url: &str) {
        *self.leader.lock().unwrap() = Some(url.to_owned());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }

    /// How many requests lost their caller before they were answered.
    pub fn hung_up(&self) -> usize {
        *self.hung_up.lock().unwrap()
    }
}

async fn accept(
    listener: TcpListener,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    leader: Arc<Mutex<Option<String>>>,
    hung_up: Arc<Mutex<usize>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (script, seen, leader) = (Arc::clone(&script), Arc::clone(&seen), Arc::clone(&leader));
        let hung_up = Arc::clone(&hung_up);
        let service = service_fn(move |request| {
            answer(request, Arc::clone(&script), Arc::clone(&seen), Arc::clone(&leader), Arc::clone(&hung_up))
        });
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct Unanswered(Option<Arc<Mutex<usize>>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(count) = self.0.take() {
            *count.lock().unwrap() += 1;
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    leader: Arc<Mutex<Option<String>>>,
    hung_up: Arc<Mutex<usize>>,
) -> std::io::Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let bytes = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let request = Seen { path, body, at: std::time::Instant::now() };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let mut unanswered = Unanswered(Some(hung_up));
    let (status, body) = match script(number, &request) {
        Say::Answer(status, body) => (status, body),
        Say::Late(pause, status, body) => {
            tokio::time::sleep(pause).await;
            (status, body)
        }
        Say::HangUp => {
            unanswered.0 = None;
            return Err(std::io::ErrorKind::Other.into());
        }
        Say::Nothing => std::future::pending::<(u16, Value)>().await,
    };
    unanswered.0 = None;
    let mut response = Response::builder().status(status).header("lockstep-node", "1");
    if let Some(leader) = &*leader.lock().unwrap() {
        response = response.header("lockstep-leader", leader);
    }
    response.body(Full::new(body.to_string().into())).map_err(std::io::Error::other)
}

/// An error body.
pub fn fault(code: &str) -> Value {
    json!({"error": {"code": code, "message": "Do something else."}})
}

/// The reply to an acquire or a renewal of `ttl_ms`.
pub fn acquired(request: &Seen, token: u64) -> Say {
    let ttl = request.body["ttl_ms"].clone();
    Say::Answer(
        200,
        json!({"acquired": true, "name": request.body["name"], "owner": request.body["owner"],
               "mode": "exclusive", "token": token, "ttl_ms": ttl, "expires_in_ms": ttl}),
    )
}

/// Waits until `look` says so, at most ten seconds.
pub async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !look() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port on which nobody listens.
pub async fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
