//! `GET /lock/watch`: a lock's history as server-sent events, resumable by `Last-Event-ID`.
//!
//! A stream begins with the state (`state`, or `reset` where events after the given one are no longer
//! remembered), and goes on with what happens. It keeps nothing for a slow reader: what it has not
//! read is read from the history later, or is a `reset`.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use lockstep_client::wire;
use lockstep_core::names::LockName;

use super::words;
use crate::http::Shared;
use crate::http::body::Query;
use crate::http::error::Fault;
use crate::http::names::name;
use crate::router::{Change, Watch};

pub(in crate::http) async fn watch(
    State(gate): Shared,
    Query(query): Query<wire::WatchLock>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let lock = LockName(name("name", &query.name)?);
    let after = match headers.get("last-event-id") {
        Some(id) => Some(event_id(id)?),
        None => query.after,
    };
    let watch = api.router.watch_lock(lock, after, api.limits.request_time).await?;
    let mut response = Sse::new(events(watch, query.name)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn event_id(id: &HeaderValue) -> Result<u64, Fault> {
    let number = id.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Fault::bad("Last-Event-ID must be the id of an event, as the stream showed it."))
}

fn events(watch: Watch, name: String) -> impl Stream<Item = Result<Event, Infallible>> {
    let changes = stream::unfold(watch, |mut watch| async move {
        let changes = watch.next().await?;
        Some((stream::iter(changes), watch))
    });
    changes.flatten().map(move |change| Ok(event(change, &name)))
}

fn event(change: Change, name: &str) -> Event {
    match change {
        Change::State { view, last } => data("state", last, &words::lock(name.to_owned(), view)),
        Change::Reset { view, last } => data("reset", last, &words::lock(name.to_owned(), view)),
        Change::Event(event) => {
            let told = words::event(&event);
            data(&told.event.clone(), event.id, &told)
        }
        // Without data it is no event for the reader, but moves its Last-Event-ID along.
        Change::Alive { last } => Event::default().id(last.to_string()),
    }
}

fn data<T: serde::Serialize>(kind: &str, id: u64, value: &T) -> Event {
    let text = serde_json::to_string(value).expect("our shapes always serialize");
    Event::default().event(kind).id(id.to_string()).data(text)
}
