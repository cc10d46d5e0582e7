//! Appending: sends one entry behind the one that its author believes to be the last, until its fate is
//! known.
//!
//! Content and nonce of an id never change once they were sent. What follows from a fate is told in
//! `lead.rs`.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::Fault;
use super::driver::Driver;
use super::entry::{Author, Content, Entry, Position, parse_id};
use super::link::Failed;

/// Between two tries of one append.
const AGAIN: Duration = Duration::from_millis(50);

/// What became of an append.
pub(super) enum Fate {
    Done,
    /// Not in, and never will be: the stream ends elsewhere.
    Elsewhere(String),
    /// Certainly not in.
    Refused(String),
    /// Certainly not in: it brings bodies, and Redis' memory is kept for what must always fit.
    Full,
    /// It may be in, or may yet come in.
    Unknown(String),
}

impl Driver {
    /// Sends one entry until its fate is known, or for an election time-out. It is not taken if more
    /// than `percent` of Redis' memory is in use, unless that is 0.
    pub(super) async fn append(
        &mut self,
        at: Position,
        author: &Author,
        content: Content,
        percent: u64,
    ) -> Fate {
        let mut script = self.script(at, author, &content, percent);
        let begun = Instant::now();
        let mut maybe = false;
        loop {
            let why = match self.link.ask(&script).await {
                Ok(value) => match said(value) {
                    Some((Said::In, _)) => return Fate::Done,
                    Some((Said::Full, _)) => return Fate::Full,
                    // After a try whose fate nobody knew, others may stand behind it already.
                    Some((Said::Elsewhere, last)) if maybe => return self.look_back(at, author, last).await,
                    Some((Said::Elsewhere, last)) => return Fate::Elsewhere(last),
                    None => "Redis answers, but not as its scripts do".to_owned(),
                },
                Err(Failed::Not(why)) if !maybe => return Fate::Refused(why),
                Err(Failed::Maybe(why)) => {
                    maybe = true;
                    // It may be in: refusing it for want of memory would be no certain answer any more.
                    script = self.script(at, author, &content, 0);
                    why
                }
                Err(Failed::Not(why)) => why,
            };
            self.tell(|status| status.away = Some(why.as_str().into()));
            if begun.elapsed() >= self.settings.election_min {
                return Fate::Unknown(why);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn script(&self, at: Position, author: &Author, content: &Content, percent: u64) -> redis::Cmd {
        let (kind, payload) = content.fields();
        let mut script = redis::cmd("EVAL");
        script.arg(include_str!("append.lua")).arg(2).arg(self.keys.log()).arg(self.keys.born());
        script.arg(self.tail.id()).arg(at.id()).arg(at.index.0).arg(author.text());
        script.arg(kind).arg(&payload[..]).arg(percent);
        script
    }

    /// Whether an entry that was sent more than once is in the stream, which has moved on since.
    async fn look_back(&mut self, at: Position, author: &Author, last: String) -> Fate {
        let look = self.link.ask(redis::cmd("XRANGE").arg(self.keys.log()).arg(at.id()).arg(at.id())).await;
        match look {
            Ok(Value::Array(mut found)) => match found.pop().map(Entry::read) {
                // It is in, and the reign is over: followers will read it.
                Some(Ok(entry)) if entry.author == *author => Fate::Unknown("another node leads".into()),
                Some(_) => Fate::Elsewhere(last),
                // Never there, or trimmed away.
                None => Fate::Unknown("another node leads".into()),
            },
            _ => Fate::Unknown("another node leads".into()),
        }
    }

    /// The stream does not end where this node believed. Whether that is how it should be.
    pub(super) fn moved_on(&self, last: &str) -> Result<(), Fault> {
        match parse_id(last.as_bytes()) {
            Some(last) if last > (self.tail.epoch, self.tail.seq) => Ok(()),
            Some(_) if self.tail.index.0 > 0 => Err(self.lost_tail(last)),
            Some(_) => Ok(()),
            None => Err(self.gone()),
        }
    }
}

/// What the script of an append answers.
enum Said {
    Elsewhere,
    In,
    Full,
}

fn said(value: Value) -> Option<(Said, String)> {
    let Value::Array(pair) = value else { return None };
    let [Value::Int(said), Value::BulkString(last)] = pair.as_slice() else { return None };
    let said = match said {
        0 => Said::Elsewhere,
        1 => Said::In,
        2 => Said::Full,
        _ => return None,
    };
    Some((said, String::from_utf8_lossy(last).into_owned()))
}
