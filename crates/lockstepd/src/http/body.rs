//! Reading what a client sent, within limits, and saying precisely what is wrong with it.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lockstep_client::wire::Code;
use serde::de::DeserializeOwned;

use super::error::Fault;
use super::{Gate, names};
use crate::router::{Asked, RequestId};

/// A JSON body, and a hash of route and bytes that tells a retry from another request.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) fingerprint: u64,
}

/// A whole body that nobody has looked into yet, and the same hash of it.
pub(super) struct Raw {
    pub(super) bytes: Bytes,
    pub(super) fingerprint: u64,
}

/// The part of a URI behind the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Gate>> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Self, Fault> {
        let Raw { bytes, fingerprint } = Raw::from_request(request, gate).await?;
        Ok(Self { value: parse(&bytes)?, fingerprint })
    }
}

impl FromRequest<Arc<Gate>> for Raw {
    type Rejection = Fault;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Self, Fault> {
        let limits = gate.api()?.limits;
        let (parts, body) = request.into_parts();
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(Fault::bad("This route takes no query; put everything into the body."));
        }
        // What says that it is too large need not be read, nor waited for.
        if body.size_hint().lower() > limits.body_bytes_max as u64 {
            return Err(too_large(limits.body_bytes_max));
        }
        let bytes = match tokio::time::timeout(limits.body_time, read(body, limits.body_bytes_max)).await {
            Ok(read) => read?,
            Err(_) => return Err(Fault::new(Code::RequestTimeout, "The body took too long to arrive.")),
        };
        let fingerprint = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, route_seed(&parts.uri));
        Ok(Self { bytes, fingerprint })
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Gate>> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _gate: &Arc<Gate>) -> Result<Self, Fault> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Fault> {
    let bad = |why: String| Fault::bad(format!("The query is not what this route takes: {why}."));
    // A form would put a replacement character there: another name than the one that was meant.
    if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
        return Err(bad("it is no UTF-8".into()));
    }
    serde_urlencoded::from_str(query).map_err(|plain| {
        let reader = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        match serde_path_to_error::deserialize::<_, T>(reader) {
            Err(error) if error.path().iter().next().is_some() => bad(format!("{}: {plain}", error.path())),
            _ => bad(plain.to_string()),
        }
    })
}

async fn read(body: Body, max: usize) -> Result<Bytes, Fault> {
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(max)),
        Err(_) => Err(Fault::bad("The body broke off before its end.")),
    }
}

fn too_large(max: usize) -> Fault {
    Fault::new(Code::PayloadTooLarge, format!("The body is larger than {max} bytes; send less at once."))
}

/// Reads JSON. Errors: what is wrong with it, and where.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    parse_as(bytes, "The body")
}

/// Reads JSON, which an error calls `whole`.
pub(super) fn parse_as<T: DeserializeOwned>(bytes: &[u8], whole: &str) -> Result<T, Fault> {
    // serde would take an array for the fields in the order of their declaration.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Fault::bad(format!("{whole} must be a JSON object, not an array.")));
    }
    // The fast way first; the slow one knows which field is wrong.
    serde_json::from_slice(bytes).map_err(|plain| {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(error) if error.path().iter().next().is_some() => format!("{}: ", error.path()),
            _ => String::new(),
        };
        Fault::bad(format!("{whole} is not what this route takes: {path}{plain}."))
    })
}

fn route_seed(uri: &Uri) -> u64 {
    xxhash_rust::xxh3::xxh3_64(uri.path().as_bytes())
}

/// What the router needs to know of a request besides its meaning.
pub(super) fn asked(gate: &Gate, id: Option<String>, fingerprint: u64) -> Result<Asked, Fault> {
    if let Some(id) = &id {
        names::request_id(id)?;
    }
    let timeout = gate.api()?.limits.request_time;
    Ok(Asked { id: id.map(|id| RequestId { id, fingerprint }), timeout, guard: None })
}
