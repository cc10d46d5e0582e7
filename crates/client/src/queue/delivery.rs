//! A message that was received, and what its receiver may do with it.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::lock::Session;
use crate::nodes::Toward;
use crate::wire::{self, Message};

/// A received message. It comes back when its visibility time-out ends, unless it is acknowledged.
#[derive(Clone)]
pub struct Delivery {
    client: Client,
    message: Message,
    receipt: String,
    /// It lives as long as what was received in it.
    _session: Option<Session>,
}

impl Delivery {
    pub(super) fn new(
        client: &Client,
        mut message: Message,
        session: Option<Session>,
    ) -> Result<Self, Error> {
        let receipt = message.receipt.take();
        let receipt = receipt.ok_or_else(|| Error::Unexpected("a received message has no receipt".into()))?;
        Ok(Self { client: client.clone(), message, receipt, _session: session })
    }

    /// Its payload. Errors: [`Error::Unexpected`] if it is not a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let payload = serde_json::from_str(self.message.payload.get());
        payload.map_err(|error| Error::Unexpected(format!("the payload of {}: {error}", self.message.id)))
    }

    /// Everything about it.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// What acknowledges this delivery, and no other.
    pub fn receipt(&self) -> &str {
        &self.receipt
    }

    /// Done: the message is gone for good. Errors: `stale_receipt` if it came back before, so that
    /// somebody else may have it.
    pub async fn ack(&self) -> Result<(), Error> {
        let body = wire::Ack {
            receipt: Some(self.receipt.clone()),
            request_id: Some(self.client.request_id()),
            ..wire::Ack::default()
        };
        self.send::<wire::Acked>("/queue/ack", &body).await
    }

    /// Not done: back in its place, after `delay`. It counts as a failed attempt.
    pub async fn nack(&self, delay: Duration) -> Result<(), Error> {
        self.give_back(delay, true).await
    }

    /// Not tried: back in its place at once, without counting as a failed attempt.
    pub async fn put_back(&self) -> Result<(), Error> {
        self.give_back(Duration::ZERO, false).await
    }

    /// Hidden from others for so long from now on.
    pub async fn extend(&self, visibility: Duration) -> Result<(), Error> {
        let body = wire::Extend {
            receipt: Some(self.receipt.clone()),
            receipts: None,
            visibility_ms: clock::millis(visibility),
            guard: None,
            request_id: Some(self.client.request_id()),
        };
        self.send::<wire::Extended>("/queue/extend", &body).await
    }

    /// Extends in time or not at all: the caller asks again at every third of `visibility`.
    pub(super) async fn keep_hidden(&self, visibility: Duration) -> Result<(), Error> {
        match tokio::time::timeout(visibility / 3, self.extend(visibility)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::OutcomeUnknown { why: "no answer in time".into() }),
        }
    }

    async fn give_back(&self, delay: Duration, failed: bool) -> Result<(), Error> {
        let body = wire::Nack {
            receipt: Some(self.receipt.clone()),
            receipts: None,
            delay_ms: clock::millis(delay),
            failed,
            guard: None,
            request_id: Some(self.client.request_id()),
        };
        self.send::<wire::Nacked>("/queue/nack", &body).await
    }

    async fn send<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<(), Error> {
        self.client.send::<T>(path, body, Toward::Any, Duration::ZERO).await.map(drop)
    }
}
