//! Pushing: one message, or a batch whose items succeed or fail one by one.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Queue;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::nodes::Toward;
use crate::wire::{Code, Fault, NewMessage, OneResult, Push, Pushed, Received, Results};

/// A message to be pushed.
#[derive(Clone, Debug)]
pub struct Message(NewMessage);

impl Message {
    /// A message with this payload, as JSON. Errors: [`Error::Invalid`] if it has no JSON form.
    pub fn new(payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let payload = serde_json::value::to_raw_value(payload);
        let payload = payload.map_err(|error| Error::Invalid(format!("payload: {error}")))?;
        Ok(Self(NewMessage { payload, key: None, delay_ms: 0, ttl_ms: None, priority: 0, dedup_id: None }))
    }

    /// Delivered after all earlier messages of this key, one at a time.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Not delivered before so much time has passed.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay_ms = clock::millis(delay);
        self
    }

    /// Dropped, unless in flight, once so much time has passed.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = Some(clock::millis(ttl));
        self
    }

    /// 0 to 9: larger ones first among messages without a key and among the heads of keys.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = priority;
        self
    }

    /// Pushed once under this id, per queue and key; remembered for five minutes.
    #[must_use]
    pub fn dedup_id(mut self, id: impl Into<String>) -> Self {
        self.0.dedup_id = Some(id.into());
        self
    }
}

impl Queue {
    /// Pushes one message: when this returns, it is on the disks of a majority. Errors:
    /// `payload_too_large`, `queue_full`; after [`Error::OutcomeUnknown`] it may be there.
    pub async fn push(&self, message: Message) -> Result<Pushed, Error> {
        let Message(NewMessage { payload, key, delay_ms, ttl_ms, priority, dedup_id }) = message;
        let body = Push {
            payload: Some(payload),
            key,
            delay_ms: (delay_ms > 0).then_some(delay_ms),
            ttl_ms,
            priority: (priority > 0).then_some(priority),
            dedup_id,
            ..self.nothing_to_push()
        };
        self.client().send("/queue/push", &body, Toward::Any, Duration::ZERO).await
    }

    /// Pushes up to 1000 messages in one request; one result for each, in order. Items that could
    /// not be pushed for a passing reason are tried again until the time-out.
    pub async fn push_batch(&self, messages: Vec<Message>) -> Result<Vec<Result<Pushed, Error>>, Error> {
        let messages = messages.into_iter().map(|Message(message)| message).collect();
        let body = Push { messages: Some(messages), ..self.nothing_to_push() };
        let pushed: Results<Pushed> = send_batch(self.client(), "/queue/push", &body).await?;
        Ok(pushed.results.into_iter().map(one).collect())
    }

    fn nothing_to_push(&self) -> Push {
        Push {
            queue: Some(self.name().to_owned()),
            request_id: Some(self.client().request_id()),
            ..Push::default()
        }
    }
}

/// Sends a batch until no item of it has failed for a reason that passes, or the time is over.
pub(super) async fn send_batch<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    body: &impl Serialize,
) -> Result<Results<T>, Error> {
    send_until_settled(client, path, body, Duration::ZERO).await
}

/// Sends until no part of the answer has failed for a reason that passes, or the time is over, `wait` not
/// counted. The same bytes each time: what is done already answers as it did first.
pub(super) async fn send_until_settled<T: Parts>(
    client: &Client,
    path: &str,
    body: &impl Serialize,
    wait: Duration,
) -> Result<T, Error> {
    let end = clock::now() + client.patience().total + wait;
    let mut backoff = Backoff::default();
    loop {
        let answer: T = client.send(path, body, Toward::Any, wait).await?;
        let pause = backoff.pause();
        if !answer.faults().any(may_pass) || clock::now() + pause >= end {
            return Ok(answer);
        }
        tokio::time::sleep(pause).await;
    }
}

/// An answer whose parts may fail each by itself.
pub(super) trait Parts: DeserializeOwned {
    /// Why parts of it failed.
    fn faults(&self) -> impl Iterator<Item = &Fault>;
}

impl<T: DeserializeOwned> Parts for Results<T> {
    fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.results.iter().filter_map(fault)
    }
}

impl Parts for Received {
    fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.error.iter().chain(self.acked.iter().flatten().filter_map(fault))
    }
}

fn fault<T>(result: &OneResult<T>) -> Option<&Fault> {
    match result {
        OneResult::Failed(failure) => Some(&failure.error),
        OneResult::Done(_) => None,
    }
}

/// One item's reply, or its error.
pub(super) fn one<T>(result: OneResult<T>) -> Result<T, Error> {
    match result {
        OneResult::Done(done) => Ok(done),
        OneResult::Failed(failure) if Code::parse(&failure.error.code) == Some(Code::OutcomeUnknown) => {
            Err(Error::OutcomeUnknown { why: failure.error.message })
        }
        OneResult::Failed(failure) => Err(Error::refused(200, failure.error)),
    }
}

fn may_pass(fault: &Fault) -> bool {
    matches!(
        Code::parse(&fault.code),
        Some(
            Code::OutcomeUnknown
                | Code::NoLeader
                | Code::Overloaded
                | Code::MemoFull
                | Code::Draining
                | Code::Forming
        )
    )
}
