//! beanstalkd over its own protocol of text lines: there is little for a client library to add.
//!
//! What is durable is up to the server's own options, see `bench/run`.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::load::run;
use crate::{Args, Error};

struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Connection {
    async fn open(args: &Args, nth: usize) -> Result<Self, Error> {
        let stream = TcpStream::connect(args.at(nth)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    async fn send(&mut self, text: &str) -> Result<(), Error> {
        Ok(self.stream.get_mut().write_all(text.as_bytes()).await?)
    }

    /// The words of one line, which must begin with `word`.
    async fn expect(&mut self, word: &str) -> Result<Vec<u64>, Error> {
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        let mut words = self.line.split_ascii_whitespace();
        match words.next() {
            Some(first) if first == word => Ok(words.map(str::parse).collect::<Result<_, _>>()?),
            _ => Err(format!("beanstalkd said {:?} instead of {word}", self.line).into()),
        }
    }
}

fn put(args: &Args) -> String {
    let payload = args.payload();
    format!("put 1024 0 60 {}\r\n{payload}\r\n", payload.len())
}

/// put, a batch of them in flight: each answer lets the next one go, because the server syncs one by one and
/// a whole batch may take longer than a measurement.
pub async fn push(args: &Args) -> Result<(), Error> {
    let put = put(args);
    let open = |nth: usize| async move { Ok((Connection::open(args, nth).await?, 0)) };
    run(args, 1, open, async |(connection, in_flight)| {
        while *in_flight < args.batch {
            connection.send(&put).await?;
            *in_flight += 1;
        }
        connection.expect("INSERTED").await?;
        *in_flight -= 1;
        Ok(())
    })
    .await
}

/// put, reserve, delete.
pub async fn cycle(args: &Args) -> Result<(), Error> {
    let put = put(args);
    run(
        args,
        args.batch,
        |nth| Connection::open(args, nth),
        async |connection| {
            connection.send(&put).await?;
            connection.expect("INSERTED").await?;
            connection.send("reserve\r\n").await?;
            let [id, bytes] = connection.expect("RESERVED").await?[..] else {
                return Err("what was reserved?".into());
            };
            let mut body = vec![0; usize::try_from(bytes)? + 2];
            connection.stream.read_exact(&mut body).await?;
            connection.send(&format!("delete {id}\r\n")).await?;
            connection.expect("DELETED").await?;
            Ok(())
        },
    )
    .await
}
