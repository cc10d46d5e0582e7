//! `lockstep queue …`

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, HumanDuration, HumanFloatCount};
use lockstep_client::Client;
use serde_json::{Value, json};

use super::{Ask, Request, follow, list, one_request, plain, push, table, value};
use crate::cli::Failure;

/// Operations on queues.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Push a message, and print its id; or one message a line, and print how many
    Push {
        /// JSON, or plain text; `-` reads the standard input
        #[arg(required_unless_present = "lines", conflicts_with = "lines")]
        payload: Option<String>,
        /// One message a line of this file; `-` reads the standard input
        #[arg(long, value_name = "FILE")]
        lines: Option<PathBuf>,
        /// Messages in one request
        #[arg(long, default_value_t = 100, value_name = "N", requires = "lines", value_parser = clap::value_parser!(u16).range(1..=1_000))]
        batch: u16,
        /// Leave out so many lines
        #[arg(long, default_value_t = 0, value_name = "N", requires = "lines")]
        skip: u64,
        /// Delivers it after earlier messages of this key
        #[arg(long)]
        key: Option<String>,
        #[arg(long)]
        queue: Option<String>,
        /// Not delivered before this time has passed
        #[arg(long)]
        delay_ms: Option<u64>,
        /// Dropped, unless in flight, once this time has passed
        #[arg(long, conflicts_with = "lines")]
        ttl_ms: Option<u64>,
        /// 0 to 9: larger ones first
        #[arg(long, conflicts_with = "lines")]
        priority: Option<u8>,
        /// Pushed once under this id, for five minutes
        #[arg(long, conflicts_with = "lines")]
        dedup_id: Option<String>,
        /// Makes asking again harmless
        #[arg(long, conflicts_with = "lines")]
        request_id: Option<String>,
    },
    /// Take one message for good, and print its payload; fails if there is none
    Pop {
        #[arg(long)]
        queue: Option<String>,
        /// How long to wait for one
        #[arg(long)]
        wait_ms: Option<u64>,
    },
    /// Take messages that come back unless they are acknowledged; fails if there is none
    Receive {
        #[arg(long)]
        queue: Option<String>,
        /// At most this many
        #[arg(long)]
        max: Option<u32>,
        /// How long they stay away from others [default: 30000]
        #[arg(long)]
        visibility_ms: Option<u64>,
        /// How long to wait for one
        #[arg(long)]
        wait_ms: Option<u64>,
        /// The session whose heartbeats keep them, and whose end returns them; see `lock session open`
        #[arg(long)]
        session: Option<String>,
        /// A receipt of an earlier message that is done: acknowledged with this; as often as needed
        #[arg(long, value_name = "RECEIPT")]
        ack: Vec<String>,
    },
    /// Print messages as they come, and acknowledge what was printed
    Follow {
        #[arg(long)]
        queue: Option<String>,
    },
    /// Done: remove received messages
    Ack {
        #[arg(required = true)]
        receipts: Vec<String>,
        /// Push this in the same atomic step, such as {"queue":"next","payload":1}; as often as needed
        #[arg(long, value_name = "JSON")]
        push: Vec<String>,
    },
    /// Keep received messages away from others for so long from now on
    Extend {
        #[arg(required = true)]
        receipts: Vec<String>,
        #[arg(long, default_value_t = 30_000)]
        visibility_ms: u64,
    },
    /// Not done: put a received message back in its place
    Nack {
        receipt: String,
        /// Not delivered again before this time has passed
        #[arg(long)]
        delay_ms: Option<u64>,
        /// Whether it counts as a failed attempt
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
        failed: bool,
    },
    /// How much there is in a queue
    Stats {
        #[arg(long)]
        queue: Option<String>,
    },
    /// The names of all queues
    List {
        /// The last name of the page before
        #[arg(long)]
        after: Option<String>,
        #[arg(long)]
        limit: Option<u32>,
    },
    /// Say how a queue behaves; what is left out stays as it is
    Configure {
        queue: String,
        /// Failures after which a message is dead-lettered; 0: never
        #[arg(long)]
        max_attempts: Option<u32>,
        /// The queue for messages that have failed so often
        #[arg(long)]
        dead_letter: Option<String>,
        #[arg(long)]
        visibility_ms: Option<u64>,
        #[arg(long)]
        max_messages: Option<u64>,
        #[arg(long)]
        max_bytes: Option<u64>,
        /// What happens behind a message that is dead-lettered
        #[arg(long, value_parser = ["skip", "park_key", "block"])]
        on_poison: Option<String>,
    },
    /// Look at what waits, without taking it
    Peek {
        #[arg(long)]
        queue: Option<String>,
        /// At most this many [default: 10]
        #[arg(long)]
        max: Option<u32>,
    },
    /// Drop everything that waits; what is in flight stays with its consumers
    Purge { queue: String },
    /// Bring dead letters back into the queue that they came from
    Redrive {
        queue: String,
        /// At most this many [default: all]
        #[arg(long)]
        max: Option<u64>,
    },
    /// Let parked keys, or a blocked queue, go on without their dead letters
    Resume {
        queue: String,
        /// This key only
        #[arg(long)]
        key: Option<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  lockstep queue push '{\"user\":123}' --key user:123
  lockstep queue push --queue mail --lines mails.jsonl
  lockstep queue follow --queue mail --json | jq .payload
  lockstep queue receive --max 10 --visibility-ms 60000
  lockstep queue ack RECEIPT
  while lockstep queue pop --queue mail; do :; done";

impl Ask for Command {
    async fn run(&self, client: &Client, json: bool) -> Result<(), Failure> {
        let queue = |name: &Option<String>| client.queue(name.as_deref().unwrap_or("default"));
        match self {
            Self::Push { lines: Some(file), batch, skip, key, queue: name, delay_ms, .. } => {
                let delay = Duration::from_millis(delay_ms.unwrap_or(0));
                let (batch, key) = (usize::from(*batch), key.as_deref());
                push::run(&queue(name), &push::Lines { file, skip: *skip, batch, key, delay }).await
            }
            Self::Follow { queue: name } => follow::run(&queue(name), json).await,
            command => one_request(command, client, json).await,
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Push { payload, key, queue, delay_ms, ttl_ms, priority, dedup_id, request_id, .. } => {
                Request::post(
                    "/queue/push",
                    json!({
                        "key": key, "queue": queue, "delay_ms": delay_ms, "ttl_ms": ttl_ms,
                        "priority": priority, "dedup_id": dedup_id, "request_id": request_id,
                    }),
                )
            }
            .with("payload", value(payload.as_deref().unwrap_or_default())?),
            Self::Pop { queue, wait_ms } => {
                Request::post("/queue/pop", json!({"queue": queue, "wait_ms": wait_ms}))
            }
            Self::Follow { .. } => return Err(Failure::new("more than one request")),
            Self::Receive { queue, max, visibility_ms, wait_ms, session, ack } => Request::post(
                "/queue/receive",
                json!({
                    "queue": queue, "max": max, "visibility_ms": visibility_ms, "wait_ms": wait_ms,
                    "session": session, "ack": (!ack.is_empty()).then_some(ack),
                }),
            ),
            Self::Ack { receipts, push } => {
                let push = push.iter().map(|text| onward(text)).collect::<Result<Vec<_>, _>>()?;
                let push = (!push.is_empty()).then_some(push);
                Request::post("/queue/ack", json!({"receipts": receipts, "push": push}))
            }
            Self::Extend { receipts, visibility_ms } => {
                Request::post("/queue/extend", json!({"receipts": receipts, "visibility_ms": visibility_ms}))
            }
            Self::Nack { receipt, delay_ms, failed } => Request::post(
                "/queue/nack",
                json!({"receipt": receipt, "delay_ms": delay_ms, "failed": failed}),
            ),
            Self::Stats { queue } => Request::get("/queue/stats", &[("queue", queue.clone())]),
            Self::List { after, limit } => Request::get(
                "/queue/list",
                &[("after", after.clone()), ("limit", limit.map(|limit| limit.to_string()))],
            ),
            Self::Configure {
                queue,
                max_attempts,
                dead_letter,
                visibility_ms,
                max_messages,
                max_bytes,
                on_poison,
            } => Request::post(
                "/queue/configure",
                json!({
                    "queue": queue, "max_attempts": max_attempts, "dead_letter": dead_letter,
                    "visibility_ms": visibility_ms, "max_messages": max_messages, "max_bytes": max_bytes,
                    "on_poison": on_poison,
                }),
            ),
            Self::Peek { queue, max } => Request::get(
                "/queue/peek",
                &[("queue", queue.clone()), ("max", max.map(|max| max.to_string()))],
            ),
            Self::Purge { queue } => Request::post("/queue/purge", json!({"queue": queue})),
            Self::Redrive { queue, max } => {
                Request::post("/queue/redrive", json!({"queue": queue, "max": max}))
            }
            Self::Resume { queue, key } => {
                Request::post("/queue/resume", json!({"queue": queue, "key": key}))
            }
        })
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        match self {
            Self::Push { .. } => Ok(plain(&answer["id"])),
            Self::Follow { .. } => Ok(String::new()),
            Self::Pop { .. } if answer["message"].is_null() => Err(Failure::new("the queue is empty")),
            Self::Pop { .. } => Ok(plain(&answer["message"]["payload"])),
            Self::Receive { ack, .. } => received(ack, answer),
            Self::Ack { receipts, .. } => settled(receipts, answer, "acknowledged"),
            Self::Extend { receipts, .. } => settled(receipts, answer, "extended"),
            Self::Nack { .. } => Ok("back in its place".to_owned()),
            Self::Stats { .. } | Self::Configure { .. } => Ok(fields(answer)),
            Self::Peek { .. } => Ok(waiting(answer)),
            Self::Purge { .. } => Ok(format!("{} dropped", plain(&answer["purged"]))),
            Self::Redrive { .. } => Ok(format!(
                "{} back in the queue, {} still dead",
                plain(&answer["redriven"]),
                plain(&answer["dead"])
            )),
            Self::Resume { .. } => Ok(format!("{} keys go on", plain(&answer["keys"]))),
            Self::List { .. } => Ok(list(answer, "queues").map(queue_name).collect::<Vec<_>>().join("\n")),
        }
    }
}

/// Messages are shown whatever became of the acknowledgements: nobody else gets them for a while.
fn received(acks: &[String], answer: &Value) -> Result<String, Failure> {
    let row =
        |message: &Value| ["receipt", "attempts", "key", "payload"].map(|name| cell(message, name)).to_vec();
    let rows: Vec<Vec<String>> = list(answer, "messages").map(row).collect();
    let refused = refused(acks, list(answer, "acked"));
    let mut failed: Vec<String> = refused.iter().map(|line| format!("not acknowledged: {line}")).collect();
    if rows.is_empty() {
        let why = answer["error"].get("message").map_or_else(|| "the queue is empty".into(), plain);
        let done = if refused.len() < acks.len() { "acknowledged, and " } else { "" };
        failed.push(format!("{done}{why}"));
        return Err(Failure::new(failed.join("\n")));
    }
    let shown = table(&["RECEIPT", "ATTEMPTS", "KEY", "PAYLOAD"], &rows);
    if failed.is_empty() {
        return Ok(shown);
    }
    println!("{shown}");
    Err(Failure::new(failed.join("\n")))
}

/// A message without a key shows none; a payload may well be `null`.
fn cell(message: &Value, name: &str) -> String {
    match &message[name] {
        Value::Null if name == "key" => "-".to_owned(),
        field => plain(field),
    }
}

fn waiting(answer: &Value) -> String {
    let row = |message: &Value| ["id", "attempts", "key", "payload"].map(|name| cell(message, name)).to_vec();
    let rows: Vec<Vec<String>> = list(answer, "messages").map(row).collect();
    if rows.is_empty() { "nothing waits".into() } else { table(&["ID", "ATTEMPTS", "KEY", "PAYLOAD"], &rows) }
}

fn onward(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format_args!("--push {text}: {error}")))
}

fn settled(receipts: &[String], answer: &Value, done: &str) -> Result<String, Failure> {
    let refused = refused(receipts, list(answer, "results"));
    if refused.is_empty() { Ok(done.to_owned()) } else { Err(Failure::new(refused.join("\n"))) }
}

/// One line for each receipt that was refused.
fn refused<'a>(receipts: &'a [String], results: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let results = receipts.iter().zip(results).filter(|(_, result)| !result["error"].is_null());
    results.map(|(receipt, result)| format!("{receipt}: {}", plain(&result["error"]["message"]))).collect()
}

fn queue_name(queue: &Value) -> String {
    plain(queue.get("queue").or_else(|| queue.get("name")).unwrap_or(queue))
}

/// What people look for first.
const FIRST: [&str; 9] =
    ["queue", "ready", "in_flight", "delayed", "dead", "parked_keys", "blocked", "oldest_age_ms", "rates"];

/// One line for each field, in units that people read.
fn fields(answer: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut fields: Vec<_> = answer.as_object().into_iter().flatten().collect();
    let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    fields.sort_by_key(|(name, field)| (field.is_object() && *name != "rates", rank(name)));
    for (name, field) in fields {
        match field.as_object() {
            // They say themselves what they are.
            Some(rates) if name == "rates" => {
                rows.extend(rates.iter().map(|(of, rate)| vec![label(of), rate_of(rate)]));
            }
            Some(inner) => rows.extend(
                inner
                    .iter()
                    .map(|(of, field)| vec![format!("{} {}", label(name), label(of)), readable(of, field)]),
            ),
            None => rows.push(vec![label(name), readable(name, field)]),
        }
    }
    table(&["", ""], &rows).trim_start().to_owned()
}

fn label(name: &str) -> String {
    name.trim_end_matches("_ms").replace('_', " ")
}

fn rate_of(rate: &Value) -> String {
    let rate = rate.as_f64().unwrap_or_default();
    let tenths = if rate.fract().abs() < 0.05 { 0 } else { 1 };
    HumanFloatCount(format!("{rate:.tenths$}").parse().unwrap_or(rate)).to_string()
}

fn readable(name: &str, field: &Value) -> String {
    match field.as_u64() {
        Some(bytes) if name.ends_with("bytes") => HumanBytes(bytes).to_string(),
        Some(ms) if name.ends_with("_ms") && ms < 1_000 => format!("{ms} ms"),
        Some(ms) if name.ends_with("_ms") => HumanDuration(Duration::from_millis(ms)).to_string(),
        Some(count) => HumanCount(count).to_string(),
        None if field.is_null() => "-".to_owned(),
        None => plain(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_payload_is_pushed_as_null() {
        let push = Command::Push {
            payload: Some("null".into()),
            lines: None,
            batch: 1,
            skip: 0,
            key: None,
            queue: None,
            delay_ms: None,
            ttl_ms: None,
            priority: None,
            dedup_id: None,
            request_id: None,
        };
        let Request::Post(_, body) = push.request().unwrap() else { panic!("a POST") };
        assert_eq!(body, json!({"payload": null}));
    }

    #[test]
    fn stats_are_in_units_that_people_read() {
        let answer =
            json!({"queue": "q", "ready": 1_234_567, "bytes": 3_145_728, "oldest_age_ms": 7_200_000});
        let shown = fields(&answer);
        for part in ["1,234,567", "3.00 MiB", "oldest age  2 hours"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(fields(&json!({"oldest_age_ms": null})).contains('-'));
        let rates = fields(&json!({"rates": {"pushed_per_second": 1234.5, "acked_per_second": 0.0}}));
        assert!(rates.contains("pushed per second  1,234.5"), "{rates}");
        assert!(rates.contains("acked per second   0"), "{rates}");
    }

    #[test]
    fn an_empty_queue_and_a_refused_receipt_are_failures_for_scripts() {
        let pop = Command::Pop { queue: None, wait_ms: None };
        assert!(pop.show(&json!({"message": null})).is_err());
        assert_eq!(pop.show(&json!({"message": {"payload": "x"}})).unwrap(), "x");
        let ack = Command::Ack { receipts: vec!["a".into(), "b".into()], push: Vec::new() };
        let answer = json!({"results": [{}, {"error": {"code": "stale_receipt", "message": "Too late."}}]});
        assert_eq!(ack.show(&answer).unwrap_err().message, "b: Too late.");
    }
}
