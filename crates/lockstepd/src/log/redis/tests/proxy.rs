//! A way to Redis that loses answers, ends, or leads elsewhere, as a test says.
//!
//! Requests always arrive where it leads.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

pub(super) struct Proxy {
    pub(super) url: String,
    state: Arc<Way>,
}

struct Way {
    to: Mutex<u16>,
    /// How many answers still come through.
    answers: AtomicI64,
    /// How often all connections have been cut.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(super) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (cuts, _) = watch::channel(0);
        let state = Arc::new(Way { to: Mutex::new(to), answers: AtomicI64::new(i64::MAX), cuts });
        let way = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&way).carry(client));
            }
        });
        Self { url, state }
    }

    /// Only so many more answers come through; then every connection ends that waits for one.
    pub(super) fn answers(&self, count: i64) {
        self.state.answers.store(count, Ordering::SeqCst);
    }

    /// Cuts every connection, and leads elsewhere from now on.
    pub(super) fn lead_to(&self, port: u16) {
        *self.state.to.lock().unwrap() = port;
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Way {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let to = *self.to.lock().unwrap();
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
        let (mut asked, mut said) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                bytes = client.read(&mut asked) => match bytes {
                    Ok(bytes) if bytes > 0 && server.write_all(&asked[..bytes]).await.is_ok() => {}
                    _ => return,
                },
                bytes = server.read(&mut said) => match bytes {
                    Ok(bytes) if bytes > 0 && self.answers.fetch_sub(1, Ordering::SeqCst) > 0 => {
                        if client.write_all(&said[..bytes]).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
                _ = cuts.changed() => return,
            }
        }
    }
}
