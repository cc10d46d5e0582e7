//! The least of an HTTP/1.1 client: one connection, one request in flight, ready-made bytes out, a
//! status and a body of known length in.
//!
//! The load generator shares two cores with the cluster that it measures, so what it spends is what
//! the cluster lacks; a general client costs several times as much a request. It is not for use
//! beyond `bench` and `dev`: it reads neither chunked bodies nor redirects.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where a node listens.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// As in the URL, for the `Host` header.
    pub(super) host: String,
    socket: SocketAddr,
}

impl Address {
    /// Understands `http://host:port`. Errors say what is wrong with the URL.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url:?} must start with http://"))?;
        let host = rest.split('/').next().unwrap_or_default();
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let mut found = with_port.to_socket_addrs().map_err(|error| format!("{url:?}: {error}"))?;
        let socket = found.next().ok_or_else(|| format!("{url:?} resolves to nothing"))?;
        Ok(Self { host: host.to_owned(), socket })
    }

    /// The bytes of a GET.
    pub(super) fn get(&self, target: &str) -> Vec<u8> {
        format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host).into_bytes()
    }

    /// The bytes of a POST of JSON.
    pub(super) fn post(&self, target: &str, body: &str) -> Vec<u8> {
        format!(
            "POST {target} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        )
        .into_bytes()
    }
}

/// One answer; the body lives until the next request.
pub(super) struct Response<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

/// A kept-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects without delay for small packets.
    pub(super) async fn open(address: &Address) -> io::Result<Self> {
        let stream = TcpStream::connect(address.socket).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends ready-made bytes and waits for the whole answer. After an error the connection is of
    /// no more use.
    pub(super) async fn request(&mut self, bytes: &[u8]) -> io::Result<Response<'_>> {
        self.stream.write_all(bytes).await?;
        self.buffer.clear();
        let head = loop {
            self.read_some().await?;
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
        };
        while self.buffer.len() < head.length + head.body {
            self.read_some().await?;
        }
        Ok(Response { status: head.status, body: &self.buffer[head.length..head.length + head.body] })
    }

    async fn read_some(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

struct Head {
    status: u16,
    /// Bytes up to and with the empty line.
    length: usize,
    /// Bytes of the body.
    body: usize,
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    let body = match response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))
    {
        Some(header) => std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok()),
        None if status == 204 || status == 304 => Some(0),
        None => None,
    };
    let body =
        body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no content-length"))?;
    Ok(Some(Head { status, length, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_complete_only_with_its_empty_line() {
        let whole = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        for cut in 0..whole.len() - 2 {
            assert!(parse_head(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let head = parse_head(whole).unwrap().unwrap();
        assert_eq!((head.status, head.length, head.body), (409, whole.len() - 2, 2));
    }

    #[test]
    fn a_body_of_unknown_length_is_an_error() {
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse_head(b"garbage\r\n\r\n").is_err());
        assert_eq!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().body, 0);
    }

    #[test]
    fn a_url_needs_its_scheme_and_may_lack_a_port() {
        assert_eq!(Address::parse("http://127.0.0.1:8001/").unwrap().host, "127.0.0.1:8001");
        assert_eq!(Address::parse("http://127.0.0.1").unwrap().socket.port(), 80);
        assert!(Address::parse("127.0.0.1:8001").unwrap_err().contains("http://"));
    }
}
