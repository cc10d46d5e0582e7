//! `lockstep queue push --lines FILE`: one message a line, in batches, with progress.
//!
//! It stops at the first batch with a failure and says which line to go on from; it does not guess
//! whether a full queue will have room later.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lockstep_client::Error;
use lockstep_client::queue::{Message, Queue};
use serde_json::Value;

use super::unanswered;
use crate::cli::Failure;

/// Which lines, and how.
pub(super) struct Lines<'a> {
    pub(super) file: &'a Path,
    pub(super) skip: u64,
    pub(super) batch: usize,
    pub(super) key: Option<&'a str>,
    pub(super) delay: Duration,
}

/// Pushes every line, and prints how many there were.
pub(super) async fn run(queue: &Queue, lines: &Lines<'_>) -> Result<(), Failure> {
    let (reader, length) = open(lines.file)?;
    let bar = progress(length);
    let mut reader = BufReader::new(bar.wrap_read(reader)).lines();
    let mut done = 0;
    loop {
        let mut batch = Vec::new();
        for line in reader.by_ref().take(lines.batch) {
            batch
                .push(line.map_err(|error| Failure::new(format_args!("{}: {error}", lines.file.display())))?);
        }
        if batch.is_empty() {
            break;
        }
        let first = done + 1;
        done += batch.len() as u64;
        let new = batch.into_iter().enumerate().filter(|(nth, _)| first + *nth as u64 > lines.skip);
        let messages: Vec<Message> = new.map(|(_, line)| lines.message(&line)).collect::<Result<_, _>>()?;
        if !messages.is_empty() {
            let first = done + 1 - messages.len() as u64;
            push(queue, messages, first).await.inspect_err(|_| bar.abandon())?;
        }
        bar.set_message(format!("{done} messages"));
    }
    bar.finish_and_clear();
    println!("{}", done.saturating_sub(lines.skip));
    Ok(())
}

impl Lines<'_> {
    /// JSON where the line reads as JSON, otherwise text, as on the command line.
    fn message(&self, line: &str) -> Result<Message, Failure> {
        let payload = serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()));
        let message = Message::new(&payload).map_err(unanswered)?;
        let message = if self.delay.is_zero() { message } else { message.delay(self.delay) };
        Ok(if let Some(key) = self.key { message.key(key) } else { message })
    }
}

/// `first` is the number of the first line, from 1.
async fn push(queue: &Queue, messages: Vec<Message>, first: u64) -> Result<(), Failure> {
    let last = first + messages.len() as u64 - 1;
    let stop = |why: String| Failure::new(format_args!("{why}\nall lines before {first} are pushed"));
    let results = match queue.push_batch(messages).await {
        Ok(results) => results,
        Err(error) => {
            let what = if matches!(error, Error::OutcomeUnknown { .. }) { "may be" } else { "are not" };
            let (error, skip) = (unanswered(error).message, first - 1);
            return Err(stop(format!(
                "lines {first} to {last}: {error}; they {what} pushed (--skip {skip})"
            )));
        }
    };
    let failed: Vec<String> = (first..)
        .zip(&results)
        .filter_map(|(line, result)| Some(format!("line {line}: {}", result.as_ref().err()?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let others = format!("the others up to {last} are pushed (--skip {last})");
    Err(stop(format!("{}\n{others}", failed.join("\n"))))
}

fn open(file: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let fail = |error| Failure::new(format_args!("{}: {error}", file.display()));
    let opened = std::fs::File::open(file).map_err(fail)?;
    let length = opened.metadata().map_err(fail)?.len();
    Ok((Box::new(opened), Some(length)))
}

/// A bar on a terminal, nothing elsewhere.
fn progress(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:30} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}  {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
