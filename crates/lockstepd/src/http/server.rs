//! The accept loop: hyper with limits on everything that a client could make last or grow.
//!
//! `axum::serve` sets no timer for headers, so a slow sender would hold its connection for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures::future::{Either, Ready, ready};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; above it a client is told so and cut off.
    pub connections_max: usize,
    /// Header lines of one request; above it: 431.
    pub headers_max: usize,
    /// Bytes of a request's line and headers; above it: 431.
    pub head_bytes_max: usize,
    /// How long a request's headers may take, and how long a kept connection may be idle.
    pub header_time: Duration,
    /// How long a stopping node waits for requests in flight.
    pub drain_time: Duration,
}

const FULL: &str = r#"{"error":{"code":"overloaded","message":"This node has as many connections as it may; ask another."}}"#;

/// Serves until `stop` completes, then finishes what is in flight. What `at_once` answers takes the
/// short way; everything else is for `app`.
pub async fn serve<F>(
    listener: TcpListener,
    at_once: F,
    app: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) where
    F: Fn(&Request<Incoming>) -> Option<Response> + Clone + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.head_bytes_max.max(8 * 1024));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tokio::spawn(turn_away(stream));
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = Front { at_once: at_once.clone(), app: TowerToHyperService::new(app.clone()) };
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // How a connection ends is the client's affair; requests were answered one by one.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_time, graceful.shutdown()).await.is_err() {
        tracing::info!("requests were still in flight when the time for draining was over");
    }
}

/// Answers at once what can be, and leaves the rest to the routes.
struct Front<F> {
    at_once: F,
    app: TowerToHyperService<Router>,
}

impl<F: Fn(&Request<Incoming>) -> Option<Response>> Service<Request<Incoming>> for Front<F> {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, Later>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match (self.at_once)(&request) {
            Some(response) => Either::Left(ready(Ok(response))),
            None => Either::Right(self.app.call(request)),
        }
    }
}

type Later = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

async fn turn_away(mut stream: TcpStream) {
    let length = FULL.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         retry-after: 1\r\ncontent-length: {length}\r\n\r\n{FULL}"
    );
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes())).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt;
    use tokio::sync::{Notify, oneshot};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    struct Server {
        address: std::net::SocketAddr,
        stop: Option<oneshot::Sender<()>>,
        task: tokio::task::JoinHandle<()>,
        entered: Arc<Notify>,
        dropped: Arc<Notify>,
        go_on: Arc<Notify>,
    }

    struct Dropped(Arc<Notify>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    async fn server(change: impl FnOnce(&mut Limits)) -> Server {
        let mut limits = Limits {
            connections_max: 2_000,
            headers_max: 64,
            head_bytes_max: 16 * 1024,
            header_time: LONG,
            drain_time: LONG,
        };
        change(&mut limits);
        let (entered, dropped, go_on) =
            (Arc::<Notify>::default(), Arc::<Notify>::default(), Arc::<Notify>::default());
        let slow = {
            let (entered, dropped, go_on) = (entered.clone(), dropped.clone(), go_on.clone());
            move || async move {
                let _dropped = Dropped(dropped);
                entered.notify_one();
                go_on.notified().await;
                "slow"
            }
        };
        let app = Router::new().route("/", get(|| async { "ok" })).route("/slow", get(slow));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, |_: &Request<Incoming>| None, app, limits, async move {
            let _ = stopped.await;
        }));
        Server { address, stop: Some(stop), task, entered, dropped, go_on }
    }

    async fn exchange(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        rest(&mut stream).await
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn slow_headers_are_cut_off() {
        let server = server(|limits| limits.header_time = Duration::from_millis(100)).await;
        let answer = exchange(&server, "GET / HTTP/1.1\r\nhost:").await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn too_many_headers_are_refused() {
        let server = server(|_| ()).await;
        let headers: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
        let answer = exchange(&server, &format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn an_endless_request_line_is_refused() {
        let server = server(|_| ()).await;
        let answer = exchange(&server, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000))).await;
        assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so() {
        let server = server(|limits| limits.connections_max = 1).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        first.read_u8().await.unwrap();
        let answer = exchange(&server, "").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
    }

    #[tokio::test]
    async fn a_thousand_slow_senders_delay_nobody() {
        let server = server(|_| ()).await;
        let mut slow = Vec::new();
        for _ in 0..1_000 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nx-slow:").await.unwrap();
            slow.push(stream);
        }
        let answer = tokio::time::timeout(Duration::from_secs(2), exchange(&server, GET)).await.unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_drops_its_handler() {
        let server = server(|_| ()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.entered.notified().await;
        drop(stream);
        tokio::time::timeout(LONG, server.dropped.notified()).await.expect("the handler is dropped");
    }

    #[tokio::test]
    async fn stopping_finishes_what_is_in_flight() {
        let mut server = server(|_| ()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.entered.notified().await;
        server.stop.take().unwrap().send(()).unwrap();
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        server.go_on.notify_one();
        assert!(rest(&mut stream).await.ends_with("slow"));
        tokio::time::timeout(LONG, &mut server.task).await.expect("the server ends").unwrap();
    }
}
