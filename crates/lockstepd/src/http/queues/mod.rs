//! The routes of queues that producers and consumers use.

mod admin;
mod batch;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lockstep_client::wire;
use lockstep_core::command::NewMessage;
use lockstep_core::names::{MessageKey, QueueName, Receipt, ShardId};
use lockstep_core::queue::PRIORITY_MAX;
use serde_json::value::RawValue;

use super::body::{Json, Query, Raw, asked};
use super::error::Fault;
use super::limits::{BATCH_MAX, DELAY_MS_MAX, TTL_MS_MAX, WAIT_MS_MAX};
use super::names::{guard, name, session, within};
use super::receipt;
use super::{Gate, Shared, reply};
use crate::clock::unix_millis;
use crate::router::{Error, Message, Receive};

use batch::Batch;

pub(super) use admin::{configure, list, peek, purge, redrive, resume, stats};

pub(super) async fn push(State(gate): Shared, body: Raw) -> Result<Response, Fault> {
    let Batch { queue, guard: claim, request_id, single, messages } = Batch::read(&body.bytes)?;
    let asked = asked(&gate, request_id, body.fingerprint)?.guarded(guard(claim)?);
    let queue_name = QueueName(name("queue", &queue)?);
    within("The number of messages", messages.len() as u64, 1, BATCH_MAX as u64)?;
    let now = unix_millis();
    // A message that makes no sense is its own fault, and keeps no other one from being pushed.
    let (mut good, mut results) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
    for message in messages {
        results.push(
            message.and_then(|message| new_message(&gate, message, now)).map(|message| good.push(message)),
        );
    }
    let pushed = gate.api()?.router.push(queue_name, good, &asked).await;
    let mut pushed = pushed.into_iter();
    let mut results = results.into_iter().map(|result| {
        result?;
        let (shard, placed) = pushed.next().unwrap_or(Err(Error::OutcomeUnknown))?;
        Ok(wire::Pushed {
            id: receipt::message_id(shard, placed.id),
            queue: queue.clone(),
            shard: shard.0,
            duplicate: placed.duplicate,
        })
    });
    if single {
        let one: Result<_, Fault> = results.next().unwrap_or(Err(Error::OutcomeUnknown.into()));
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
    let wire::Pop { queue, wait_ms, guard: claim, request_id } = pop;
    let asked = asked(gate, request_id, fingerprint)?.guarded(guard(claim)?);
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let taken = gate.api()?.router.pop(QueueName(name("queue", &queue)?), wait, &asked).await?;
    Ok(reply(&wire::Popped { message: taken.map(|taken| message(&queue, taken)).transpose()? }))
}

pub(super) async fn receive(State(gate): Shared, body: Json<wire::Receive>) -> Result<Response, Fault> {
    let wire::Receive {
        queue,
        max,
        visibility_ms,
        wait_ms,
        session: within_session,
        ack,
        guard: claim,
        request_id,
    } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?.guarded(guard(claim)?);
    within("max", max.into(), 1, BATCH_MAX as u64)?;
    let visibility = visibility_ms.map(|ms| within("visibility_ms", ms, 1, TTL_MS_MAX)).transpose()?;
    let wait = within("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let session = within_session.as_deref().map(session).transpose()?;
    let done = ack.map(|receipts| Receipts::new(None, Some(receipts))).transpose()?;
    let (acks, done) = done.map(Receipts::readable).unzip();
    let receive = Receive {
        queue: QueueName(name("queue", &queue)?),
        max,
        visibility,
        session,
        wait,
        acks: acks.unwrap_or_default(),
    };
    let received = gate.api()?.router.receive(receive, &asked).await;
    let messages = received.messages.map_err(Fault::from);
    let messages: Result<Vec<_>, Fault> =
        messages.and_then(|taken| taken.into_iter().map(|taken| message(&queue, taken)).collect());
    let Some(done) = done else {
        return Ok(reply(&wire::Received { messages: messages?, acked: None, error: None }));
    };
    let (messages, error) = match messages {
        Ok(messages) => (messages, None),
        // Nothing at all was done: that is the whole answer.
        Err(fault) if received.acked.iter().all(Result::is_err) => return Err(fault),
        Err(fault) => (Vec::new(), Some(fault.into_wire().error)),
    };
    let acked = done.results(received.acked, wire::Acked { acknowledged: true }).map(one_result).collect();
    Ok(reply(&wire::Received { messages, acked: Some(acked), error }))
}

pub(super) async fn ack(State(gate): Shared, body: Json<wire::Ack>) -> Result<Response, Fault> {
    let wire::Ack { receipt, receipts, push, guard: claim, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?.guarded(guard(claim)?);
    let receipts = Receipts::new(receipt, receipts)?;
    let api = gate.api()?;
    if let Some(push) = push {
        return ack_push(&gate, receipts, push, &asked).await;
    }
    let (good, receipts) = receipts.readable();
    let done = api.router.ack(good, &asked).await;
    receipts.answer(done, wire::Acked { acknowledged: true })
}

/// All of it or nothing: the answer is one for everything.
async fn ack_push(
    gate: &Gate,
    receipts: Receipts,
    push: Vec<wire::Onward>,
    asked: &crate::router::Asked,
) -> Result<Response, Fault> {
    within("The number of messages in push", push.len() as u64, 1, BATCH_MAX as u64)?;
    let read: Result<Vec<_>, _> = receipts.read.into_iter().collect();
    let read = read?;
    let shard = read[0].0;
    if read.iter().any(|(of, _)| *of != shard) {
        return Err(Fault::bad(
            "The receipts are of several shards, so no step can be atomic over them: send an ack with push for each shard. Receipts of one receive are always of one shard.",
        ));
    }
    let now = unix_millis();
    let mut queues = Vec::with_capacity(push.len());
    let mut messages = Vec::with_capacity(push.len());
    for onward in push {
        let wire::Onward { queue, payload, key, delay_ms, ttl_ms, priority, dedup_id } = onward;
        let message = wire::NewMessage { payload, key, delay_ms, ttl_ms, priority, dedup_id };
        messages.push((QueueName(name("push.queue", &queue)?), new_message(gate, message, now)?));
        queues.push(queue);
    }
    let receipts = read.into_iter().map(|(_, receipt)| receipt).collect();
    let onwards = gate.api()?.router.ack_push(shard, receipts, messages, asked).await?;
    let pushed = onwards.into_iter().zip(queues).map(|((shard, placed), queue)| wire::PushedOnward {
        id: placed.map(|placed| receipt::message_id(shard, placed.id)),
        queue,
        shard: shard.0,
        duplicate: placed.is_some_and(|placed| placed.duplicate),
    });
    Ok(reply(&wire::AckedPushed { acknowledged: true, pushed: pushed.collect() }))
}

pub(super) async fn nack(State(gate): Shared, body: Json<wire::Nack>) -> Result<Response, Fault> {
    let wire::Nack { receipt, receipts, delay_ms, failed, guard: claim, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?.guarded(guard(claim)?);
    let delay = within("delay_ms", delay_ms, 0, DELAY_MS_MAX)?;
    let (good, receipts) = Receipts::new(receipt, receipts)?.readable();
    let done = gate.api()?.router.nack(good, delay, failed, &asked).await;
    receipts.answer(done, wire::Nacked { returned: true })
}

pub(super) async fn extend(State(gate): Shared, body: Json<wire::Extend>) -> Result<Response, Fault> {
    let wire::Extend { receipt, receipts, visibility_ms, guard: claim, request_id } = body.value;
    let asked = asked(&gate, request_id, body.fingerprint)?.guarded(guard(claim)?);
    let visibility = within("visibility_ms", visibility_ms, 1, TTL_MS_MAX)?;
    let (good, receipts) = Receipts::new(receipt, receipts)?.readable();
    let done = gate.api()?.router.extend(good, visibility, &asked).await;
    receipts.answer(done, wire::Extended { visible_in_ms: visibility_ms })
}

/// One receipt or many, as far as they can be read.
struct Receipts {
    single: bool,
    read: Vec<Result<(ShardId, Receipt), Fault>>,
}

impl Receipts {
    fn new(receipt: Option<String>, receipts: Option<Vec<String>>) -> Result<Self, Fault> {
        let single = receipts.is_none();
        let texts = match (receipt, receipts) {
            (Some(one), None) => vec![one],
            (None, Some(many)) => many,
            _ => return Err(Fault::bad("Send receipt, or receipts; exactly one of them.")),
        };
        within("The number of receipts", texts.len() as u64, 1, BATCH_MAX as u64)?;
        Ok(Self { single, read: texts.iter().map(|text| receipt::read(text)).collect() })
    }

    fn readable(self) -> (Vec<(ShardId, Receipt)>, Self) {
        (self.read.iter().filter_map(|receipt| receipt.as_ref().ok().copied()).collect(), self)
    }

    /// `done` has one result for each receipt that could be read.
    fn answer<T: Clone + serde::Serialize>(
        self,
        done: Vec<Result<(), Error>>,
        yes: T,
    ) -> Result<Response, Fault> {
        let single = self.single;
        let mut results = self.results(done, yes);
        if single {
            let one: Result<T, Fault> = results.next().unwrap_or(Err(Error::OutcomeUnknown.into()));
            return Ok(reply(&one?));
        }
        Ok(reply(&batch(results)))
    }

    /// In the order of the receipts, those that could not be read among them.
    fn results<T: Clone>(
        self,
        done: Vec<Result<(), Error>>,
        yes: T,
    ) -> impl Iterator<Item = Result<T, Fault>> {
        let mut done = done.into_iter();
        self.read.into_iter().map(move |receipt| {
            receipt?;
            done.next().unwrap_or(Err(Error::OutcomeUnknown))?;
            Ok(yes.clone())
        })
    }
}

fn new_message(gate: &Gate, message: wire::NewMessage, now: u64) -> Result<NewMessage, Fault> {
    let max = gate.api()?.limits.payload_bytes_max;
    let wire::NewMessage { payload, key, delay_ms, ttl_ms, priority, dedup_id } = message;
    let body = String::from(Box::<str>::from(payload)).into_bytes();
    if body.len() > max {
        let message = format!("The payload has {} bytes; at most {max} are allowed.", body.len());
        return Err(Fault::new(wire::Code::PayloadTooLarge, message));
    }
    within("priority", priority.into(), 0, PRIORITY_MAX.into())?;
    Ok(NewMessage {
        key: key.map(|key| name("key", &key)).transpose()?.map(MessageKey),
        body: body.into(),
        delay: within("delay_ms", delay_ms, 0, DELAY_MS_MAX)?,
        ttl: ttl_ms.map(|ms| within("ttl_ms", ms, 1, DELAY_MS_MAX)).transpose()?,
        priority,
        dedup: dedup_id.map(|id| name("dedup_id", &id)).transpose()?,
        enqueued_at: now,
    })
}

fn message(queue: &str, taken: Message) -> Result<wire::Message, Fault> {
    let Message { shard, delivered, body } = taken;
    let leased = delivered.delivery > 0;
    let receipt = Receipt { message: delivered.id, delivery: delivered.delivery };
    Ok(wire::Message {
        id: receipt::message_id(shard, delivered.id),
        queue: queue.into(),
        key: delivered.key.map(|key| key.0.to_string()),
        payload: payload(&body)?,
        attempts: delivered.attempts,
        failures: delivered.failures,
        priority: delivered.priority,
        enqueued_at_ms: delivered.enqueued_at,
        receipt: leased.then(|| receipt::write(shard, receipt)),
        visible_in_ms: leased.then_some(delivered.visibility.0),
    })
}

fn payload(body: &[u8]) -> Result<Box<RawValue>, Fault> {
    let text = String::from_utf8(body.to_vec()).unwrap_or_default();
    // A body that is gone would be a bug: say so rather than invent a payload.
    RawValue::from_string(text).map_err(|_| Error::OutcomeUnknown.into())
}

fn batch<T>(results: impl Iterator<Item = Result<T, Fault>>) -> wire::Results<T> {
    wire::Results { results: results.map(one_result).collect() }
}

fn one_result<T>(result: Result<T, Fault>) -> wire::OneResult<T> {
    match result {
        Ok(done) => wire::OneResult::Done(done),
        Err(fault) => wire::OneResult::Failed(fault.into_wire()),
    }
}
