//! The routes of the cache.
//!
//! It checks and words; what is true is `crate::cache`'s affair.

mod batch;
mod get;
pub(super) mod near;
mod space;
mod watch;
mod write;

pub(super) use batch::{mget, mset};
pub(super) use get::{get, value as body};
pub(super) use space::{flush, line, load, namespace, stats};
pub(super) use watch::watch;
pub(super) use write::{delete, incr, set};

use lockstep_client::wire::{self, Code};
use lockstep_core::Millis;
use lockstep_core::cache::space::join;
use lockstep_core::guards::Guard;
use lockstep_core::names::ShardId;
use lockstep_core::query::{Answer, Query};
use serde_json::value::RawValue;

use super::Api;
use super::error::Fault;
use super::limits::DELAY_MS_MAX;
use super::names::{name, within};
use crate::cache::{DEFAULT, Error, Key, Version, Write, Written};
use crate::router::{Claim, Error as RouterError};

/// A key as the client named it, and as the cache knows it.
struct Named {
    text: String,
    key: Key,
}

impl Named {
    fn new(field: &str, text: String, namespace: &str) -> Result<Self, Fault> {
        name(field, &text)?;
        let key = join(namespace, &text);
        Ok(Self { text, key })
    }
}

/// The namespace of a request, which exists.
async fn known(api: &Api, namespace: Option<String>) -> Result<String, Fault> {
    let Some(namespace) = namespace.filter(|namespace| namespace != DEFAULT) else {
        return Ok(DEFAULT.into());
    };
    name("namespace", &namespace)?;
    if api.cache.knows(&namespace) {
        return Ok(namespace);
    }
    // It may be so new that this node has not heard of it.
    let timeout = api.limits.request_time;
    let exists = match api.router.query(ShardId::COORDINATION, Query::Namespaces, timeout).await? {
        Answer::Namespaces(spaces) => spaces.get(&namespace).is_some(),
        _ => false,
    };
    if exists && api.cache.learn(&namespace, timeout).await {
        return Ok(namespace);
    }
    let message =
        format!("There is no namespace {namespace:?}; make it with POST /cache/namespace, or leave it out.");
    Err(Fault::new(Code::NoNamespace, message))
}

/// One key, by either of its names.
fn one_key(k: Option<String>, key: Option<String>) -> Result<String, Fault> {
    match (k, key) {
        (Some(key), None) | (None, Some(key)) => Ok(key),
        _ => Err(Fault::bad("Say which key: ?k=KEY or ?key=KEY, exactly one of them.")),
    }
}

/// Writes under a claim, if there is one.
async fn write(api: &Api, claim: Option<&Claim>, write: Write) -> Result<Written, Fault> {
    let timeout = api.limits.request_time;
    if claim.is_none() {
        return Ok(api.cache.write(write, timeout).await?);
    }
    let work = |guard: Option<Guard>| {
        let write = Write { guard, ..write.clone() };
        async move { fence(api.cache.write(write, timeout).await) }
    };
    Ok(api.router.guarded(claim, timeout, work).await??)
}

/// What the router has to know of an outcome: whether the guard held.
fn fence<T>(outcome: Result<T, Error>) -> Result<Result<T, Error>, RouterError> {
    match outcome {
        Err(Error::Guard(refusal)) => Err(refusal.into()),
        other => Ok(other),
    }
}

fn ttl(ttl_ms: Option<u64>) -> Result<Option<Millis>, Fault> {
    ttl_ms.map(|ttl| within("ttl_ms", ttl, 1, DELAY_MS_MAX)).transpose()
}

fn fits(api: &Api, value: &RawValue) -> Result<(), Fault> {
    let max = api.limits.payload_bytes_max;
    if value.get().len() <= max {
        return Ok(());
    }
    Err(Fault::new(Code::PayloadTooLarge, format!("The value may have at most {max} bytes.")))
}

fn raw(value: Box<RawValue>) -> bytes::Bytes {
    String::from(Box::<str>::from(value)).into_bytes().into()
}

fn version(field: &str, text: &str) -> Result<Version, Fault> {
    let parse = || {
        let (epoch, counter) = text.split_once('.')?;
        Some(Version { epoch: epoch.parse().ok()?, counter: counter.parse().ok()? })
    };
    // Other ways to write the same numbers, such as +7.01, were never shown to anybody.
    let version = parse().filter(|version: &Version| version.to_string() == text);
    version.ok_or_else(|| Fault::bad(format!("{field} must be as a reply showed it, such as \"7.1834\".")))
}

fn versions(if_version: Option<&str>, if_absent: bool) -> Result<Option<Version>, Fault> {
    if if_absent && if_version.is_some() {
        return Err(Fault::bad("if_version and if_absent exclude each other."));
    }
    if_version.map(|text| version("if_version", text)).transpose()
}

fn written(key: String, written: Written) -> Result<wire::Written, Fault> {
    let version = written.version.ok_or(Error::OutcomeUnknown)?;
    Ok(wire::Written { key, version: version.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_was_shown_and_in_no_other_way() {
        assert_eq!(version("if_version", "7.1834").unwrap(), Version { epoch: 7, counter: 1834 });
        for text in ["", ".", "7", "7.", ".7", "7.1.2", "-1.2", "+7.1", "07.1", "7.01", " 7.1", "7.1 ", "7,1"]
        {
            assert!(version("if_version", text).is_err(), "{text:?}");
        }
        assert!(version("if_version", "7.18446744073709551616").is_err(), "no number of 64 bits");
    }
}
