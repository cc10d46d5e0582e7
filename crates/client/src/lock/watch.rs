//! Watching a lock: what happens to it, one event after another, over any number of connections.
//!
//! A stream that ends or falls silent is opened again at another node, after the last event that was
//! seen. It remembers nothing else; what the cluster no longer remembers comes as a reset.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::form;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::nodes::{Toward, Url};
use crate::wire;

/// A node says something at least every 15 seconds; one that is silent for longer is left.
const SILENT_AT_MOST: Duration = Duration::from_secs(40);
/// More than any event has.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Something that a watcher of a lock is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The beginning: who holds and who waits.
    State(wire::Lock),
    /// Events were missed that the cluster no longer remembers; from here on it is so.
    Reset(wire::Lock),
    /// Something happened.
    Event(wire::LockEvent),
}

/// One watcher of one lock. It never ends by itself.
pub struct LockWatch {
    client: Client,
    name: String,
    last: Option<u64>,
    stream: Option<Stream>,
    backoff: Backoff,
}

struct Stream {
    url: Url,
    body: Incoming,
    lines: Lines,
}

impl Client {
    /// Watches the lock `name` from now on: it begins with [`Watched::State`].
    pub fn watch_lock(&self, name: impl Into<String>) -> LockWatch {
        let (client, backoff) = (self.clone(), Backoff::default());
        LockWatch { client, name: name.into(), last: None, stream: None, backoff }
    }
}

impl LockWatch {
    /// Goes on after this event instead, which another watch of the lock has shown.
    #[must_use]
    pub fn after(self, id: u64) -> Self {
        Self { last: Some(id), ..self }
    }

    /// The last event that was seen, by which another watch can go on.
    pub fn last_event_id(&self) -> Option<u64> {
        self.last
    }

    /// What comes next; waits for as long as it takes, and asks one node after another while none
    /// answers. Dropping the future misses nothing. Errors: the cluster refuses to show the lock.
    pub async fn next(&mut self) -> Result<Watched, Error> {
        loop {
            if self.stream.is_none() {
                self.stream = self.open().await?;
            }
            let Some(stream) = &mut self.stream else {
                tokio::time::sleep(self.backoff.pause()).await;
                continue;
            };
            if let Some(said) = stream.lines.event() {
                self.last = said.id.or(self.last);
                self.backoff = Backoff::default();
                match said.watched()? {
                    Some(watched) => return Ok(watched),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(SILENT_AT_MOST, stream.body.frame()).await;
            match frame.ok().flatten().and_then(Result::ok).map(|frame| frame.into_data()) {
                Some(Ok(bytes)) if stream.lines.has_room() => stream.lines.feed(&bytes),
                Some(Err(_)) => {}
                _ => {
                    self.client.nodes().failed(&stream.url, clock::now());
                    self.stream = None;
                    tokio::time::sleep(self.backoff.pause()).await;
                }
            }
        }
    }

    /// A stream of some node; none if the one that was asked did not give any.
    async fn open(&mut self) -> Result<Option<Stream>, Error> {
        let next = self.client.nodes().next(Toward::Any, &[], clock::now());
        let Some(url) = next else { return Ok(None) };
        let target = format!("/lock/watch?{}", form(&[("name", &self.name)]));
        let patience = self.client.patience().attempt;
        let opened = self.client.transport().open(&url, &target, self.last, patience).await;
        match opened {
            Ok((200, body)) => Ok(Some(Stream { url, body, lines: Lines::default() })),
            Ok((status, body)) if status < 500 => Err(refused(status, body, patience).await),
            Ok(_) | Err(_) => {
                self.client.nodes().failed(&url, clock::now());
                Ok(None)
            }
        }
    }
}

async fn refused(status: u16, body: Incoming, patience: Duration) -> Error {
    let body = tokio::time::timeout(patience, body.collect()).await;
    let bytes = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    match serde_json::from_slice::<wire::Failure>(&bytes) {
        Ok(failure) => Error::refused(status, failure.error),
        Err(_) => Error::Unexpected(format!("HTTP {status}")),
    }
}

/// The lines of a stream of server-sent events, as far as they have come.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

/// One event of such a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    event: String,
    id: Option<u64>,
    data: String,
}

impl Lines {
    fn has_room(&self) -> bool {
        self.bytes.len() <= LINE_BYTES_MAX
    }

    fn feed(&mut self, bytes: &Bytes) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event that is whole.
    fn event(&mut self) -> Option<Said> {
        let end = self.bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let rest = self.bytes.split_off(end + 2);
        let whole = std::mem::replace(&mut self.bytes, rest);
        let mut said = Said::default();
        for line in String::from_utf8_lossy(&whole).lines() {
            match line.split_once(':').map(|(field, value)| (field, value.strip_prefix(' ').unwrap_or(value)))
            {
                Some(("event", value)) => value.clone_into(&mut said.event),
                Some(("id", value)) => said.id = value.parse().ok(),
                Some(("data", value)) => said.data.push_str(value),
                _ => {}
            }
        }
        Some(said)
    }
}

impl Said {
    /// For the reader; nothing if it only moves the last event along.
    fn watched(self) -> Result<Option<Watched>, Error> {
        fn read<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Error> {
            serde_json::from_str(data).map_err(|error| Error::Unexpected(error.to_string()))
        }
        if self.data.is_empty() {
            return Ok(None);
        }
        Ok(Some(match self.event.as_str() {
            "state" => Watched::State(read(&self.data)?),
            "reset" => Watched::Reset(read(&self.data)?),
            _ => Watched::Event(read(&self.data)?),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_whatever_pieces_they_come() {
        let text =
            "event: granted\nid: 7\ndata: {\"a\":1}\n\n: hello\n\nid:9\n\nevent: left\nid: 10\ndata: x\n\n";
        for size in [1, 3, 1000] {
            let (mut lines, mut said) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.feed(&Bytes::copy_from_slice(piece));
                said.extend(std::iter::from_fn(|| lines.event()));
            }
            let ids: Vec<_> = said.iter().map(|said| said.id).collect();
            assert_eq!(ids, [Some(7), None, Some(9), Some(10)], "in pieces of {size}");
            assert_eq!((said[0].event.as_str(), said[0].data.as_str()), ("granted", "{\"a\":1}"));
            assert_eq!(lines.event(), None);
        }
    }
}
