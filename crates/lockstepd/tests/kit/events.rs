//! A stream of server-sent events, read line by line.
//!
//! It judges nothing but that something comes in time.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::Http;

const TURN: Duration = Duration::from_secs(20);

/// One event: its name, id and data.
pub type Event = (String, String, Value);

/// A stream of them.
pub struct Events(BufReader<TcpStream>);

impl Events {
    /// Opens a stream, to go on behind an event if one is given.
    pub async fn open(http: Http, target: &str, after: Option<&str>) -> Self {
        let last = after.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\n{last}\r\n");
        Self(BufReader::new(http.send(head.as_bytes()).await.unwrap()))
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let read = async {
            let (mut event, mut id, mut line) = (String::new(), String::new(), String::new());
            loop {
                line.clear();
                assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the stream ended");
                match line.trim_end().split_once(": ") {
                    Some(("event", name)) => event = name.into(),
                    Some(("id", of)) => id = of.into(),
                    Some(("data", data)) => return (event, id, serde_json::from_str(data).unwrap()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(TURN, read).await.expect("an event in time")
    }
}
