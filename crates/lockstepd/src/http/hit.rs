//! The shortest way to a value: `GET /cache/get?k=KEY` of what is in this node's memory, answered
//! before any route is looked for, from a reply that is kept with the value.
//!
//! It answers only what it can answer in full; everything else takes the ordinary way.

use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, header};
use axum::response::Response;
use bytes::Bytes;

use super::limits::NAME_BYTES_MAX;
use super::{Gate, LEADER, NODE, cache};
use crate::cache::Entry;

/// The reply, if the plainest of requests hits this node's memory.
pub fn hit<B>(gate: &Gate, request: &Request<B>) -> Option<Response> {
    let uri = request.uri();
    if request.method() != Method::GET || uri.path() != "/cache/get" {
        return None;
    }
    let begun = Instant::now();
    let key = plain_key(uri.query()?)?;
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        return None;
    }
    let api = gate.api.get()?;
    let worded = api.cache.worded(key, |entry| word(key, entry))?;
    let (etag, body) = split(&worded)?;
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = headers(gate, etag);
    gate.metrics.hit(begun.elapsed());
    Some(response)
}

/// The key of a query that is `k=KEY` and nothing else, with nothing to decode.
fn plain_key(query: &str) -> Option<&str> {
    let key = query.strip_prefix("k=")?;
    let is_plain =
        key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'%' | b'+' | b'='));
    (is_plain && !key.is_empty() && key.len() <= NAME_BYTES_MAX).then_some(key)
}

fn headers(gate: &Gate, etag: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ETAG, etag);
    headers.insert(NODE, HeaderValue::from(gate.node));
    if let Some(leader) = gate.leader_header() {
        headers.insert(LEADER, leader);
    }
    headers
}

/// The entity tag, led by its length, and the body.
fn word(key: &str, entry: &Entry) -> Bytes {
    let etag = format!("\"{}\"", entry.version);
    let body = cache::body(key, entry);
    let mut worded = Vec::with_capacity(1 + etag.len() + body.len());
    worded.push(u8::try_from(etag.len()).unwrap_or(0));
    worded.extend_from_slice(etag.as_bytes());
    worded.extend_from_slice(&body);
    worded.into()
}

fn split(worded: &Bytes) -> Option<(HeaderValue, Bytes)> {
    let end = 1 + usize::from(*worded.first()?);
    if end > worded.len() {
        return None;
    }
    let etag = HeaderValue::from_maybe_shared(worded.slice(1..end)).ok()?;
    Some((etag, worded.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_no_decoding_is_a_plain_key() {
        assert_eq!(plain_key("k=user:1/a"), Some("user:1/a"));
        for query in ["", "k=", "key=a", "k=a&mode=home", "k=a%20b", "k=a+b", "k=a=b", "mode=home&k=a"] {
            assert_eq!(plain_key(query), None, "{query}");
        }
    }

    #[test]
    fn a_worded_reply_comes_apart_as_it_was_put_together() {
        let held = lockstep_core::cache::message::Held {
            version: crate::cache::Version { epoch: 7, counter: 1834 },
            value: Bytes::from_static(b"[1]"),
            left: None,
        };
        let entry = Entry { value: held.value, version: held.version, left: None, state: 'S', local: true };
        let (etag, body) = split(&word("k", &entry)).unwrap();
        assert_eq!(etag, "\"7.1834\"");
        assert_eq!(body, r#"{"key":"k","value":[1],"version":"7.1834","state":"S","source":"local"}"#);
    }
}
