//! The routes of queues.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::command::{NewMessage, QueueOp};
use lockstep_core::names::{MessageKey, QueueName, Receipt};
use serde_json::value::RawValue;

use super::body::{Json, Query, asked};
use super::error::Fault;
use super::limits::{BATCH_MAX, DELAY_MS_MAX, TTL_MS_MAX, WAIT_MS_MAX};
use super::names::{name, within};
use super::receipt;
use super::{Gate, Shared, batch, reply};
use crate::clock::unix_millis;
use crate::router::Message;

pub(super) async fn push(State(gate): Shared, body: Json<wire::Push>) -> Result<Response, Fault> {
    let wire::Push { queue, payload, key, delay_ms, messages, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let queue = queue.unwrap_or_else(|| "default".into());
    let queue_name = QueueName(name("queue", &queue)?);
    let single = messages.is_none();
    let messages = match (payload, messages) {
        (Some(payload), None) => vec![wire::NewMessage { payload, key, delay_ms: delay_ms.unwrap_or(0) }],
        (None, Some(batch)) if key.is_none() && delay_ms.is_none() => batch,
        (None, Some(_)) => {
            return Err(Fault::bad("key and delay_ms belong inside each of messages."));
        }
        (Some(_), Some(_)) => return Err(Fault::bad("Send payload for one message, or messages; not both.")),
        (None, None) => return Err(Fault::bad("payload is missing: any JSON.")),
    };
    within("The number of messages", messages.len() as u64, 1, BATCH_MAX as u64)?;
    let now = unix_millis();
    let messages: Result<Vec<_>, _> =
        messages.into_iter().map(|message| new_message(&gate, message, now)).collect();
    let results = gate.api()?.router.push(queue_name, messages?, &asked).await;
    let mut results = results.into_iter().map(|result| {
        let (shard, id) = result.map_err(Fault::from)?;
        Ok(wire::Pushed { id: receipt::message_id(shard, id), queue: queue.clone(), shard: shard.0 })
    });
    if single {
        let one: Result<_, Fault> =
            results.next().unwrap_or(Err(crate::router::Error::OutcomeUnknown.into()));
        return Ok(reply(&one?));
    }
    Ok(reply(&batch(results)))
}

pub(super) async fn pop_get(State(gate): Shared, Query(query): Query<wire::Pop>) -> Result<Response, Fault> {
    let fingerprint = xxhash_rust::xxh3::xxh3_64(query.queue.as_bytes());
    pop(&gate, query, fingerprint).await
}

pub(super) async fn pop_post(State(gate): Shared, body: Json<wire::Pop>) -> Result<Response, Fault> {
    pop(&gate, body.value, body.fingerprint).await
}

async fn pop(gate: &Arc<Gate>, pop: wire::Pop, fingerprint: u64) -> Result<Response, Fault> {
    let wire::Pop { queue, wait_ms, request_id } = pop;
    let asked = asked(gate, request_id, fingerprint)?;
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let taken = gate.api()?.router.pop(QueueName(name("queue", &queue)?), wait, &asked).await?;
    Ok(reply(&wire::Popped { message: taken.map(|taken| message(&queue, taken)).transpose()? }))
}

pub(super) async fn receive(State(gate): Shared, body: Json<wire::Receive>) -> Result<Response, Fault> {
    let wire::Receive { queue, max, visibility_ms, wait_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    within("max", max.into(), 1, BATCH_MAX as u64)?;
    let visibility = within("visibility_ms", visibility_ms, 1, TTL_MS_MAX)?;
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let queue_name = QueueName(name("queue", &queue)?);
    let taken = gate.api()?.router.receive(queue_name, max, visibility, wait, &asked).await?;
    let messages: Result<_, _> = taken.into_iter().map(|taken| message(&queue, taken)).collect();
    Ok(reply(&wire::Received { messages: messages? }))
}

pub(super) async fn ack(State(gate): Shared, body: Json<wire::Ack>) -> Result<Response, Fault> {
    let wire::Ack { receipt, receipts, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let single = receipts.is_none();
    let receipts = match (receipt, receipts) {
        (Some(one), None) => vec![one],
        (None, Some(many)) => many,
        _ => return Err(Fault::bad("Send receipt, or receipts; exactly one of them.")),
    };
    within("The number of receipts", receipts.len() as u64, 1, BATCH_MAX as u64)?;
    if single {
        let receipt = receipt::read(&receipts[0])?;
        let done = gate.api()?.router.ack(vec![receipt], &asked).await.pop();
        done.unwrap_or(Err(crate::router::Error::OutcomeUnknown))?;
        return Ok(reply(&wire::Acked { acknowledged: true }));
    }
    let read: Vec<_> = receipts.iter().map(|text| receipt::read(text)).collect();
    let good = read.iter().filter_map(|receipt| receipt.as_ref().ok().copied()).collect();
    let mut done = gate.api()?.router.ack(good, &asked).await.into_iter();
    let results = read.into_iter().map(|receipt| {
        receipt?;
        done.next().unwrap_or(Err(crate::router::Error::OutcomeUnknown))?;
        Ok(wire::Acked { acknowledged: true })
    });
    Ok(reply(&batch(results)))
}

pub(super) async fn nack(State(gate): Shared, body: Json<wire::Nack>) -> Result<Response, Fault> {
    let wire::Nack { receipt, delay_ms, failed, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let delay = within("delay_ms", delay_ms, 0, DELAY_MS_MAX)?;
    let (shard, receipt) = receipt::read(&receipt)?;
    gate.api()?.router.queue(shard, QueueOp::Nack { receipt, delay, failed }, &asked).await?;
    Ok(reply(&wire::Nacked { returned: true }))
}

pub(super) async fn extend(State(gate): Shared, body: Json<wire::Extend>) -> Result<Response, Fault> {
    let wire::Extend { receipt, visibility_ms, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?;
    let visibility = within("visibility_ms", visibility_ms, 1, TTL_MS_MAX)?;
    let (shard, receipt) = receipt::read(&receipt)?;
    gate.api()?.router.queue(shard, QueueOp::Extend { receipt, visibility }, &asked).await?;
    Ok(reply(&wire::Extended { visible_in_ms: visibility_ms }))
}

pub(super) async fn stats(
    State(gate): Shared,
    Query(query): Query<wire::GetStats>,
) -> Result<Response, Fault> {
    let api = gate.api()?;
    let queue_name = QueueName(name("queue", &query.queue)?);
    let view = api.router.queue_stats(queue_name, api.limits.request_time).await?;
    Ok(reply(&wire::Stats {
        queue: query.queue,
        ready: view.ready,
        in_flight: view.in_flight,
        delayed: view.delayed,
        bytes: view.bytes,
        oldest_age_ms: view.oldest_enqueued_at.map(|at| unix_millis().saturating_sub(at)),
    }))
}

pub(super) async fn list(State(gate): Shared) -> Result<Response, Fault> {
    let api = gate.api()?;
    let queues = api.router.queues(api.limits.request_time).await?;
    Ok(reply(&wire::Queues { queues: queues.into_iter().map(|queue| queue.0.to_string()).collect() }))
}

fn new_message(gate: &Gate, message: wire::NewMessage, now: u64) -> Result<NewMessage, Fault> {
    let max = gate.api()?.limits.payload_bytes_max;
    let body = String::from(Box::<str>::from(message.payload)).into_bytes();
    if body.len() > max {
        let message = format!("The payload has {} bytes; at most {max} are allowed.", body.len());
        return Err(Fault::new(wire::Code::PayloadTooLarge, message));
    }
    Ok(NewMessage {
        key: message.key.map(|key| name("key", &key)).transpose()?.map(MessageKey),
        body: body.into(),
        delay: within("delay_ms", message.delay_ms, 0, DELAY_MS_MAX)?,
        enqueued_at: now,
    })
}

fn message(queue: &str, taken: Message) -> Result<wire::Message, Fault> {
    let Message { shard, delivered, body } = taken;
    let leased = delivered.delivery > 0;
    let receipt = Receipt { message: delivered.id, delivery: delivered.delivery };
    let text = String::from_utf8(body.into()).unwrap_or_default();
    // A body that is gone would be a bug: say so rather than invent a payload.
    let payload = RawValue::from_string(text).map_err(|_| crate::router::Error::OutcomeUnknown)?;
    Ok(wire::Message {
        id: receipt::message_id(shard, delivered.id),
        queue: queue.into(),
        key: delivered.key.map(|key| key.0.to_string()),
        payload,
        attempts: delivered.attempts,
        enqueued_at_ms: delivered.enqueued_at,
        receipt: leased.then(|| receipt::write(shard, receipt)),
        visible_in_ms: leased.then_some(delivered.visibility.0),
    })
}
