//! A server of HTTP/1.1 that nobody can hold up: connections are closed when a request does not come in time, and where there are
//! too many, for the newest (`connections`). Talks to sockets.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::Service;

use super::connections::Connections;

/// For the head of a request, from the moment it may come: also the longest that a connection idles.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a head. The token in it has one or two thousand.
const MAX_HEAD: usize = 32 * 1024;
/// For a whole connection, so that a client that does not read its answer holds none for ever.
const MAX_LIFE: Duration = Duration::from_mins(10);
/// For open requests when the server stops.
const LAST_MOMENTS: Duration = Duration::from_secs(5);
/// After the system had no socket to give.
const RECOVERY: Duration = Duration::from_secs(1);

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves until `stop`, then answers what is open and returns. `most`: connections at once.
pub async fn serve(most: usize, listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    serve_within(HEAD_TIMEOUT, most, listener, router, stop).await;
}

async fn serve_within(
    head_timeout: Duration,
    most: usize,
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let connections: Arc<Connections<Arc<Notify>>> = Arc::new(Connections::new(most));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer): (_, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                match connections.evict() {
                    // Its socket is free as soon as its task has run once more.
                    Some(oldest) => oldest.notify_one(),
                    None => tokio::time::sleep(RECOVERY).await,
                }
                tokio::task::yield_now().await;
                continue;
            }
        };
        let peer = peer.ip().to_canonical();
        let router = router.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            router.clone().call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let end = Arc::new(Notify::new());
        let (number, oldest) = connections.take(peer, end.clone());
        if let Some(oldest) = oldest {
            oldest.notify_one();
        }
        let open = Open { connections: connections.clone(), number };
        tokio::spawn(async move {
            let _open = open;
            tokio::select! {
                ended = tokio::time::timeout(MAX_LIFE, connection) => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                }
                () = end.notified() => tracing::debug!(%peer, "a connection has made room for another"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_MOMENTS, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still open when the server ended");
    }
}

/// A connection in the list, for as long as it is open.
struct Open {
    connections: Arc<Connections<Arc<Notify>>>,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    const SHORT: Duration = Duration::from_millis(200);
    const MOST: usize = 16;

    async fn talk(to: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Until the server closes the connection.
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn start(head_timeout: Duration) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            Router::new().route("/", get(|Extension(Peer(peer)): Extension<Peer>| async move { peer.to_string() }));
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { drop(stopped.await) };
        (address, stop, tokio::spawn(serve_within(head_timeout, MOST, listener, router, stopped)))
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_in_time_is_not_waited_for() {
        let (address, _stop, _served) = start(SHORT).await;
        let start = std::time::Instant::now();
        talk(address, "GET / HTTP/1.1\r\nhost: x\r\n").await;
        assert!(start.elapsed() >= SHORT && start.elapsed() < HEAD_TIMEOUT, "{:?}", start.elapsed());
        let answer = talk(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
    }

    #[tokio::test]
    async fn who_opens_many_connections_and_says_nothing_keeps_nobody_out() {
        let (address, _stop, _served) = start(HEAD_TIMEOUT).await;
        let mut open = Vec::new();
        for i in 0..20 * MOST {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if i % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
            }
            open.push(stream);
        }
        let start = std::time::Instant::now();
        let answer = talk(address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        // The first has been closed without an answer, long before its time for a head was over.
        let mut nothing = Vec::new();
        let closed = tokio::time::timeout(HEAD_TIMEOUT / 10, open[0].read_to_end(&mut nothing)).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }

    #[tokio::test]
    async fn it_ends_when_it_is_asked_to_and_idle_connections_with_it() {
        let (address, stop, served) = start(SHORT).await;
        let idle = TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        served.await.unwrap();
        drop(idle);
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
