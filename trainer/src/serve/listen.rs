//! Accepts HTTP/1.1 connections so that no client can block the server: a request must arrive in time, a reply must be
//! read in time, and the number of connections is limited. Talks to sockets.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tower::Service;

use super::connections::{Admission, Connections, Id};
use super::patient::Patient;

/// Maximum size of a request's head in bytes.
const MOST_HEAD: usize = 64 * 1024;
/// Delay after the process runs out of file descriptors.
const RECOVERY: Duration = Duration::from_millis(50);
/// Grace period for incomplete requests when the server stops.
const GRACE: Duration = Duration::from_secs(1);
/// The response when every connection is busy.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Timeouts for clients, and the limit of connections.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Maximum number of concurrent connections; fewer if the process may open fewer files.
    pub connections: usize,
    /// Timeout for the head of a request, and for an idle connection.
    pub head: Duration,
    /// Timeout for the body of a request.
    pub body: Duration,
    /// Timeout for a client that does not read its reply.
    pub unread: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 1024, head: seconds(30), body: seconds(30), unread: seconds(60) }
    }
}

/// The connection of a request.
#[derive(Clone, Debug)]
pub(super) struct Place {
    all: Arc<Mutex<Connections<Arc<Notify>>>>,
    id: Id,
}

impl Place {
    /// Marks the request as received. Before that, its connection may be closed in favour of another one.
    pub(super) fn answering(&self) {
        with(&self.all, |all| all.answering(self.id));
    }

    fn waiting(&self) {
        with(&self.all, |all| all.waiting(self.id));
    }
}

/// Serves until `stop`; then accepts no more connections and waits at most `drain` for the requests in progress.
/// Returns false if that was too short. `refused` is called for each connection that is closed for lack of capacity.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    patience: Patience,
    refused: impl Fn(),
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> bool {
    let all = Arc::new(Mutex::new(Connections::new(patience.connections.min(files()))));
    // Every connection has a receiver, so the channel is closed when the last one has ended.
    let (stopping, told) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer): (_, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("failed to accept a connection: {error}");
                tokio::time::sleep(RECOVERY).await;
                continue;
            }
        };
        let close = Arc::new(Notify::new());
        let id = match with(&all, |all| all.admit(address(peer), Arc::clone(&close))) {
            Admission::Kept(id) => id,
            Admission::InPlaceOf(id, other) => {
                refused();
                other.notify_one();
                id
            }
            Admission::Refused => {
                refused();
                let _ = stream.try_write(FULL);
                continue;
            }
        };
        let place = Place { all: Arc::clone(&all), id };
        tokio::spawn(connection(stream, place, close, router.clone(), patience, told.clone()));
    }
    drop((listener, told));
    let _ = stopping.send(true);
    let ended = async {
        if tokio::time::timeout(GRACE, stopping.closed()).await.is_err() {
            with(&all, |all| {
                for close in all.silent() {
                    close.notify_one();
                }
            });
            stopping.closed().await;
        }
    };
    tokio::time::timeout(drain, ended).await.is_ok()
}

/// Serves one connection until it closes.
async fn connection(
    stream: TcpStream,
    place: Place,
    close: Arc<Notify>,
    router: Router,
    patience: Patience,
    mut stopping: watch::Receiver<bool>,
) {
    let id = place.id;
    let all = Arc::clone(&place.all);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        if request.body().is_end_stream() {
            place.answering();
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(place.clone());
        let (answer, place) = (router.clone().call(request), place.clone());
        async move { answer.await.map(|response| response.map(|body| Reply { body, place })) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(Patient::new(stream, patience.unread)), service);
    let mut served = pin!(served);
    let mut stopped = pin!(async { drop(stopping.wait_for(|stopping| *stopping).await) });
    let mut told = false;
    let broken = loop {
        tokio::select! {
            result = served.as_mut() => break result.err(),
            () = close.notified() => break None,
            () = stopped.as_mut(), if !told => {
                told = true;
                served.as_mut().graceful_shutdown();
            }
        }
    };
    if let Some(error) = broken {
        tracing::debug!("connection error: {error}");
    }
    with(&all, |all| all.remove(id));
}

/// The body of a reply. When it is complete or dropped, the connection waits for its client again.
struct Reply {
    body: Body,
    place: Place,
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.place.waiting();
    }
}

fn with<T>(all: &Mutex<Connections<Arc<Notify>>>, what: impl FnOnce(&mut Connections<Arc<Notify>>) -> T) -> T {
    what(&mut all.lock().unwrap_or_else(PoisonError::into_inner))
}

fn address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// The number of file descriptors that are left for connections.
fn files() -> usize {
    const OWN: u64 = 48;
    let may = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(may.saturating_sub(OWN).max(1)).unwrap_or(usize::MAX)
}
