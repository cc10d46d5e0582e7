//! Asks until there is an answer: node after node, then after a pause all of them again, always with
//! the same bytes and so under the same `request_id`, until the time is over.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::nodes::{Toward, Url};
use crate::transport::{Answer, Broken};
use crate::wire::{Code, Failure, Fault};

/// One request, whoever answers it.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) body: Bytes,
    pub(crate) toward: Toward,
    pub(crate) patience: Patience,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From one node; then another is asked.
    pub(crate) attempt: Duration,
    /// In all.
    pub(crate) total: Duration,
}

impl Patience {
    /// On top of what the request itself waits for.
    pub(crate) fn beyond(self, wait: Duration) -> Self {
        Self { attempt: self.attempt + wait, total: self.total + wait }
    }
}

/// An answer that stands, and when it was asked for by this process's clock.
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    /// Before the first try was sent.
    pub(crate) first_sent: Duration,
    /// Before the try was sent that was answered.
    pub(crate) last_sent: Duration,
}

/// What is known of a request after the tries so far.
#[derive(Default)]
struct Course {
    tried: Vec<Url>,
    maybe_done: bool,
    trouble: Option<Trouble>,
    backoff: Backoff,
}

enum Trouble {
    Refused(u16, Box<Fault>),
    Broken(String),
}

impl Client {
    /// Asks until an answer stands. Refusals that stand are answers, too.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answered, Error> {
        let first_sent = clock::now();
        let end = first_sent + call.patience.total;
        let mut course = Course::default();
        loop {
            let now = clock::now();
            let left = end.saturating_sub(now);
            let next = self.nodes().next(call.toward, &course.tried, now);
            let Some(url) = next.filter(|_| !left.is_zero()) else {
                let pause = course.backoff.pause();
                if left <= pause {
                    return Err(course.end());
                }
                course.tried.clear();
                tokio::time::sleep(pause).await;
                continue;
            };
            course.tried.push(url.clone());
            let patience = left.min(call.patience.attempt);
            let body = call.body.clone();
            let exchange = self.transport().exchange(&url, &call.method, &call.target, body, patience);
            match exchange.await {
                Ok(answer) => match self.judge(&url, &answer) {
                    None => return Ok(Answered { answer, first_sent, last_sent: now }),
                    Some(fault) => course.refused(answer.status, fault),
                },
                Err(broken) => {
                    self.nodes().failed(&url, clock::now());
                    course.broken(broken);
                }
            }
        }
    }

    /// The fault for which to ask again; nothing if the answer stands.
    fn judge(&self, url: &Url, answer: &Answer) -> Option<Fault> {
        self.nodes().answered(url, answer.leader.clone());
        if !matches!(answer.status, 502..=504) {
            return None;
        }
        let fault = serde_json::from_slice::<Failure>(&answer.body).map(|failure| failure.error);
        let fault = fault.unwrap_or_else(|_| Fault {
            code: String::new(),
            message: format!("HTTP {} from {url}", answer.status),
            details: serde_json::Map::new(),
        });
        if matches!(Code::parse(&fault.code), Some(Code::Draining | Code::Forming)) {
            self.nodes().failed(url, clock::now());
        }
        Some(fault)
    }
}

impl Course {
    fn refused(&mut self, status: u16, fault: Fault) {
        // Whatever stands between us and a node may have passed the request on before it gave up.
        self.maybe_done |= status != 503 || fault.code.is_empty();
        self.trouble = Some(Trouble::Refused(status, Box::new(fault)));
    }

    fn broken(&mut self, broken: Broken) {
        self.maybe_done |= broken.maybe_done;
        self.trouble = Some(Trouble::Broken(broken.why));
    }

    fn end(self) -> Error {
        match (self.maybe_done, self.trouble) {
            (true, Some(Trouble::Refused(_, fault))) => Error::OutcomeUnknown { why: fault.message },
            (true, Some(Trouble::Broken(why))) => Error::OutcomeUnknown { why },
            (false, Some(Trouble::Refused(status, fault))) => Error::Refused { status, fault },
            (false, Some(Trouble::Broken(why))) => Error::Unreachable { why },
            (_, None) => Error::Unreachable { why: "there was no time to ask".into() },
        }
    }
}
