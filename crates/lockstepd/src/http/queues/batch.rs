//! The messages of a push, in whichever of its two forms, each of them good or bad by itself.
//!
//! It checks shapes only: what a value may be is for whoever makes a message of it.

use lockstep_client::wire;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::body::{parse, parse_as};
use super::super::error::Fault;

/// A push as it was sent.
pub(super) struct Batch {
    pub(super) queue: String,
    pub(super) guard: Option<wire::Guard>,
    pub(super) request_id: Option<String>,
    /// One message, and not a batch of one.
    pub(super) single: bool,
    pub(super) messages: Vec<Result<wire::NewMessage, Fault>>,
}

/// A batch of whose messages some cannot be read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mixed {
    queue: Option<String>,
    messages: Vec<Box<RawValue>>,
    guard: Option<wire::Guard>,
    request_id: Option<String>,
}

impl Batch {
    /// Errors: the body is no push at all. A message of a batch that is none is an error of its own.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        match parse::<wire::Push>(bytes) {
            Ok(push) => Self::whole(push),
            Err(fault) => parse::<Mixed>(bytes).map(Self::mixed).map_err(|_| fault),
        }
    }

    fn whole(push: wire::Push) -> Result<Self, Fault> {
        let wire::Push {
            payload,
            key,
            queue,
            delay_ms,
            ttl_ms,
            priority,
            dedup_id,
            messages,
            guard,
            request_id,
        } = push;
        let bare = key.is_none()
            && delay_ms.is_none()
            && ttl_ms.is_none()
            && priority.is_none()
            && dedup_id.is_none();
        let single = messages.is_none();
        let messages = match (payload, messages) {
            (Some(payload), None) => vec![Ok(wire::NewMessage {
                payload,
                key,
                delay_ms: delay_ms.unwrap_or(0),
                ttl_ms,
                priority: priority.unwrap_or(0),
                dedup_id,
            })],
            (None, Some(batch)) if bare => batch.into_iter().map(Ok).collect(),
            (None, Some(_)) => {
                return Err(Fault::bad(
                    "key, delay_ms, ttl_ms, priority and dedup_id belong inside each of messages.",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Fault::bad("Send payload for one message, or messages; not both."));
            }
            (None, None) => return Err(Fault::bad("payload is missing: any JSON.")),
        };
        Ok(Self { queue: queue.unwrap_or_else(default_queue), guard, request_id, single, messages })
    }

    fn mixed(mixed: Mixed) -> Self {
        let Mixed { queue, messages, guard, request_id } = mixed;
        let messages =
            messages.iter().map(|message| parse_as(message.get().as_bytes(), "The message")).collect();
        Self { queue: queue.unwrap_or_else(default_queue), guard, request_id, single: false, messages }
    }
}

fn default_queue() -> String {
    "default".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_that_cannot_be_read_is_an_error_of_its_own() {
        let body =
            br#"{"queue":"q","messages":[{"payload":1},{"payload":2,"prio":3},{"key":"k"},7,{"payload":3}]}"#;
        let batch = Batch::read(body).unwrap_or_else(|_| panic!("a batch"));
        let good: Vec<bool> = batch.messages.iter().map(Result::is_ok).collect();
        assert_eq!((&*batch.queue, good), ("q", vec![true, false, false, false, true]));
    }

    #[test]
    fn a_body_that_is_wrong_around_its_messages_is_an_error_of_all() {
        for body in [
            r#"{"messages":[{"payload":1}],"queu":"q"}"#,
            r#"{"messages":[{"payload":1}],"key":"k"}"#,
            r#"{"messages":{"payload":1}}"#,
            r#"{"messages":[{"payload":1},]}"#,
            r#"{"payload":1,"priority":"high"}"#,
        ] {
            assert!(Batch::read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
