//! `lockstep lock watch`: prints what happens to a lock, until a signal or until the reader has had
//! enough. It goes on at another node where one went away, and says so where it has missed something.

use std::io::Write;

use lockstep_client::Client;
use lockstep_client::lock::Watched;
use lockstep_client::wire::{Lock, LockEvent, Mode};
use serde_json::json;

use super::unanswered;
use crate::cli::Failure;
use crate::cli::signals::Signals;

/// Watches the lock `name`, after the event `after` if one is given.
pub(super) async fn run(client: &Client, name: &str, after: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut watch = client.watch_lock(name);
    if let Some(after) = after {
        watch = watch.after(after);
    }
    loop {
        let watched = tokio::select! {
            watched = watch.next() => watched.map_err(unanswered)?,
            _ = signals.next() => return Ok(()),
        };
        if !print(&line(&watched, watch.last_event_id().unwrap_or_default(), json)) {
            return Ok(());
        }
    }
}

/// Prints a line; says whether anybody reads on.
pub(super) fn print(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn line(watched: &Watched, id: u64, json: bool) -> String {
    if json {
        return match watched {
            Watched::State(lock) => json!({"event": "state", "id": id, "lock": lock}),
            Watched::Reset(lock) => json!({"event": "reset", "id": id, "lock": lock}),
            Watched::Event(event) => {
                let mut line = serde_json::to_value(event).unwrap_or_default();
                line["id"] = id.into();
                line
            }
        }
        .to_string();
    }
    match watched {
        Watched::State(lock) => format!("{id} now: {}", state(lock)),
        Watched::Reset(lock) => format!(
            "{id} RESET: events were missed that the cluster no longer remembers; now: {}",
            state(lock)
        ),
        Watched::Event(event) => format!("{id} {}", happened(event)),
    }
}

fn state(lock: &Lock) -> String {
    let holders: Vec<_> =
        lock.holders.iter().map(|holder| format!("{} ({})", holder.owner, word(holder.mode))).collect();
    let held = if holders.is_empty() { "free".into() } else { format!("held by {}", holders.join(", ")) };
    match lock.waiters.len() {
        0 => held,
        waiting => format!("{held}, {waiting} waiting"),
    }
}

fn happened(event: &LockEvent) -> String {
    let token = event.token.map_or(String::new(), |token| format!(" token {token}"));
    format!("{} {} ({}){token}", event.event, event.owner, word(event.mode))
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
        Mode::Permit => "permit",
    }
}
