//! `GET /lock/watch`: a lock's history as server-sent events, resumable by `Last-Event-ID`.
//!
//! A stream begins with the state (`state`, or `reset` where events after the given one are no longer
//! remembered), and goes on with what happens. What a slow reader has not read is read from the history
//! later, or is a `reset`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::Event;
use lockstep_client::wire;
use lockstep_core::names::LockName;

use super::words;
use crate::http::body::Query;
use crate::http::error::Fault;
use crate::http::names::name;
use crate::http::{Shared, sse};
use crate::router::{Change, Watch};

pub(in crate::http) async fn watch(
    State(gate): Shared,
    Query(query): Query<wire::WatchLock>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let lock = LockName(name("name", &query.name)?);
    let after = sse::after(&headers, query.after.map(|id| id.to_string()), |id| id.parse().ok())?;
    let watch = api.router.watch_lock(lock, after, api.limits.request_time).await?;
    Ok(sse::stream(watch, move |change| event(change, &query.name)))
}

impl sse::Source for Watch {
    type Told = Change;

    async fn next(&mut self) -> Option<Vec<Change>> {
        Self::next(self).await
    }
}

fn event(change: Change, name: &str) -> Event {
    match change {
        Change::State { view, last } => sse::event("state", last, &words::lock(name.to_owned(), view)),
        Change::Reset { view, last } => sse::event("reset", last, &words::lock(name.to_owned(), view)),
        Change::Event(event) => {
            let told = words::event(&event);
            sse::event(&told.event.clone(), event.id, &told)
        }
        Change::Alive { last } => sse::alive(last),
    }
}
