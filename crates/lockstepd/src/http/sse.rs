//! Server-sent events: a stream that goes on for as long as its reader does, with an id for each event.
//!
//! Nothing is kept for a slow reader: what it has not read is looked for when it reads on.

use std::convert::Infallible;
use std::fmt::Display;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use serde::Serialize;

use super::error::Fault;

/// Something that tells one thing after another.
pub(super) trait Source: Send + 'static {
    /// What it tells.
    type Told: Send;

    /// What there is to tell since the last call, as soon as there is anything; `None` ends the stream.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Self::Told>>> + Send;
}

/// The stream of a source.
pub(super) fn stream<S: Source>(source: S, word: impl Fn(S::Told) -> Event + Send + 'static) -> Response {
    let told = stream::unfold(source, |mut source| async move {
        let told = source.next().await?;
        Some((stream::iter(told), source))
    });
    let events = told.flatten().map(move |told| Ok::<_, Infallible>(word(told)));
    let mut response = Sse::new(events).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One event with data.
pub(super) fn event<T: Serialize>(kind: &str, id: impl Display, value: &T) -> Event {
    let text = serde_json::to_string(value).expect("our shapes always serialize");
    Event::default().event(kind).id(id.to_string()).data(text)
}

/// Without data it is no event for the reader, but moves its Last-Event-ID along.
pub(super) fn alive(id: impl Display) -> Event {
    Event::default().id(id.to_string())
}

/// The event behind which a reader wants to go on: the header, else the query's `after`.
pub(super) fn after<T>(
    headers: &HeaderMap,
    query: Option<String>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Fault> {
    let read = |name: &str, text: Option<&str>| {
        text.and_then(&read)
            .map(Some)
            .ok_or_else(|| Fault::bad(format!("{name} must be the id of an event, as the stream showed it.")))
    };
    match (headers.get("last-event-id"), query) {
        (Some(id), _) => read("Last-Event-ID", id.to_str().ok()),
        (None, Some(after)) => read("after", Some(&after)),
        (None, None) => Ok(None),
    }
}
