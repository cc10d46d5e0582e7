//! Several keys in one request, each for itself, and filling in what is missing.
//!
//! It adds no atomicity: each key has its own outcome.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Cache, Entry, Set, entry};
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire::{self, Code};

/// What [`Cache::load`] comes back with.
pub enum Loaded<T> {
    /// There is a value.
    Hit(Entry<T>),
    /// There is none, and nobody else is told so for now: find it, and fill it in.
    Fill(Fill),
}

/// The right to fill a missing value in. Any other write, a flush or a move ends it.
#[derive(Clone)]
pub struct Fill {
    cache: Cache,
    key: String,
    token: String,
    expires_in: Duration,
}

/// One JSON for each key: values are kept as they came, which an untagged choice cannot.
#[derive(serde::Deserialize)]
struct Results {
    results: Vec<Box<RawValue>>,
}

fn outcome<T: DeserializeOwned>(result: &RawValue) -> Result<T, Error> {
    if let Ok(failure) = serde_json::from_str::<wire::Failure>(result.get()) {
        return Err(Error::refused(200, failure.error));
    }
    serde_json::from_str(result.get()).map_err(|error| Error::Unexpected(error.to_string()))
}

impl Cache {
    /// Reads several keys, at most 1000; one result for each, in order.
    pub async fn get_many<T: DeserializeOwned>(
        &self,
        keys: &[&str],
    ) -> Result<Vec<Result<Option<Entry<T>>, Error>>, Error> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let body = wire::MultiGet { keys, namespace: self.namespace.clone(), request_id: None };
        let found: Results = self.client.send("/cache/mget", &body, Toward::Any, Duration::ZERO).await?;
        let one = |result: Box<RawValue>| match outcome::<wire::Value>(&result) {
            Ok(found) => entry(found).map(Some),
            Err(error) if error.is(Code::Miss) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(found.results.into_iter().map(one).collect())
    }

    /// Writes several keys, at most 1000, each for itself; the version written or an error for each, in
    /// order.
    pub async fn set_many<V: Serialize>(
        &self,
        entries: &[(&str, V)],
    ) -> Result<Vec<Result<String, Error>>, Error> {
        let one = |(key, value): &(&str, V)| {
            let value = serde_json::value::to_raw_value(value);
            let value = value.map_err(|error| Error::Invalid(format!("value: {error}")))?;
            let key = (*key).to_owned();
            Ok(wire::OneSet { key, value, ttl_ms: None, if_version: None, if_absent: false })
        };
        let body = wire::MultiSet {
            entries: entries.iter().map(one).collect::<Result<_, Error>>()?,
            namespace: self.namespace.clone(),
            guard: None,
            request_id: Some(self.client.request_id()),
        };
        let written: Results = self.client.send("/cache/mset", &body, Toward::Any, Duration::ZERO).await?;
        let one = |result: Box<RawValue>| outcome::<wire::Written>(&result).map(|written| written.version);
        Ok(written.results.into_iter().map(one).collect())
    }

    /// Reads a key; where it has no value, exactly one caller at a time gets the right to fill it in
    /// within `lease`, and the others wait for it. Errors: `loading` when it was not filled in by then.
    pub async fn load<T: DeserializeOwned>(&self, key: &str, lease: Duration) -> Result<Loaded<T>, Error> {
        let lease_ms = clock::millis(lease);
        let namespace = self.namespace.clone();
        let body = wire::Load { key: key.into(), lease_ms, wait_ms: None, namespace, request_id: None };
        let loaded: serde_json::Value = self.client.send("/cache/load", &body, Toward::Any, lease).await?;
        let unread = |error: serde_json::Error| Error::Unexpected(format!("the value of {key:?}: {error}"));
        if loaded.get("fill_token").is_none() {
            let found = loaded.to_string();
            return entry(serde_json::from_str(&found).map_err(unread)?).map(Loaded::Hit);
        }
        let wire::Fill { fill_token, expires_in_ms, .. } = serde_json::from_value(loaded).map_err(unread)?;
        let expires_in = Duration::from_millis(expires_in_ms);
        Ok(Loaded::Fill(Fill { cache: self.clone(), key: key.into(), token: fill_token, expires_in }))
    }
}

impl Fill {
    /// How long it lasts.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// The value, to be filled in: say how, then [`Set::send`]. Errors there: `fill_void` if something
    /// else came first.
    #[must_use]
    pub fn set(&self, value: &(impl Serialize + ?Sized)) -> Set {
        self.cache.set(&self.key, value).with(|body| body.fill_token = Some(self.token.clone()))
    }
}
