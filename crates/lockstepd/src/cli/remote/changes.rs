//! `lockstep cache watch`: prints what changes in the cache, until a signal or until the reader has had
//! enough. It goes on at another node where one went away, and says so.

use lockstep_client::cache::{CacheWatch, Changed};
use serde_json::json;

use super::unanswered;
use super::watch::print;
use crate::cli::Failure;
use crate::cli::signals::Signals;

/// Prints what `watch` is told.
pub(super) async fn run(mut watch: CacheWatch, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    loop {
        let changed = tokio::select! {
            changed = watch.next() => changed.map_err(unanswered)?,
            _ = signals.next() => return Ok(()),
        };
        if !print(&line(&changed, watch.last_event_id().unwrap_or_default(), json)) {
            return Ok(());
        }
    }
}

fn line(changed: &Changed, id: &str, json: bool) -> String {
    if json {
        return match changed {
            Changed::Key(event) => {
                let mut line = serde_json::to_value(event).unwrap_or_default();
                line["id"] = id.into();
                line
            }
            Changed::Flush => json!({"event": "flush", "id": id}),
            Changed::Reset { reason } => json!({"event": "reset", "id": id, "reason": reason}),
            Changed::Away => json!({"event": "away", "id": id}),
        }
        .to_string();
    }
    match changed {
        Changed::Key(event) => {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            format!("{id} {} {} {}", text(&event.reason), text(&event.key), text(&event.version))
        }
        Changed::Flush => format!("{id} FLUSH: the namespace was emptied"),
        Changed::Reset { reason } => format!("{id} RESET ({reason}): drop everything that is kept"),
        Changed::Away => format!("{id} AWAY: nothing is heard any more, trying another node"),
    }
}
