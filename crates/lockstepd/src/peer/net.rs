//! The network that the transport runs on: TCP, or whatever a simulation offers instead.
//!
//! It carries bytes and knows nothing of frames.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens and accepts connections.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `address` (`host:port`).
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;

    /// Listens on `address`.
    async fn bind(&self, address: &str) -> io::Result<Box<dyn Listener>>;
}

/// A listening socket.
#[async_trait]
pub trait Listener: Send {
    /// The next connection.
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>>;

    /// Where it listens, for when the port was chosen by the system.
    fn local_addr(&self) -> io::Result<std::net::SocketAddr>;
}

/// The real network.
pub struct TcpNet;

#[async_trait]
impl Net for TcpNet {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn bind(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        TcpListener::local_addr(self)
    }
}
