//! Queues: push, receive, acknowledge; and [`Worker`], which does the latter two for a handler.
//!
//! A message is delivered until it is acknowledged, so a handler may see one twice: after a crash,
//! or when it took longer than its visibility time-out. What it does must bear that.

mod delivery;
mod push;
mod worker;

use std::time::Duration;

pub use delivery::Delivery;
pub use push::Message;
pub use worker::{Summary, Worker};

use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::lock::{Session, form};
use crate::nodes::Toward;
use crate::wire;

/// One queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    name: String,
}

/// A receive that is about to be sent.
#[derive(Clone)]
pub struct Receive {
    queue: Queue,
    max: u32,
    visibility: Duration,
    wait: Duration,
    session: Option<Session>,
}

/// What came of [`Receive::fetch_and_ack`]: either part may fail without the other.
pub struct Received {
    /// One result for each delivery that was to be acknowledged, in order.
    pub acked: Vec<Result<(), Error>>,
    /// What was received.
    pub messages: Result<Vec<Delivery>, Error>,
}

impl Client {
    /// The queue `name` (1 to 512 bytes). It comes into being with its first message.
    pub fn queue(&self, name: impl Into<String>) -> Queue {
        Queue { client: self.clone(), name: name.into() }
    }

    /// The names of all queues that hold messages, in order.
    pub async fn queues(&self) -> Result<Vec<String>, Error> {
        let found: wire::Queues = self.fetch("/queue/list".into(), Toward::Any).await?;
        Ok(found.queues)
    }
}

impl Queue {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one message for good, waiting up to `wait` (a minute at most). Nothing: the queue
    /// proved empty. Whoever dies with the message has lost it: [`Queue::receive`] is safe from that.
    pub async fn pop(&self, wait: Duration) -> Result<Option<wire::Message>, Error> {
        let request_id = Some(self.client.request_id());
        let body =
            wire::Pop { queue: self.name.clone(), wait_ms: clock::millis(wait), guard: None, request_id };
        let popped: wire::Popped = self.client.send("/queue/pop", &body, Toward::Any, wait).await?;
        Ok(popped.message)
    }

    /// Receives messages that come back unless they are acknowledged: say how many and for how
    /// long, then [`Receive::fetch`].
    pub fn receive(&self) -> Receive {
        Receive {
            queue: self.clone(),
            max: 1,
            visibility: Duration::from_secs(30),
            wait: Duration::ZERO,
            session: None,
        }
    }

    /// Acknowledges up to 1000 deliveries in one request; one result for each, in order.
    pub async fn ack(&self, deliveries: &[Delivery]) -> Result<Vec<Result<(), Error>>, Error> {
        let body = wire::Ack {
            receipts: Some(deliveries.iter().map(|delivery| delivery.receipt().to_owned()).collect()),
            request_id: Some(self.client.request_id()),
            ..wire::Ack::default()
        };
        let acked: wire::Results<wire::Acked> = push::send_batch(&self.client, "/queue/ack", &body).await?;
        Ok(acked.results.into_iter().map(|result| push::one(result).map(drop)).collect())
    }

    /// A worker that handles up to `concurrency` messages at once.
    pub fn worker(&self, concurrency: usize) -> Worker {
        Worker::new(self.clone(), concurrency)
    }

    /// How much there is in it.
    pub async fn stats(&self) -> Result<wire::Stats, Error> {
        let query = form(&[("queue", &self.name)]);
        self.client.fetch(format!("/queue/stats?{query}"), Toward::Any).await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Receive {
    /// At most so many messages, 1 to 1000; one unless said.
    #[must_use]
    pub fn max(self, max: u32) -> Self {
        Self { max, ..self }
    }

    /// How long they stay hidden from others, 30 seconds unless said.
    #[must_use]
    pub fn visibility(self, visibility: Duration) -> Self {
        Self { visibility, ..self }
    }

    /// How long to wait for the first, a minute at most; not at all unless said.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// In a session: its heartbeat keeps the messages hidden, for at least as long as the session lasts
    /// without one, and its end returns them at once.
    #[must_use]
    pub fn session(self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self }
    }

    /// Receives. An empty list means that the queue proved empty. A dropped future may leave
    /// messages hidden until their visibility time-out ends. Errors: `session_expired`.
    pub async fn fetch(self) -> Result<Vec<Delivery>, Error> {
        self.send(None).await?.messages
    }

    /// Receives, and acknowledges up to 1000 earlier deliveries in the same request: for a consumer that
    /// is done with one batch when it asks for the next. Where it waits, the acknowledgements are done
    /// at once, but told only with what it waited for.
    pub async fn fetch_and_ack(self, done: &[Delivery]) -> Result<Received, Error> {
        let receipts: Vec<_> = done.iter().map(|delivery| delivery.receipt().to_owned()).collect();
        self.send((!receipts.is_empty()).then_some(receipts)).await
    }

    async fn send(self, ack: Option<Vec<String>>) -> Result<Received, Error> {
        let client = &self.queue.client;
        let session = self.session;
        let lasting = session.as_ref().map_or(Duration::ZERO, Session::ttl);
        let body = wire::Receive {
            queue: self.queue.name.clone(),
            max: self.max,
            visibility_ms: Some(clock::millis(self.visibility.max(lasting))),
            wait_ms: clock::millis(self.wait),
            session: session.as_ref().map(|session| session.id().to_owned()),
            ack,
            guard: None,
            request_id: Some(client.request_id()),
        };
        let received: wire::Received =
            push::send_until_settled(client, "/queue/receive", &body, self.wait).await?;
        let delivery = |message| Delivery::new(client, message, session.clone());
        let messages = match received.error {
            None => received.messages.into_iter().map(delivery).collect(),
            Some(fault) => push::one(wire::OneResult::Failed(wire::Failure { error: fault })),
        };
        let acked = received.acked.unwrap_or_default().into_iter();
        Ok(Received { acked: acked.map(|result| push::one(result).map(drop)).collect(), messages })
    }
}
