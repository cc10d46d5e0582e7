//! `lockstep queue follow`: prints messages as they come, and acknowledges what was printed.
//!
//! A message is acknowledged after it has been written out, never before: a broken pipe loses none.

use std::io::Write;
use std::time::Duration;

use lockstep_client::queue::{Delivery, Queue};

use super::{plain, unanswered};
use crate::cli::Failure;
use crate::cli::signals::Signals;

const BATCH: u32 = 100;
const WAIT: Duration = Duration::from_secs(20);

/// Until a signal, or until whoever reads has had enough.
pub(super) async fn run(queue: &Queue, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    loop {
        let received = tokio::select! {
            received = queue.receive().max(BATCH).wait(WAIT).fetch() => received.map_err(unanswered)?,
            _ = signals.next() => return Ok(()),
        };
        let printed = received.iter().take_while(|delivery| print(delivery, json).is_ok()).count();
        let (printed, rest) = received.split_at(printed);
        if !printed.is_empty() {
            for outcome in queue.ack(printed).await.map_err(unanswered)? {
                outcome.map_err(unanswered)?;
            }
        }
        for delivery in rest {
            delivery.put_back().await.map_err(unanswered)?;
        }
        if !rest.is_empty() {
            return Ok(());
        }
    }
}

fn print(delivery: &Delivery, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let message = delivery.message();
    if json {
        serde_json::to_writer(&mut out, message)?;
        writeln!(out)?;
    } else {
        let payload: serde_json::Value = serde_json::from_str(message.payload.get())?;
        writeln!(out, "{}", plain(&payload))?;
    }
    out.flush()
}
