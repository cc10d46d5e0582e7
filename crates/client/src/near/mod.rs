//! A near cache: values in this process, never older than a completed write.
//!
//! ```no_run
//! # async fn example(client: lockstep_client::Client) -> Result<(), lockstep_client::Error> {
//! let prices = client.cache().namespace("prices").near::<u64>();
//! if let Some(price) = prices.get("apple").await? {
//!     println!("{} (version {})", price.value, price.version);
//! }
//! # Ok(()) }
//! ```
//!
//! A hit costs a look into a map and one at the clock. A node lends the values, under a lease that it
//! renews while it hears from us; before anybody's write returns, we have forgotten the old value or
//! our lease is over. Where no node lends, a read asks the cluster, as without a near cache. It does
//! not write: write with [`Cache`], and the copies here are gone when that returns.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Cache;
use crate::client::json;
use crate::clock;
use crate::error::Error;
use crate::wire;

mod follow;
mod lease;
mod table;

use follow::Session;
use table::{Slot, Table};

/// Bytes of values, unless said otherwise.
const BYTES_MAX: u64 = 64 << 20;

/// A near cache of one namespace, whose values are read as `T` once and then shared. Cheap to clone;
/// clones share everything. Dropping the last one ends its lease.
pub struct Near<T>(Arc<Inner<T>>);

impl<T> Clone for Near<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A value in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// As it was set.
    pub value: T,
    /// Larger for every later write of the key: pass it to [`crate::cache::Set::if_version`].
    pub version: String,
}

/// What a near cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads that asked a node.
    pub misses: u64,
    /// Answers that could not be kept: an order to forget came first, or nothing was lent.
    pub unkept: u64,
    /// What had to be forgotten.
    pub forgotten: u64,
    /// How often it opened at a node.
    pub opened: u64,
    /// Keys that are kept.
    pub keys: u64,
}

struct Inner<T> {
    cache: Cache,
    table: Table<T>,
    session: Mutex<Option<Arc<Session>>>,
    stats: Mutex<Stats>,
}

impl Cache {
    /// Copies of this namespace in this process, 64 MiB of them; see [`crate::near`]. It follows its
    /// node on the current tokio runtime.
    pub fn near<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Near<T> {
        self.near_within(BYTES_MAX)
    }

    /// Like [`Cache::near`], with a bound on the bytes of all values as they came.
    pub fn near_within<T: DeserializeOwned + Send + Sync + 'static>(&self, bytes_max: u64) -> Near<T> {
        let inner = Arc::new(Inner {
            cache: self.clone(),
            table: Table::new(bytes_max),
            session: Mutex::default(),
            stats: Mutex::default(),
        });
        tokio::spawn(follow::follow(Arc::downgrade(&inner)));
        Near(inner)
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Near<T> {
    /// The value from this process; `Some(None)` is a known absence, `None` means: ask with
    /// [`Near::get`]. Never waits.
    pub fn peek(&self, key: &str) -> Option<Option<Arc<Kept<T>>>> {
        self.0.table.peek(key)
    }

    /// The value, from this process or from a node; nothing if there is none. Errors:
    /// [`Error::Unexpected`] if it is not a `T`.
    pub async fn get(&self, key: &str) -> Result<Option<Arc<Kept<T>>>, Error> {
        match self.peek(key) {
            Some(found) => Ok(found),
            None => self.fetch(key).await,
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        Stats { keys: self.0.table.len(), ..*self.0.stats() }
    }

    async fn fetch(&self, key: &str) -> Result<Option<Arc<Kept<T>>>, Error> {
        let inner = &*self.0;
        inner.stats().misses += 1;
        let session = inner.session().clone();
        if let Some(session) = session
            && let Some(found) = inner.borrow(&session, key).await?
        {
            return Ok(found);
        }
        inner.stats().unkept += 1;
        let found = inner.cache.get::<T>(key).await?;
        Ok(found.map(|entry| Arc::new(Kept { value: entry.value, version: entry.version })))
    }
}

impl<T: DeserializeOwned + Send + Sync> Inner<T> {
    /// Asks the node that lends; `None`: ask as if there was no near cache.
    async fn borrow(&self, session: &Session, key: &str) -> Result<Option<Option<Arc<Kept<T>>>>, Error> {
        let flight = self.table.take_off(key);
        let _guard = CallOff { table: &self.table, key, flight };
        let sent = clock::now();
        let namespace = self.cache.namespace_name();
        let client = session.client.clone();
        let body = wire::NearGet { client, key: key.into(), namespace, request_id: None };
        let patience = self.cache.client().patience().attempt;
        let answer = self.post::<wire::NearValue>(session, "/cache/near/get", &body, patience).await;
        let Some(found) = answer else {
            // If the request itself is wrong, the ordinary way will tell.
            return Ok(None);
        };
        let kept = read::<T>(key, &found)?;
        let slot = found.lease.as_ref().map(|lease| {
            let left = found.expires_in_ms.map(Duration::from_millis);
            Slot {
                kept: kept.clone(),
                stretch: session.leases.extend(lease, sent),
                expires: left.map(|left| sent + lease::shortened(left)),
                bytes: found.value.as_ref().map_or(0, |value| value.get().len()),
            }
        });
        if !self.table.land(key, flight, slot) {
            self.stats().unkept += 1;
        }
        Ok(Some(kept))
    }
}

/// Takes the place of a read back that has come to nothing, also if whoever asked waits no more.
struct CallOff<'a, T> {
    table: &'a Table<T>,
    key: &'a str,
    flight: u64,
}

impl<T> Drop for CallOff<'_, T> {
    fn drop(&mut self) {
        self.table.call_off(self.key, self.flight);
    }
}

impl<T> Inner<T> {
    /// Asks the session's node once; nothing for a refusal or no answer.
    async fn post<R: DeserializeOwned>(
        &self,
        session: &Session,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Option<R> {
        let body = json(body).ok()?;
        let transport = self.cache.client().transport();
        let answer = transport.exchange(&session.url, &Method::POST, path, body, patience).await.ok()?;
        if answer.status != 200 {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }

    fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().expect("nothing panics while it holds this")
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().expect("nothing panics while it holds this")
    }
}

fn read<T: DeserializeOwned>(key: &str, found: &wire::NearValue) -> Result<Option<Arc<Kept<T>>>, Error> {
    let (Some(value), Some(version)) = (&found.value, &found.version) else { return Ok(None) };
    let value = serde_json::from_str(value.get());
    let value = value.map_err(|error| Error::Unexpected(format!("the value of {key:?}: {error}")))?;
    Ok(Some(Arc::new(Kept { value, version: version.clone() })))
}
