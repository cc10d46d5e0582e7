//! HTTP as a test needs it: one connection per request, any bytes, no retries, no hidden state.

use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Asks one node.
#[derive(Clone, Copy, Debug)]
pub struct Http {
    /// Its HTTP port on 127.0.0.1.
    pub port: u16,
    /// How long one request may take.
    pub patience: Duration,
}

/// What the node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; `Null` where it is not JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// Not within the patience of the asker.
    Silent,
    /// The connection could not be made or broke.
    Broken(io::Error),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no answer in time"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl Answer {
    /// The error's code, or nothing.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Http {
    /// The same node with other patience.
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// GET.
    pub async fn get(self, target: &str) -> Result<Answer, HttpError> {
        let head =
            format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n", self.port);
        self.raw(head.as_bytes()).await
    }

    /// POST of a JSON value.
    pub async fn post(self, target: &str, body: &Value) -> Result<Answer, HttpError> {
        self.post_text(target, &body.to_string()).await
    }

    /// POST of anything that calls itself JSON.
    pub async fn post_text(self, target: &str, body: &str) -> Result<Answer, HttpError> {
        let request = format!(
            "POST {target} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        self.raw(request.as_bytes()).await
    }

    /// Sends bytes as they are and reads until the node closes the connection.
    pub async fn raw(self, bytes: &[u8]) -> Result<Answer, HttpError> {
        let exchange = async {
            let mut stream = self.send(bytes).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            parse(&answer)
        };
        timeout(self.patience, exchange).await.map_err(|_| HttpError::Silent)?.map_err(HttpError::Broken)
    }

    /// Sends bytes and leaves the connection to the caller. A paused node's kernel takes them too.
    pub async fn send(self, bytes: &[u8]) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(bytes).await?;
        Ok(stream)
    }
}

/// Reads a whole answer from the bytes of a connection that has ended.
pub fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| invalid(format!("not HTTP: {error}")))?;
    let httparse::Status::Complete(head) = parsed else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let body = &bytes[head..];
    if length.is_some_and(|length| body.len() < length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(body).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status: response.code.unwrap_or_default(), json, text })
}
