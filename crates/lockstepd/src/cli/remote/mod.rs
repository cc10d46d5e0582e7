//! Commands that ask a running cluster: one request each, its answer for people or as JSON.
//!
//! They add nothing to the API; whatever they can do, `curl` can do too.

pub(super) mod cache;
pub(super) mod cluster;
pub(super) mod lock;
pub(super) mod queue;

mod changes;
mod follow;
mod push;
mod run;
mod watch;

use std::time::Duration;

use lockstep_client::{Client, Error, Reply};
use serde_json::Value;

use super::{Failure, runtime};

/// Where to ask and how to print, for every such command.
#[derive(clap::Args)]
pub(super) struct Remote<C: clap::Subcommand> {
    /// Nodes to ask, separated by commas: one after another until one has answered
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
    /// How long to try, beyond what the command itself waits for
    #[arg(long, global = true, default_value_t = 10_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=45_000))]
    timeout_ms: u64,
    #[command(subcommand)]
    command: C,
}

/// What one command asks, and how its answer reads.
pub(super) trait Ask {
    /// Does what the command is for: unless it says otherwise, one request.
    async fn run(&self, client: &Client, json: bool) -> Result<(), Failure>
    where
        Self: Sized,
    {
        one_request(self, client, json).await
    }

    /// The request. Errors are mistakes in what was written.
    fn request(&self) -> Result<Request, Failure>;

    /// A command that asks nobody: done here, if this is one.
    fn offline(&self) -> Option<Result<(), Failure>> {
        None
    }

    /// The answer for people. Errors are answers that scripts should see as failures.
    fn show(&self, answer: &Value) -> Result<String, Failure>;
}

/// One request to the API.
#[derive(Debug)]
pub(super) enum Request {
    Get(String),
    Post(&'static str, Value),
}

impl<C: clap::Subcommand + Ask> Remote<C> {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(done) = self.command.offline() {
            return done;
        }
        let timeout = Duration::from_millis(self.timeout_ms);
        let client = Client::builder(self.url).timeout(timeout).build();
        let client = client.map_err(|error| Failure::usage(format_args!("--url: {error}")))?;
        runtime()?.block_on(self.command.run(&client, self.json))
    }
}

async fn one_request(command: &impl Ask, client: &Client, json: bool) -> Result<(), Failure> {
    let reply = send(client, command.request()?).await.map_err(unanswered)?;
    let success = (200..300).contains(&reply.status);
    let text = String::from_utf8_lossy(&reply.body);
    if json {
        println!("{text}");
        return if success { Ok(()) } else { Err(Failure::new(format_args!("HTTP {}", reply.status))) };
    }
    let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if !success {
        return Err(refused(reply.status, &answer, &text));
    }
    let shown = command.show(&answer)?;
    if !shown.is_empty() {
        println!("{shown}");
    }
    Ok(())
}

async fn send(client: &Client, request: Request) -> Result<Reply, Error> {
    match request {
        Request::Get(target) => client.get(&target).await,
        Request::Post(path, body) => client.post(path, body).await,
    }
}

/// An error of the client, for people.
fn unanswered(error: Error) -> Failure {
    match error {
        Error::Unreachable { why } => Failure::new(format_args!(
            "{why}; is the cluster running? --url or LOCKSTEP_URL says where to ask"
        )),
        Error::Invalid(_) => Failure::usage(error),
        error => Failure::new(error),
    }
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
    fn a_body_holds_no_nulls() {
        let request = Request::post("/lock/acquire", json!({"name": "a", "token": null, "wait_ms": 60_000}));
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
