//! A worker: receives, runs a handler for each message, acknowledges or gives back.
//!
//! Bounded: it never has more messages than it may handle at once. It does not order the messages;
//! the queue does, by their keys.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Delivery, Queue};
use crate::backoff::Backoff;
use crate::clock;
use crate::error::Error;
use crate::lock::{Lost, Session};
use crate::wire::Code;

/// How long one receive waits on the server.
const POLL: Duration = Duration::from_secs(20);

/// How long a stopping worker waits for the answer of its last receive: what came would otherwise
/// stay hidden until its time-out.
const LAST_ANSWER: Duration = Duration::from_millis(300);

/// The largest batch of one receive.
const BATCH_MAX: usize = 1_000;

/// A worker that is about to run.
pub struct Worker {
    queue: Queue,
    concurrency: usize,
    visibility: Duration,
    retry_delay: Duration,
    session: Option<Session>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What a worker did until it was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Handled and acknowledged.
    pub done: u64,
    /// The handler failed or panicked, and the message was given back.
    pub failed: u64,
    /// Handled, but the acknowledgement was refused or its outcome is unknown: the message may have
    /// been handled elsewhere, too.
    pub unsure: u64,
    /// Given back without being handled, because the worker stopped.
    pub put_back: u64,
}

/// What came of one message.
enum Fate {
    Done,
    Failed,
    Unsure,
    PutBack,
}

impl Worker {
    pub(super) fn new(queue: Queue, concurrency: usize) -> Self {
        Self {
            queue,
            concurrency: concurrency.max(1),
            visibility: Duration::from_secs(30),
            retry_delay: Duration::ZERO,
            session: None,
            stop: Box::pin(std::future::pending()),
        }
    }

    /// How long a message stays hidden if this process dies, 30 seconds unless said. While a handler
    /// runs, it is extended at every third of this.
    #[must_use]
    pub fn visibility(self, visibility: Duration) -> Self {
        Self { visibility, ..self }
    }

    /// How long a message rests after its handler has failed; not at all unless said.
    #[must_use]
    pub fn retry_delay(self, retry_delay: Duration) -> Self {
        Self { retry_delay, ..self }
    }

    /// Receives in a session: its one heartbeat keeps every message hidden, instead of an extension for
    /// each, and if it ends (this process dies, or is cut off) they go back at once. The worker ends with
    /// it; handlers that run are finished, though somebody else may have their messages by then.
    #[must_use]
    pub fn session(self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self }
    }

    /// Stops when this completes: handlers that run are finished, messages that were received but
    /// not begun are put back, and [`Worker::run`] returns.
    #[must_use]
    pub fn until(self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stop: Box::pin(stop), ..self }
    }

    /// Runs until stopped. Each message is acknowledged when its handler returns `Ok`, and given back
    /// when it returns an error or panics.
    ///
    /// A cluster that cannot be reached is tried again for ever. Errors: a receive was refused for a
    /// reason that does not pass, such as a wrong name, or the worker's session has ended; running
    /// handlers are finished first.
    pub async fn run<H, F, E>(mut self, handler: H) -> Result<Summary, Error>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let handler = Arc::new(handler);
        let mut running = JoinSet::new();
        let mut summary = Summary::default();
        let mut backoff = Backoff::default();
        let end = loop {
            let free = self.concurrency - running.len();
            if free == 0 {
                tokio::select! {
                    Some(fate) = running.join_next() => summary.count(fate.ok()),
                    () = &mut self.stop => break Ok(()),
                }
                continue;
            }
            let mut receive = Box::pin(self.receive(free).fetch());
            let received = loop {
                tokio::select! {
                    received = &mut receive => break Some(received),
                    lost = lost(self.session.as_ref()) => break Some(Err(lost.into())),
                    Some(fate) = running.join_next() => summary.count(fate.ok()),
                    () = &mut self.stop => break None,
                }
            };
            match received {
                None => {
                    put_back_the_last(receive, &mut running).await;
                    break Ok(());
                }
                Some(Ok(deliveries)) => {
                    backoff = Backoff::default();
                    for delivery in deliveries {
                        let extend_by = self.session.is_none().then_some(self.visibility);
                        running.spawn(handle(delivery, Arc::clone(&handler), extend_by, self.retry_delay));
                    }
                }
                Some(Err(error @ Error::Refused { status: 400..500, .. }))
                    if !error.is(Code::QueueFull) && !error.is(Code::StorageFull) =>
                {
                    break Err(error);
                }
                Some(Err(error))
                    if self.session.as_ref().is_some_and(|session| session.is_lost().is_some()) =>
                {
                    break Err(error);
                }
                Some(Err(_)) => tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => {}
                    () = &mut self.stop => break Ok(()),
                },
            }
        };
        while let Some(fate) = running.join_next().await {
            summary.count(fate.ok());
        }
        end.map(|()| summary)
    }

    fn receive(&self, free: usize) -> super::Receive {
        let max = u32::try_from(free.min(BATCH_MAX)).unwrap_or(1);
        let session = self.session.clone();
        super::Receive { session, ..self.queue.receive().max(max).visibility(self.visibility).wait(POLL) }
    }
}

/// Completes when the session has ended.
async fn lost(session: Option<&Session>) -> Lost {
    match session {
        Some(session) => session.lost().await,
        None => std::future::pending().await,
    }
}

/// A queue that has messages answers at once; an empty one has nothing to lose.
async fn put_back_the_last(
    receive: impl Future<Output = Result<Vec<Delivery>, Error>>,
    running: &mut JoinSet<Fate>,
) {
    if let Ok(Ok(deliveries)) = tokio::time::timeout(LAST_ANSWER, receive).await {
        for delivery in deliveries {
            running.spawn(async move {
                // If this fails, the time-out brings the message back.
                let _ = delivery.put_back().await;
                Fate::PutBack
            });
        }
    }
}

/// Runs the handler, and keeps the message hidden meanwhile; without `extend_by` its session does.
async fn handle<H, F, E>(
    delivery: Delivery,
    handler: Arc<H>,
    extend_by: Option<Duration>,
    rest: Duration,
) -> Fate
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    // A task of its own, so that a panic is a failure of this message and of nothing else; in a set,
    // so that it ends with the worker.
    let mut work = JoinSet::new();
    work.spawn(handler(delivery.clone()));
    let outcome = tokio::select! {
        Some(outcome) = work.join_next() => outcome,
        never = keep_hidden(&delivery, extend_by) => match never {},
    };
    match outcome {
        Ok(Ok(())) => match delivery.ack().await {
            Ok(()) => Fate::Done,
            Err(_) => Fate::Unsure,
        },
        // If giving back fails, the time-out does it.
        Ok(Err(_)) | Err(_) => {
            let _ = delivery.nack(rest).await;
            Fate::Failed
        }
    }
}

/// Extends the visibility at every third of it, for as long as the receipt is of any use; the handler
/// goes on without, and its acknowledgement will tell.
async fn keep_hidden(delivery: &Delivery, extend_by: Option<Duration>) -> Infallible {
    let Some(visibility) = extend_by else { return std::future::pending().await };
    loop {
        clock::sleep_until(clock::now() + visibility / 3).await;
        if let Err(Error::Refused { status: 400..500, .. }) = delivery.keep_hidden(visibility).await {
            return std::future::pending().await;
        }
    }
}

impl Summary {
    fn count(&mut self, fate: Option<Fate>) {
        match fate {
            Some(Fate::Done) => self.done += 1,
            Some(Fate::PutBack) => self.put_back += 1,
            Some(Fate::Unsure) => self.unsure += 1,
            Some(Fate::Failed) | None => self.failed += 1,
        }
    }
}
