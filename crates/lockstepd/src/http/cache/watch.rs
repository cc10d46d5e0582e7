//! `GET /cache/watch`: what changes in the cache, as server-sent events, resumable by `Last-Event-ID`.
//!
//! A stream begins with `reset` unless it goes on where another one stopped. No write waits for its
//! readers: `/cache/near/…` is for those who must never see an old value.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::Event as Sent;
use lockstep_client::wire;
use lockstep_core::cache::feed::{Change, News};
use lockstep_core::cache::space;
use lockstep_core::cache::watch::Gap;

use super::known;
use crate::cache::{Event, EventId, Only, Watch, Why};
use crate::http::body::Query;
use crate::http::error::Fault;
use crate::http::names::name;
use crate::http::{Shared, sse};

pub(crate) async fn watch(
    State(gate): Shared,
    Query(query): Query<wire::WatchCache>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let wire::WatchCache { k, key, prefix, namespace, after } = query;
    let after = sse::after(&headers, after, event_id)?;
    let key = match (k, key, &prefix) {
        (None, None, _) => None,
        (Some(key), None, None) | (None, Some(key), None) => Some(key),
        _ => return Err(Fault::bad("Say at most one of k, key and prefix.")),
    };
    for (field, text) in [("k", &key), ("prefix", &prefix)] {
        text.as_deref().map(|text| name(field, text)).transpose()?;
    }
    let only = Only { namespace: known(api, namespace).await?, key, prefix };
    let watch = api.cache.watch(only, after, api.router.stopping()).await?;
    Ok(sse::stream(watch, |(id, event)| word(id, event)))
}

impl sse::Source for Watch {
    type Told = (EventId, Event);

    async fn next(&mut self) -> Option<Vec<Self::Told>> {
        Self::next(self).await
    }
}

fn event_id(text: &str) -> Option<EventId> {
    let (process, seq) = text.split_once('.')?;
    let id = EventId { process: process.parse().ok()?, seq: seq.parse().ok()? };
    (id.to_string() == text).then_some(id)
}

fn word(id: EventId, event: Event) -> Sent {
    let told = match event {
        Event::Alive => return sse::alive(id),
        Event::Reset(why) => {
            wire::CacheEvent { event: "reset".into(), reason: Some(reason(why).into()), ..Default::default() }
        }
        Event::News(News::Flushed { namespace }) => wire::CacheEvent {
            event: "flush".into(),
            namespace: Some(namespace.to_string()),
            ..Default::default()
        },
        Event::News(News::Changed { key, version, how }) => {
            let (namespace, key) = space::split(&key);
            wire::CacheEvent {
                event: "invalidate".into(),
                key: Some(key.into()),
                namespace: Some(namespace.into()),
                version: Some(version.to_string()),
                reason: Some(became(how).into()),
            }
        }
    };
    sse::event(&told.event, id, &told)
}

fn became(how: Change) -> &'static str {
    match how {
        Change::Set => "set",
        Change::Deleted => "deleted",
        Change::Evicted => "evicted",
        Change::Lost => "lost",
    }
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Start => "start",
        Why::UnknownId => "unknown_id",
        Why::Slow => "slow",
        Why::Gap(Gap::Missed) => "missed",
        Why::Gap(Gap::Ring) => "ring",
        Why::Gap(Gap::Away) => "away",
    }
}
