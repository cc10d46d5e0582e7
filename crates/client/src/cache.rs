//! The cache: what one node has answered as written is what every node answers from then on.
//!
//! A value may become a miss at any time: conditions and counters here are no locks and no ledgers.
//! It keeps no copies in this process; [`crate::near`] does.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::lock::form;
use crate::nodes::Toward;
use crate::wire::{self, Code};

mod batch;
mod watch;

pub use batch::{Fill, Loaded};
pub use watch::{CacheWatch, Changed};

/// The cache of a cluster, or one namespace of it. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    client: Client,
    namespace: Option<String>,
}

/// A value, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// As it was set.
    pub value: T,
    /// Larger for every later write of the key: pass it to [`Set::if_version`].
    pub version: String,
    /// What is left of its time to live; nothing if it has none.
    pub expires_in: Option<Duration>,
    /// Whether the node that was asked had it in its own memory.
    pub local: bool,
}

/// A write that is about to be sent.
pub struct Set {
    client: Client,
    body: Result<wire::Set, Error>,
}

impl Client {
    /// The cache.
    pub fn cache(&self) -> Cache {
        Cache { client: self.clone(), namespace: None }
    }
}

impl Cache {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn namespace_name(&self) -> Option<String> {
        self.namespace.clone()
    }

    /// The keys of one namespace, instead of those of `default`.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..self }
    }

    /// Reads a key; nothing if it has no value. Errors: [`Error::Unexpected`] if it is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>, Error> {
        let mut query = vec![("k", key)];
        query.extend(self.namespace.as_deref().map(|namespace| ("namespace", namespace)));
        let target = format!("/cache/get?{}", form(&query));
        let found: wire::Value = match self.client.fetch(target, Toward::Any).await {
            Ok(found) => found,
            Err(error) if error.is(Code::Miss) => return Ok(None),
            Err(error) => return Err(error),
        };
        entry(found).map(Some)
    }

    /// Writes a value, as JSON: say how, then [`Set::send`].
    pub fn set(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Set {
        let value = serde_json::value::to_raw_value(value);
        let body = value.map_err(|error| Error::Invalid(format!("value: {error}"))).map(|value| wire::Set {
            key: key.to_owned(),
            value,
            ttl_ms: None,
            if_version: None,
            if_absent: false,
            fill_token: None,
            namespace: self.namespace.clone(),
            guard: None,
            request_id: Some(self.client.request_id()),
        });
        Set { client: self.client.clone(), body }
    }

    /// Removes a key. Says whether there was a value.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        let request_id = Some(self.client.request_id());
        let (key, namespace) = (key.to_owned(), self.namespace.clone());
        let body = wire::Delete { key, if_version: None, namespace, guard: None, request_id };
        let deleted: wire::Deleted =
            self.client.send("/cache/delete", &body, Toward::Any, Duration::ZERO).await?;
        Ok(deleted.deleted)
    }

    /// Adds to a number, and returns the sum; a key without a value counts as 0, and one that was
    /// evicted has none. Errors: `not_a_number`.
    pub async fn incr(&self, key: &str, by: i64) -> Result<i64, Error> {
        let request_id = Some(self.client.request_id());
        let (key, namespace) = (key.to_owned(), self.namespace.clone());
        let body = wire::Incr { key, by, ttl_ms: None, namespace, guard: None, request_id };
        let counted: wire::Counted =
            self.client.send("/cache/incr", &body, Toward::Any, Duration::ZERO).await?;
        Ok(counted.value)
    }

    /// Empties the namespace. When this returns, no node answers with a value from before.
    pub async fn flush(&self) -> Result<(), Error> {
        let request_id = Some(self.client.request_id());
        let body = wire::Flush { namespace: self.namespace.clone(), guard: None, request_id };
        self.client.send::<wire::Flushed>("/cache/flush", &body, Toward::Any, Duration::ZERO).await.map(drop)
    }
}

fn entry<T: DeserializeOwned>(found: wire::Value) -> Result<Entry<T>, Error> {
    let value = serde_json::from_str(found.value.get());
    Ok(Entry {
        value: value.map_err(|error| Error::Unexpected(format!("the value of {:?}: {error}", found.key)))?,
        version: found.version,
        expires_in: found.expires_in_ms.map(Duration::from_millis),
        local: found.source == "local",
    })
}

impl Set {
    /// It lives so long; for ever unless said, or until it is evicted.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|body| body.ttl_ms = Some(clock::millis(ttl)))
    }

    /// Only if this is the current version.
    #[must_use]
    pub fn if_version(self, version: impl Into<String>) -> Self {
        self.with(|body| body.if_version = Some(version.into()))
    }

    /// Only if there is no value.
    #[must_use]
    pub fn if_absent(self) -> Self {
        self.with(|body| body.if_absent = true)
    }

    /// Only if no newer token of the guard's lock was seen where the key lives: see
    /// [`crate::Hold::guard`].
    #[must_use]
    pub fn guard(self, guard: wire::Guard) -> Self {
        self.with(|body| body.guard = Some(guard))
    }

    /// Writes, and returns the version written: from now on no node answers with an older value.
    /// Errors: `version_mismatch` if the condition did not hold, `payload_too_large`.
    pub async fn send(self) -> Result<String, Error> {
        let written: wire::Written =
            self.client.send("/cache/set", &self.body?, Toward::Any, Duration::ZERO).await?;
        Ok(written.version)
    }

    fn with(mut self, change: impl FnOnce(&mut wire::Set)) -> Self {
        if let Ok(body) = &mut self.body {
            change(body);
        }
        self
    }
}
