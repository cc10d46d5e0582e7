//! The client: a cluster's nodes, connections to them, and how patient to be.
//!
//! What can be asked of it stands beside the thing that is asked about: [`crate::lock`],
//! [`crate::queue`], [`crate::cache`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Answered, Call, Patience};
use crate::error::Error;
use crate::nodes::{Nodes, Toward, Url};
use crate::transport::Transport;
use crate::wire;

/// A client of one cluster. Cheap to clone; clones share connections.
///
/// Every request is retried, at one node after another, until a definite answer or the time-out.
/// Retries carry the same `request_id`, so what was done once is not done again.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    transport: Transport,
    nodes: Mutex<Nodes>,
    patience: Patience,
    /// Unlike that of any other client: request ids and owners begin with it.
    id: String,
    requests: AtomicU64,
}

/// What a [`Client`] may be told before it is built.
#[derive(Clone, Debug)]
pub struct Builder {
    urls: Vec<String>,
    timeout: Duration,
    attempt_timeout: Duration,
}

/// An answer as it came, for what has no method of its own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// JSON, as a rule.
    pub body: Bytes,
    /// Who answered.
    pub node: Option<u64>,
}

/// A shard remembers a request for a minute: retries must end well before.
const TIMEOUT_MAX: Duration = Duration::from_secs(45);

impl Builder {
    /// How long one request is tried in all, what it waits for on purpose not counted. 30 seconds
    /// unless said, 45 at most: a cluster remembers request ids for a minute.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: timeout.min(TIMEOUT_MAX), ..self }
    }

    /// How long one node may be silent before another is asked. 5 seconds unless said.
    #[must_use]
    pub fn attempt_timeout(self, attempt_timeout: Duration) -> Self {
        Self { attempt_timeout, ..self }
    }

    /// The client. It connects when it is first used. Errors: [`Error::Invalid`] for a URL that is
    /// not `http://host:port`.
    pub fn build(self) -> Result<Client, Error> {
        let urls: Vec<Url> = self.urls.iter().map(|url| parse_url(url)).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(Error::Invalid("a client needs the URL of at least one node".into()));
        }
        let first = usize::from(rand::random::<u16>());
        Ok(Client(Arc::new(Inner {
            transport: Transport::new(),
            nodes: Mutex::new(Nodes::new(urls, first)),
            patience: Patience { attempt: self.attempt_timeout, total: self.timeout },
            id: format!("{:032x}", rand::random::<u128>()),
            requests: AtomicU64::new(0),
        })))
    }
}

impl Client {
    /// A client of the cluster that has nodes at these URLs. Name several: any of them may be down.
    ///
    /// Errors: [`Error::Invalid`] for a URL that is not `http://host:port`.
    pub fn new<S: Into<String>>(urls: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Self::builder(urls).build()
    }

    /// Like [`Client::new`], with more to say.
    pub fn builder<S: Into<String>>(urls: impl IntoIterator<Item = S>) -> Builder {
        Builder {
            urls: urls.into_iter().map(Into::into).collect(),
            timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(5),
        }
    }

    /// Who leads the cluster.
    pub async fn leader(&self) -> Result<wire::Leader, Error> {
        self.fetch("/leader".into(), Toward::Any).await
    }

    /// Members and shards, as one node sees them.
    pub async fn cluster(&self) -> Result<wire::Cluster, Error> {
        self.fetch("/cluster".into(), Toward::Any).await
    }

    /// Asks for a path with its query. Refusals come back as replies, not as errors.
    pub async fn get(&self, target: &str) -> Result<Reply, Error> {
        let call = self.ask(Method::GET, target.into(), Bytes::new(), toward(target), Duration::ZERO);
        Ok(self.call(&call).await?.into())
    }

    /// Posts a JSON object. A field `request_id` is added where there is none, so that retries are
    /// harmless; `wait_ms` adds to the time-out. Refusals come back as replies, not as errors.
    pub async fn post(&self, path: &str, mut body: serde_json::Value) -> Result<Reply, Error> {
        if let Some(fields) = body.as_object_mut() {
            fields.entry("request_id").or_insert_with(|| self.request_id().into());
        }
        let wait = Duration::from_millis(body["wait_ms"].as_u64().unwrap_or(0));
        let call = self.ask(Method::POST, path.into(), body.to_string().into(), toward(path), wait);
        Ok(self.call(&call).await?.into())
    }

    /// An id for one request, unlike any other.
    pub fn request_id(&self) -> String {
        format!("{}-{:x}", self.0.id, self.0.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.nodes.lock().expect("nothing panics while it holds this")
    }

    /// GET, and the typed reply.
    pub(crate) async fn fetch<T: DeserializeOwned>(
        &self,
        target: String,
        toward: Toward,
    ) -> Result<T, Error> {
        let call = self.ask(Method::GET, target, Bytes::new(), toward, Duration::ZERO);
        self.call(&call).await?.read()
    }

    /// POST, and the typed reply. `wait` is what the request itself waits for.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        toward: Toward,
        wait: Duration,
    ) -> Result<T, Error> {
        let call = self.ask(Method::POST, path.into(), json(body)?, toward, wait);
        self.call(&call).await?.read()
    }

    fn ask(&self, method: Method, target: String, body: Bytes, toward: Toward, wait: Duration) -> Call {
        Call { method, target, body, toward, patience: self.patience().beyond(wait) }
    }
}

impl Answered {
    /// The typed reply, or the refusal.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let (status, body) = (self.answer.status, &self.answer.body);
        if (200..300).contains(&status) {
            return serde_json::from_slice(body).map_err(|error| Error::Unexpected(error.to_string()));
        }
        match serde_json::from_slice::<wire::Failure>(body) {
            Ok(failure) => Err(Error::refused(status, failure.error)),
            Err(_) => Err(Error::Unexpected(format!("HTTP {status}"))),
        }
    }
}

impl From<Answered> for Reply {
    fn from(answered: Answered) -> Self {
        let answer = answered.answer;
        Self { status: answer.status, body: answer.body, node: answer.node }
    }
}

/// A request body.
pub(crate) fn json(body: &impl Serialize) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(body).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(bytes.into())
}

fn toward(target: &str) -> Toward {
    let of_the_leader = ["/lock/", "/session/"].iter().any(|area| target.starts_with(area));
    if of_the_leader { Toward::Leader } else { Toward::Any }
}

fn parse_url(text: &str) -> Result<Url, Error> {
    let url = text.trim_end_matches('/');
    let wrong = |why: &str| Error::Invalid(format!("{text:?} {why}; a URL looks like http://host:8001"));
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("does not start with http://"))?;
    let uri: hyper::Uri = url.parse().map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    if rest.is_empty() || uri.query().is_some() {
        return Err(wrong("is not the address of a node"));
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_checked_when_the_client_is_built() {
        for wrong in ["127.0.0.1:8001", "https://a:1", "http://", "http://a b", "http://a/?x=1"] {
            let error = Client::new([wrong]).err().expect(wrong);
            assert!(error.to_string().contains("http://host:8001"), "{wrong}: {error}");
        }
        assert!(Client::new(["http://127.0.0.1:8001/", "http://[::1]:8002"]).is_ok());
        assert!(Client::new(Vec::<String>::new()).is_err());
    }

    #[test]
    fn request_ids_are_all_different_and_fit_the_limit() {
        let (one, two) = (Client::new(["http://a"]).unwrap(), Client::new(["http://a"]).unwrap());
        let ids = std::collections::BTreeSet::from([one.request_id(), one.request_id(), two.request_id()]);
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| id.len() <= 128));
    }
}
