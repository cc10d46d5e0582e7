//! The calling side of one lane to one peer: a connection that is kept, and the calls on it.
//!
//! Calls leave in the order in which they were made, in as few writes as possible, and their
//! answers may come in any order. A call never waits for a connection to come up: it fails at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::frame::{Frame, GREETING_BYTES_MAX, Hello};
use super::net::{Net, Stream};
use super::{Error, Service, Settings};

type Answer = Result<Bytes, Error>;

/// How a link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Up {
    Connecting,
    Yes,
    No,
    Refused(String),
}

/// One lane to one peer.
pub(super) struct Link {
    outbox: Mutex<Outbox>,
    more: Notify,
    calls: Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>,
    next_id: AtomicU64,
    /// Bytes that the connection has taken so far.
    written: AtomicU64,
    up: watch::Sender<Up>,
    bytes_max: usize,
}

#[derive(Default)]
struct Outbox {
    bytes: BytesMut,
    open: bool,
    /// Bytes that were ever put here for the connection.
    queued: u64,
}

impl Outbox {
    /// Answers where the frame ends in all that goes over the connection.
    fn put(&mut self, frame: &Frame) -> u64 {
        let before = self.bytes.len();
        frame.write(&mut self.bytes);
        self.queued += (self.bytes.len() - before) as u64;
        self.queued
    }
}

impl Link {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            outbox: Mutex::default(),
            more: Notify::new(),
            calls: Mutex::default(),
            next_id: AtomicU64::new(1),
            written: AtomicU64::new(0),
            up: watch::Sender::new(Up::Connecting),
            bytes_max,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow() == Up::Yes
    }

    /// Why the peer refuses this node, if it does.
    pub(super) fn refusal(&self) -> Option<String> {
        match &*self.up.borrow() {
            Up::Refused(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Sends one request and waits for its answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Answer {
        let until = Instant::now() + deadline;
        if *self.up.borrow() == Up::Connecting {
            // Only before the very first connection: a node that has just started is given a moment.
            let mut up = self.up.subscribe();
            let _ = timeout(deadline, up.wait_for(|up| *up != Up::Connecting)).await;
        }
        let (mut pending, answer) = self.send(service, payload)?;
        let outcome = tokio::time::timeout_at(until, answer).await;
        match outcome {
            Ok(answer) => {
                pending.answered = true;
                answer.unwrap_or(Err(Error::NoAnswer))
            }
            Err(_) => Err(Error::NoAnswer),
        }
    }

    fn send(
        self: &Arc<Self>,
        service: Service,
        payload: Bytes,
    ) -> Result<(Pending, oneshot::Receiver<Answer>), Error> {
        if !Frame::holds(&payload) {
            // The peer would close the connection, and with it everybody else's calls.
            tracing::error!(bytes = payload.len(), "a request is too large for a peer");
            return Err(Error::Malformed);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut outbox = lock(&self.outbox);
            if !outbox.open || outbox.bytes.len() > self.bytes_max {
                return Err(match &*self.up.borrow() {
                    Up::Refused(why) => Error::Refused(why.clone()),
                    _ => Error::Unreachable,
                });
            }
            lock(&self.calls).insert(id, sender);
            outbox.put(&Frame::Request { id, service, payload });
        }
        self.more.notify_one();
        Ok((Pending { link: Arc::clone(self), id, answered: false }, answer))
    }

    /// Answers where the frame ends in all that goes over the connection.
    fn push(&self, frame: &Frame) -> u64 {
        let mut outbox = lock(&self.outbox);
        if !outbox.open {
            return 0;
        }
        let end = outbox.put(frame);
        drop(outbox);
        self.more.notify_one();
        end
    }

    /// Keeps a connection for as long as the node runs.
    pub(super) async fn run(
        self: Arc<Self>,
        net: Arc<dyn Net>,
        address: String,
        hello: impl Fn() -> Hello,
        mut cluster: watch::Receiver<Option<String>>,
        settings: Settings,
    ) {
        let mut pause = settings.reconnect_min;
        let mut told = None;
        loop {
            cluster.mark_unchanged();
            match self.connect(&*net, &address, hello(), &settings).await {
                Ok(stream) => {
                    pause = settings.reconnect_min;
                    told = None;
                    self.carry(stream, &mut cluster, &settings).await;
                }
                Err(Error::Refused(why)) => {
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(peer = address, why, "peer refuses this node");
                    }
                    told = Some(why.clone());
                    self.up.send_replace(Up::Refused(why));
                }
                Err(_) => {
                    self.up.send_replace(Up::No);
                }
            }
            tokio::time::sleep(settings.jitter(pause)).await;
            pause = (pause * 2).min(settings.reconnect_max);
        }
    }

    async fn connect(
        &self,
        net: &dyn Net,
        address: &str,
        hello: Hello,
        settings: &Settings,
    ) -> Result<Connection, Error> {
        let greet = async {
            let stream = net.connect(address).await.map_err(|_| Error::Unreachable)?;
            let mut connection = Connection::new(stream);
            connection.write(&Frame::Hello(hello)).await?;
            match connection.next().await? {
                Frame::Welcome => Ok(connection),
                Frame::Refused(why) => Err(Error::Refused(why)),
                _ => Err(Error::Malformed),
            }
        };
        timeout(settings.silence_max, greet).await.unwrap_or(Err(Error::Unreachable))
    }

    async fn carry(
        &self,
        connection: Connection,
        cluster: &mut watch::Receiver<Option<String>>,
        settings: &Settings,
    ) {
        {
            let mut outbox = lock(&self.outbox);
            (outbox.open, outbox.queued) = (true, 0);
            self.written.store(0, Ordering::Relaxed);
        }
        self.up.send_replace(Up::Yes);
        let Connection { read, write, input } = connection;
        tokio::select! {
            () = self.write(write) => {}
            () = self.read(read, input, settings) => {}
            // This node greeted as one without a cluster; it has one now.
            _ = cluster.changed() => {}
        }
        let mut outbox = lock(&self.outbox);
        outbox.open = false;
        outbox.bytes.clear();
        drop(outbox);
        self.up.send_replace(Up::No);
        let lost = std::mem::take(&mut *lock(&self.calls));
        for call in lost.into_values() {
            let _ = call.send(Err(Error::NoAnswer));
        }
    }

    async fn write(&self, mut write: WriteHalf<Box<dyn Stream>>) {
        let mut bytes = BytesMut::new();
        loop {
            std::mem::swap(&mut bytes, &mut lock(&self.outbox).bytes);
            if bytes.is_empty() {
                self.more.notified().await;
                // Whatever else is about to call in this turn shares the write.
                tokio::task::yield_now().await;
                continue;
            }
            for part in bytes.chunks(PART) {
                if write.write_all(part).await.is_err() {
                    return;
                }
                self.written.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            bytes.clear();
            if bytes.capacity() > KEEP {
                bytes = BytesMut::new();
            }
        }
    }

    async fn read(&self, mut read: ReadHalf<Box<dyn Stream>>, mut input: BytesMut, settings: &Settings) {
        // Where the ping stands among all that is sent, and how far sending was at the last look.
        let mut pinged = None;
        let mut written = 0;
        loop {
            match Frame::read(&mut input) {
                Ok(Some(frame)) => {
                    pinged = None;
                    if !self.take(frame) {
                        return;
                    }
                }
                Ok(None) => {
                    let silence = if pinged.is_some() { settings.silence_max } else { settings.ping_every };
                    make_room(&mut input);
                    match timeout(silence, read.read_buf(&mut input)).await {
                        Ok(Ok(1..)) => {}
                        Err(_) => {
                            let now = self.written.load(Ordering::Relaxed);
                            // A ping behind a big transfer can't be answered before it has left: as long
                            // as that goes on the peer lives.
                            let on_its_way = |end| end > written + PART as u64 && now > written;
                            match pinged {
                                None => pinged = Some(self.push(&Frame::Ping)),
                                Some(end) if on_its_way(end) => {}
                                Some(_) => return,
                            }
                            written = now;
                        }
                        _ => return,
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "closing a connection");
                    return;
                }
            }
        }
    }

    fn take(&self, frame: Frame) -> bool {
        let (id, answer) = match frame {
            Frame::Answer { id, payload } => (id, Ok(payload)),
            Frame::Failed { id } => (id, Err(Error::Malformed)),
            Frame::Pong => return true,
            _ => return false,
        };
        if let Some(call) = lock(&self.calls).remove(&id) {
            let _ = call.send(answer);
        }
        true
    }
}

/// Bytes that are written at once: what one deadline is for.
pub(super) const PART: usize = 64 * 1024;
/// Room for what one read may bring: many small frames.
const READ: usize = 16 * 1024;
/// Buffers above this are given back after a burst.
pub(super) const KEEP: usize = 256 * 1024;

/// A call in flight; dropping it unanswered tells the peer to stop.
struct Pending {
    link: Arc<Link>,
    id: u64,
    answered: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered && lock(&self.link.calls).remove(&self.id).is_some() {
            self.link.push(&Frame::Cancel { id: self.id });
        }
    }
}

/// A connection that is still being greeted.
pub(super) struct Connection {
    pub(super) read: ReadHalf<Box<dyn Stream>>,
    pub(super) write: WriteHalf<Box<dyn Stream>>,
    pub(super) input: BytesMut,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { read, write, input: BytesMut::new() }
    }

    pub(super) async fn write(&mut self, frame: &Frame) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        frame.write(&mut bytes);
        self.write.write_all(&bytes).await.map_err(|_| Error::Unreachable)
    }

    /// The next frame of the greeting.
    pub(super) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let frame = Frame::read_up_to(GREETING_BYTES_MAX, &mut self.input);
            if let Some(frame) = frame.map_err(|_| Error::Malformed)? {
                return Ok(frame);
            }
            match self.read.read_buf(&mut self.input).await {
                Ok(1..) => {}
                _ => return Err(Error::Unreachable),
            }
        }
    }
}

/// Frames are cut off the front of `input` and take its room with them; without new room a read would
/// bring a few bytes.
pub(super) fn make_room(input: &mut BytesMut) {
    if input.capacity() - input.len() < READ / 4 {
        input.reserve(READ);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
