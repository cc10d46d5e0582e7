//! Commands that ask a running cluster: one request each, its answer for people or as JSON.
//!
//! They add nothing to the API; whatever they can do, `curl` can do too.

pub(super) mod cache;
pub(super) mod cluster;
pub(super) mod lock;
pub(super) mod queue;

use std::time::Duration;

use serde_json::Value;

use super::http1::{Address, Connection};
use super::{Failure, runtime};

/// Where to ask and how to print, for every such command.
#[derive(clap::Args)]
pub(super) struct Remote<C: clap::Subcommand> {
    /// Nodes to ask, separated by commas; the first that can be reached is asked
    #[arg(
        long,
        global = true,
        env = "LOCKSTEP_URL",
        default_value = "http://127.0.0.1:8001",
        value_delimiter = ',',
        value_name = "URL"
    )]
    url: Vec<String>,
    /// Print the answer as the JSON that the node sent
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: C,
}

/// What one command asks, and how its answer reads.
pub(super) trait Ask {
    /// The request. Errors are mistakes in what was written.
    fn request(&self) -> Result<Request, Failure>;

    /// The answer for people. Errors are answers that scripts should see as failures.
    fn show(&self, answer: &Value) -> Result<String, Failure>;
}

/// One request to the API.
#[derive(Debug)]
pub(super) enum Request {
    Get(String),
    Post(&'static str, Value),
}

/// A node that says nothing for this long, beyond what it was asked to wait, will not answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl<C: clap::Subcommand + Ask> Remote<C> {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = self.command.request()?;
        let (status, text) = runtime()?.block_on(send(&self.url, &request))?;
        let success = (200..300).contains(&status);
        if self.json {
            println!("{text}");
            return if success { Ok(()) } else { Err(Failure::new(format_args!("HTTP {status}"))) };
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if !success {
            return Err(refused(status, &answer, &text));
        }
        let shown = self.command.show(&answer)?;
        if !shown.is_empty() {
            println!("{shown}");
        }
        Ok(())
    }
}

/// Only connecting is tried at several nodes: a request that was sent may have been done.
async fn send(urls: &[String], request: &Request) -> Result<(u16, String), Failure> {
    let mut refusals = Vec::new();
    for url in urls {
        let address = Address::parse(url).map_err(|error| Failure::usage(format_args!("--url: {error}")))?;
        let mut connection = match Connection::open(&address).await {
            Ok(connection) => connection,
            Err(error) => {
                refusals.push(format!("{url}: {error}"));
                continue;
            }
        };
        let bytes = match request {
            Request::Get(target) => address.get(target),
            Request::Post(target, body) => address.post(target, &body.to_string()),
        };
        let lost = |why: String| Failure::new(format_args!("{url}: {why}; it may have been done"));
        let exchange = tokio::time::timeout(request.patience(), connection.request(&bytes)).await;
        let answer =
            exchange.map_err(|_| lost("no answer".into()))?.map_err(|error| lost(error.to_string()))?;
        return Ok((answer.status, String::from_utf8_lossy(answer.body).into_owned()));
    }
    Err(Failure::new(format_args!(
        "{}; is the cluster running? --url or LOCKSTEP_URL says where to ask",
        refusals.join("; ")
    )))
}

impl Request {
    /// GET with the parameters that are there.
    fn get(path: &str, parameters: &[(&str, Option<String>)]) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        Self::Get(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
    }

    /// POST of the fields that are not null.
    fn post(path: &'static str, mut body: Value) -> Self {
        if let Some(fields) = body.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        Self::Post(path, body)
    }

    /// With one more field, even if it is null: a value may be.
    fn with(mut self, name: &str, value: Value) -> Self {
        if let Self::Post(_, body) = &mut self {
            body[name] = value;
        }
        self
    }

    fn patience(&self) -> Duration {
        let wait = match self {
            Self::Post(_, body) => body["wait_ms"].as_u64(),
            Self::Get(target) => target.split_once("wait_ms=").and_then(|(_, wait)| wait.parse().ok()),
        };
        PATIENCE + Duration::from_millis(wait.unwrap_or_default())
    }
}

fn refused(status: u16, answer: &Value, text: &str) -> Failure {
    let error = &answer["error"];
    match (error["code"].as_str(), error["message"].as_str()) {
        (Some(code), Some(message)) => Failure::new(format_args!("{message} ({code})")),
        _ => Failure::new(format_args!("HTTP {status}: {text}")),
    }
}

/// JSON if it reads as JSON, otherwise text: people type `hello`, not `'"hello"'`. A dash means
/// whatever stands on the standard input.
fn value(written: &str) -> Result<Value, Failure> {
    let mut text = written.to_owned();
    if written == "-" {
        text = std::io::read_to_string(std::io::stdin()).map_err(Failure::new)?;
    }
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A JSON value as people read it: text without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Rows as aligned columns under a heading.
fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![heading.iter().map(ToString::to_string).collect()];
    lines.extend(rows.iter().cloned());
    let width = |column: usize| {
        lines.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The elements of a list in an answer; none if there is no such list.
fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer[name].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_holds_what_is_there_and_is_encoded() {
        let request = Request::get("/lock/list", &[("prefix", Some("a b&c/ü".into())), ("after", None)]);
        let Request::Get(target) = request else { panic!("a GET") };
        assert_eq!(target, "/lock/list?prefix=a+b%26c%2F%C3%BC");
    }

    #[test]
    fn a_body_holds_no_nulls_and_waiting_adds_to_the_patience() {
        let request = Request::post("/lock/acquire", json!({"name": "a", "token": null, "wait_ms": 60_000}));
        assert_eq!(request.patience(), PATIENCE + Duration::from_secs(60));
        let Request::Post(_, body) = request else { panic!("a POST") };
        assert_eq!(body, json!({"name": "a", "wait_ms": 60_000}));
    }

    #[test]
    fn what_is_no_json_is_text() {
        assert_eq!(value("hello").unwrap(), json!("hello"));
        assert_eq!(value("\"hello\"").unwrap(), json!("hello"));
        assert_eq!(value("{\"a\":[1]}").unwrap(), json!({"a": [1]}));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let shown =
            table(&["name", "n"], &[vec!["a-long-name".into(), "1".into()], vec!["b".into(), "22".into()]]);
        assert_eq!(shown, "name         n\na-long-name  1\nb            22");
    }

    #[test]
    fn a_refusal_is_its_message_and_code() {
        let answer = json!({"error": {"code": "held", "message": "resA is held by b."}});
        assert_eq!(refused(409, &answer, "").message, "resA is held by b. (held)");
        assert_eq!(refused(502, &Value::Null, "bad gateway").message, "HTTP 502: bad gateway");
    }
}
