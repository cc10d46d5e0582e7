//! The routes of queues that operators use.

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::command::ConfigChange;
use lockstep_core::names::{MessageKey, QueueName};
use lockstep_core::queue::{OnPoison, QueueConfig, Totals};

use super::super::body::{Json, Query, asked};
use super::super::error::Fault;
use super::super::limits::{ATTEMPTS_MAX, BATCH_MAX, PAGE_MAX, TTL_MS_MAX};
use super::super::names::{name, within};
use super::super::{Shared, receipt, reply};
use super::payload;
use crate::clock::unix_millis;
use crate::rates::Rate;
use crate::router::Page;

pub(in super::super) async fn configure(
    State(gate): Shared,
    body: Json<wire::Configure>,
) -> Result<Response, Fault> {
    let wire::Configure {
        queue,
        max_attempts,
        dead_letter,
        visibility_ms,
        max_messages,
        max_bytes,
        on_poison,
        request_id,
    } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    if dead_letter.as_deref() == Some(&*queue) {
        return Err(Fault::bad("dead_letter must be another queue."));
    }
    within("max_attempts", max_attempts.unwrap_or(1).into(), 0, ATTEMPTS_MAX.into())?;
    let change = ConfigChange {
        max_attempts,
        dead_letter: dead_letter.map(|queue| name("dead_letter", &queue)).transpose()?.map(QueueName),
        visibility: visibility_ms.map(|ms| within("visibility_ms", ms, 1, TTL_MS_MAX)).transpose()?,
        max_messages,
        max_bytes,
        on_poison: on_poison.map(|policy| match policy {
            wire::OnPoison::Skip => OnPoison::Skip,
            wire::OnPoison::ParkKey => OnPoison::ParkKey,
            wire::OnPoison::Block => OnPoison::Block,
        }),
    };
    let queue_name = QueueName(name("queue", &queue)?);
    let config = gate.api()?.router.configure(queue_name.clone(), change, &asked).await?;
    Ok(reply(&configuration(&queue_name, &config)))
}

pub(in super::super) async fn stats(
    State(gate): Shared,
    Query(query): Query<wire::GetStats>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let queue_name = QueueName(name("queue", &query.queue)?);
    let stats = api.router.queue_stats(queue_name.clone(), api.limits.request_time).await?;
    let view = stats.view;
    Ok(reply(&wire::Stats {
        queue: query.queue,
        ready: view.ready,
        in_flight: view.in_flight,
        delayed: view.delayed,
        dead: view.dead,
        parked_keys: view.parked_keys,
        blocked: view.blocked,
        bytes: view.bytes,
        oldest_age_ms: view.oldest_enqueued_at.map(|at| unix_millis().saturating_sub(at)),
        rates: rates(stats.rate),
        totals: totals(view.totals),
        config: configuration(&queue_name, &stats.config.unwrap_or_default()),
    }))
}

pub(in super::super) async fn list(
    State(gate): Shared,
    Query(query): Query<wire::ListQueues>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    within("limit", query.limit.into(), 1, PAGE_MAX.into())?;
    let after = query.after.map(|after| name("after", &after)).transpose()?.map(QueueName);
    let page = Page { after, limit: query.limit };
    let queues = api.router.queues(&page, api.limits.request_time).await?;
    let queues: Vec<String> = queues.into_iter().map(|queue| queue.0.to_string()).collect();
    let next = queues.last().filter(|_| queues.len() == query.limit as usize).cloned();
    Ok(reply(&wire::Queues { queues, next }))
}

pub(in super::super) async fn peek(
    State(gate): Shared,
    Query(query): Query<wire::Peek>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    within("max", query.max.into(), 1, BATCH_MAX as u64)?;
    let queue = QueueName(name("queue", &query.queue)?);
    let waiting = api.router.peek(queue, query.max, api.limits.request_time).await?;
    let messages: Result<_, Fault> = waiting
        .into_iter()
        .map(|message| {
            Ok(wire::Waiting {
                id: receipt::message_id(message.shard, message.delivered.id),
                key: message.delivered.key.map(|key| key.0.to_string()),
                payload: payload(&message.body)?,
                attempts: message.delivered.attempts,
                failures: message.delivered.failures,
                priority: message.delivered.priority,
                enqueued_at_ms: message.delivered.enqueued_at,
            })
        })
        .collect();
    Ok(reply(&wire::Peeked { messages: messages? }))
}

pub(in super::super) async fn purge(State(gate): Shared, body: Json<wire::Purge>) -> Result<Response, Fault> {
    let wire::Purge { queue, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let purged = gate.api()?.router.purge(QueueName(name("queue", &queue)?), &asked).await?;
    Ok(reply(&wire::Purged { purged }))
}

pub(in super::super) async fn redrive(
    State(gate): Shared,
    body: Json<wire::Redrive>,
) -> Result<Response, Fault> {
    let wire::Redrive { queue, max, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let max = max.unwrap_or(u64::MAX);
    within("max", max, 1, u64::MAX)?;
    let queue = QueueName(name("queue", &queue)?);
    let (redriven, dead) = gate.api()?.router.redrive(queue, max, &asked).await?;
    Ok(reply(&wire::Redriven { redriven, dead }))
}

pub(in super::super) async fn resume(
    State(gate): Shared,
    body: Json<wire::Resume>,
) -> Result<Response, Fault> {
    let wire::Resume { queue, key, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let key = key.map(|key| name("key", &key)).transpose()?.map(MessageKey);
    let queue = QueueName(name("queue", &queue)?);
    let keys = gate.api()?.router.resume(queue, key, &asked).await?;
    Ok(reply(&wire::Resumed { keys }))
}

fn configuration(queue: &QueueName, config: &QueueConfig) -> wire::Configuration {
    wire::Configuration {
        queue: queue.0.to_string(),
        max_attempts: config.max_attempts,
        dead_letter: config.dead_letter_of(queue).0.to_string(),
        visibility_ms: config.visibility.0,
        max_messages: config.max_messages,
        max_bytes: config.max_bytes,
        on_poison: match config.on_poison {
            OnPoison::Skip => wire::OnPoison::Skip,
            OnPoison::ParkKey => wire::OnPoison::ParkKey,
            OnPoison::Block => wire::OnPoison::Block,
        },
    }
}

/// To a tenth: more would pretend.
fn rates(rate: Rate) -> wire::Rates {
    let tenth = |rate: f64| (rate * 10.0).round() / 10.0;
    wire::Rates {
        pushed_per_second: tenth(rate.pushed),
        delivered_per_second: tenth(rate.delivered),
        acked_per_second: tenth(rate.acked),
    }
}

fn totals(totals: Totals) -> wire::Totals {
    let Totals { pushed, deliveries, delivered, expired, purged, dead_lettered, redriven, dead_in, dead_out } =
        totals;
    wire::Totals {
        pushed,
        deliveries,
        delivered,
        expired,
        purged,
        dead_lettered,
        redriven,
        dead_in,
        dead_out,
    }
}
