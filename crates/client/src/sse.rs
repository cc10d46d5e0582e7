//! Server-sent events over any number of connections: each goes on behind the last event that was seen.
//!
//! It remembers nothing but that event's id, and knows nothing of what events mean.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::nodes::{Toward, Url};
use crate::wire;

/// More than any event has.
const LINE_BYTES_MAX: usize = 16 << 20;

/// One stream of events, whichever node tells it.
pub(crate) struct Follower {
    client: Client,
    target: String,
    /// A node that says nothing for so long is left.
    silent_at_most: Duration,
    last: Option<String>,
    stream: Option<Stream>,
    backoff: Backoff,
    /// A connection broke, and the next one is not made at once.
    is_sore: bool,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// An event.
    Said(Said),
    /// The connection broke, or was silent for too long; there will be another one.
    Broke,
}

/// One event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

struct Stream {
    url: Url,
    body: Incoming,
    lines: Lines,
}

impl Follower {
    pub(crate) fn new(client: Client, target: String, silent_at_most: Duration) -> Self {
        let backoff = Backoff::default();
        Self { client, target, silent_at_most, last: None, stream: None, backoff, is_sore: false }
    }

    /// Goes on behind this event.
    pub(crate) fn after(&mut self, id: String) {
        self.last = Some(id);
    }

    /// The last event that was seen.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// What comes next; asks one node after another while none answers. Events without data are not
    /// shown. Dropping the future misses nothing. Errors: the cluster refuses to tell.
    pub(crate) async fn next(&mut self) -> Result<Next, Error> {
        loop {
            if std::mem::take(&mut self.is_sore) {
                tokio::time::sleep(self.backoff.pause()).await;
            }
            if self.stream.is_none() {
                self.stream = self.open().await?;
            }
            let Some(stream) = &mut self.stream else {
                self.is_sore = true;
                continue;
            };
            if let Some(said) = stream.lines.event() {
                self.last = said.id.clone().or(self.last.take());
                self.backoff = Backoff::default();
                if said.data.is_empty() {
                    continue;
                }
                return Ok(Next::Said(said));
            }
            let frame = tokio::time::timeout(self.silent_at_most, stream.body.frame()).await;
            match frame.ok().flatten().and_then(Result::ok).map(|frame| frame.into_data()) {
                Some(Ok(bytes)) if stream.lines.has_room() => stream.lines.feed(&bytes),
                Some(Err(_)) => {}
                _ => {
                    self.client.nodes().failed(&stream.url, clock::now());
                    self.stream = None;
                    self.is_sore = true;
                    return Ok(Next::Broke);
                }
            }
        }
    }

    /// A stream of some node; none if the one that was asked did not give any.
    async fn open(&mut self) -> Result<Option<Stream>, Error> {
        let next = self.client.nodes().next(Toward::Any, &[], clock::now());
        let Some(url) = next else { return Ok(None) };
        let patience = self.client.patience().attempt;
        let opened = self.client.transport().open(&url, &self.target, self.last(), patience).await;
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

impl Said {
    /// Its data.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(&self.data).map_err(|error| Error::Unexpected(error.to_string()))
    }
}

/// The lines of a stream, as far as they have come.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
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
                Some(("id", value)) => said.id = Some(value.to_owned()),
                Some(("data", value)) => said.data.push_str(value),
                _ => {}
            }
        }
        Some(said)
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
            let ids: Vec<_> = said.iter().map(|said| said.id.as_deref()).collect();
            assert_eq!(ids, [Some("7"), None, Some("9"), Some("10")], "in pieces of {size}");
            assert_eq!((said[0].event.as_str(), said[0].data.as_str()), ("granted", "{\"a\":1}"));
            assert_eq!(lines.event(), None);
        }
    }
}
