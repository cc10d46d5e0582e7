//! The simulated network behind the transport's own seam.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use lockstepd::peer::{Listener, Net, Stream};
use turmoil::net::{TcpListener, TcpStream};

pub struct SimNet;

struct SimListener(TcpListener);

#[async_trait]
impl Net for SimNet {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(address).await?))
    }

    async fn bind(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        Ok(Box::new(SimListener(TcpListener::bind(any).await?)))
    }
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        let (stream, _) = self.0.accept().await?;
        Ok(Box::new(stream))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
