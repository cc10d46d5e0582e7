//! The serving side of one connection: requests in, answers out.
//!
//! Each request is first polled in the order of arrival, and most are answered right then; those
//! that must wait go on side by side. There is no task for each request.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lockstep_core::names::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::frame::Frame;
use super::outgoing::{Connection, KEEP, PART, make_room};
use super::{Error, Handler, Service, Settings};

/// Requests that one connection may have waiting at once; above it, it is not read.
const WAITING_MAX: usize = 1 << 17;

/// Bytes of answers that are written before anything else is looked at.
const FLUSH: usize = 1 << 20;

type Handlers = BTreeMap<Service, Arc<dyn Handler>>;

/// Serves a greeted connection of `from` until it ends.
pub(super) async fn serve(connection: Connection, from: NodeId, handlers: Arc<Handlers>, settings: Settings) {
    let Connection { mut read, mut write, mut input } = connection;
    let mut waiting = FuturesUnordered::new();
    let mut cancels: BTreeMap<u64, oneshot::Sender<()>> = BTreeMap::new();
    let mut output = BytesMut::new();
    loop {
        while output.len() < FLUSH {
            match Frame::read(&mut input) {
                Ok(Some(Frame::Request { id, service, payload })) => {
                    let (cancel, cancelled) = oneshot::channel();
                    let mut work = Work::new(id, &handlers, service, from, payload, cancelled);
                    match poll_once(&mut work).await {
                        Poll::Ready((id, answer)) => reply(&mut output, id, answer),
                        Poll::Pending => {
                            cancels.insert(id, cancel);
                            waiting.push(work);
                        }
                    }
                }
                Ok(Some(Frame::Cancel { id })) => {
                    cancels.remove(&id);
                }
                Ok(Some(Frame::Ping)) => Frame::Pong.write(&mut output),
                Ok(None) => break,
                Ok(Some(_)) => return,
                Err(error) => {
                    tracing::warn!(peer = from.0, %error, "closing a connection");
                    return;
                }
            }
        }
        if !output.is_empty() {
            // A big answer may take as long as it does, if only it goes on.
            for part in output.chunks(PART) {
                if !matches!(timeout(settings.silence_max, write.write_all(part)).await, Ok(Ok(()))) {
                    return;
                }
            }
            let is_full = output.len() >= FLUSH;
            output.clear();
            if output.capacity() > KEEP {
                output = BytesMut::new();
            }
            if is_full {
                // There may be more requests that have come already.
                continue;
            }
        }
        make_room(&mut input);
        tokio::select! {
            biased;
            Some((id, answer)) = waiting.next(), if !waiting.is_empty() => {
                cancels.remove(&id);
                reply(&mut output, id, answer);
                // Answers that became ready together leave in one write.
                while output.len() < FLUSH
                    && let Poll::Ready(Some((id, answer))) = futures::poll!(waiting.next())
                {
                    cancels.remove(&id);
                    reply(&mut output, id, answer);
                }
            }
            got = timeout(settings.idle_max(), read.read_buf(&mut input)), if waiting.len() < WAITING_MAX => {
                if !matches!(got, Ok(Ok(1..))) {
                    return;
                }
            }
        }
    }
}

/// `None`: cancelled, nobody waits for an answer.
fn reply(output: &mut BytesMut, id: u64, answer: Option<Result<Bytes, Error>>) {
    match answer {
        Some(Ok(payload)) if Frame::holds(&payload) => Frame::Answer { id, payload }.write(output),
        Some(_) => Frame::Failed { id }.write(output),
        None => {}
    }
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    futures::poll!(future)
}

/// One request being handled; ends early when its caller has gone.
struct Work {
    id: u64,
    handling: Pin<Box<dyn Future<Output = Result<Bytes, Error>> + Send>>,
    cancelled: oneshot::Receiver<()>,
}

impl Work {
    fn new(
        id: u64,
        handlers: &Handlers,
        service: Service,
        from: NodeId,
        payload: Bytes,
        cancelled: oneshot::Receiver<()>,
    ) -> Self {
        let handler = handlers.get(&service).cloned();
        let handling = Box::pin(async move {
            match handler {
                Some(handler) => handler.handle(from, payload).await,
                None => Err(Error::Malformed),
            }
        });
        Self { id, handling, cancelled }
    }
}

impl Future for Work {
    type Output = (u64, Option<Result<Bytes, Error>>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.handling.as_mut().poll(context) {
            return Poll::Ready((self.id, Some(answer)));
        }
        match Pin::new(&mut self.cancelled).poll(context) {
            Poll::Ready(_) => Poll::Ready((self.id, None)),
            Poll::Pending => Poll::Pending,
        }
    }
}
