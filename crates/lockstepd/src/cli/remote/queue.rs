//! `lockstep queue …`

use serde_json::{Value, json};

use super::{Ask, Request, list, plain, table, value};
use crate::cli::Failure;

/// Operations on queues.
#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Command {
    /// Push a message, and print its id
    Push {
        /// JSON, or plain text; `-` reads the standard input
        payload: String,
        /// Delivers it after earlier messages of this key
        #[arg(long)]
        key: Option<String>,
        #[arg(long)]
        queue: Option<String>,
        /// Not delivered before this time has passed
        #[arg(long)]
        delay_ms: Option<u64>,
        /// Makes asking again harmless
        #[arg(long)]
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
    },
    /// Done: remove received messages
    Ack {
        #[arg(required = true)]
        receipts: Vec<String>,
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
    List,
}

const EXAMPLES: &str = "\
Examples:
  lockstep queue push '{\"user\":123}' --key user:123
  lockstep queue receive --max 10 --visibility-ms 60000
  lockstep queue ack RECEIPT
  while lockstep queue pop --queue mail; do :; done";

impl Ask for Command {
    fn request(&self) -> Result<Request, Failure> {
        let text = |number: &Option<u64>| number.map(|number| number.to_string());
        Ok(match self {
            Self::Push { payload, key, queue, delay_ms, request_id } => Request::post(
                "/queue/push",
                json!({"key": key, "queue": queue, "delay_ms": delay_ms, "request_id": request_id}),
            )
            .with("payload", value(payload)?),
            Self::Pop { queue, wait_ms } => {
                Request::get("/queue/pop", &[("queue", queue.clone()), ("wait_ms", text(wait_ms))])
            }
            Self::Receive { queue, max, visibility_ms, wait_ms } => Request::post(
                "/queue/receive",
                json!({"queue": queue, "max": max, "visibility_ms": visibility_ms, "wait_ms": wait_ms}),
            ),
            Self::Ack { receipts } => Request::post("/queue/ack", json!({"receipts": receipts})),
            Self::Nack { receipt, delay_ms, failed } => Request::post(
                "/queue/nack",
                json!({"receipt": receipt, "delay_ms": delay_ms, "failed": failed}),
            ),
            Self::Stats { queue } => Request::get("/queue/stats", &[("queue", queue.clone())]),
            Self::List => Request::get("/queue/list", &[]),
        })
    }

    fn show(&self, answer: &Value) -> Result<String, Failure> {
        match self {
            Self::Push { .. } => Ok(plain(&answer["id"])),
            Self::Pop { .. } if answer["message"].is_null() => Err(Failure::new("the queue is empty")),
            Self::Pop { .. } => Ok(plain(&answer["message"]["payload"])),
            Self::Receive { .. } => received(answer),
            Self::Ack { receipts } => acknowledged(receipts, answer),
            Self::Nack { .. } => Ok("back in its place".to_owned()),
            Self::Stats { .. } => Ok(fields(answer)),
            Self::List => Ok(list(answer, "queues").map(queue_name).collect::<Vec<_>>().join("\n")),
        }
    }
}

fn received(answer: &Value) -> Result<String, Failure> {
    let row = |message: &Value| {
        ["receipt", "attempts", "key", "payload"].map(|name| plain(&message[name])).to_vec()
    };
    let rows: Vec<Vec<String>> = list(answer, "messages").map(row).collect();
    if rows.is_empty() {
        return Err(Failure::new("the queue is empty"));
    }
    Ok(table(&["RECEIPT", "ATTEMPTS", "KEY", "PAYLOAD"], &rows))
}

fn acknowledged(receipts: &[String], answer: &Value) -> Result<String, Failure> {
    let results = receipts.iter().zip(list(answer, "results"));
    let refused: Vec<String> = results
        .filter(|(_, result)| !result["error"].is_null())
        .map(|(receipt, result)| format!("{receipt}: {}", plain(&result["error"]["message"])))
        .collect();
    if refused.is_empty() { Ok("acknowledged".to_owned()) } else { Err(Failure::new(refused.join("\n"))) }
}

fn queue_name(queue: &Value) -> String {
    plain(queue.get("queue").or_else(|| queue.get("name")).unwrap_or(queue))
}

fn fields(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = answer
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, field)| vec![name.clone(), plain(field)])
        .collect();
    table(&["", ""], &rows).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_payload_is_pushed_as_null() {
        let push = Command::Push {
            payload: "null".into(),
            key: None,
            queue: None,
            delay_ms: None,
            request_id: None,
        };
        let Request::Post(_, body) = push.request().unwrap() else { panic!("a POST") };
        assert_eq!(body, json!({"payload": null}));
    }

    #[test]
    fn an_empty_queue_and_a_refused_receipt_are_failures_for_scripts() {
        let pop = Command::Pop { queue: None, wait_ms: None };
        assert!(pop.show(&json!({"message": null})).is_err());
        assert_eq!(pop.show(&json!({"message": {"payload": "x"}})).unwrap(), "x");
        let ack = Command::Ack { receipts: vec!["a".into(), "b".into()] };
        let answer = json!({"results": [{}, {"error": {"code": "stale_receipt", "message": "Too late."}}]});
        assert_eq!(ack.show(&answer).unwrap_err().message, "b: Too late.");
    }
}
