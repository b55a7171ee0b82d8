//! What tenants of a cluster can do to the operator: fill the API server with large objects, and hold its ports. The real program
//! against a stand-in for an API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};

/// ConfigMaps, and as many claims.
const OBJECTS: usize = 2000;
/// Changes of each that a watch tells.
const CHANGES: usize = 200;
/// Bytes of annotations of each: as many as an object may have.
const ANNOTATIONS: usize = 250 * 1024;

/// Files that the test may hold beside its connections.
const OTHER_FILES: usize = 200;
/// How long a connection may take to be accepted: about half of the 30 s that a request's head may take.
const ACCEPTED: Duration = Duration::from_secs(16);

/// A stand-in for an API server: nothing but ConfigMaps, claims and a Lease.
struct Server {
    objects: usize,
    /// Watches of ConfigMaps and of claims that were begun.
    watches: [AtomicUsize; 2],
    lease: Mutex<Option<Value>>,
}

impl Server {
    /// Starts one, and gives its kubeconfig.
    async fn start(objects: usize, folder: &Path) -> Arc<Self> {
        let server = Arc::new(Self { objects, watches: [const { AtomicUsize::new(0) }; 2], lease: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "plumbline"}}]});
        std::fs::write(folder.join("kubeconfig"), config.to_string()).unwrap();
        server
    }

    /// Waits until the operator has read what the first watches of both told, which it has when it begins the next.
    async fn until_all_is_read(&self) {
        let start = Instant::now();
        while self.watches.iter().any(|watches| watches.load(Ordering::Relaxed) < 2) {
            assert!(start.elapsed() < Duration::from_mins(1), "the watches are not renewed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn object(name: usize) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": format!("x{name}"),
        "namespace": "tenant", "uid": format!("u{name}"), "resourceVersion": "2", "annotations": {"a": "A".repeat(ANNOTATIONS)}}})
}

async fn answer(State(server): State<Arc<Server>>, request: Request<Body>) -> Response {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let parameter = |name: &str| query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")).map(str::to_owned));
    if path.contains("/leases") {
        if *request.method() != Method::GET {
            let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
            let mut lease: Value = serde_json::from_slice(&body).unwrap();
            lease["metadata"]["resourceVersion"] = "1".into();
            *server.lease.lock().unwrap() = Some(lease);
        }
        let gone = || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""});
        return match server.lease.lock().unwrap().clone() {
            Some(lease) => lease.to_string().into_response(),
            None => (StatusCode::NOT_FOUND, gone().to_string()).into_response(),
        };
    }
    let tenant = ["configmaps", "persistentvolumeclaims"].iter().position(|of| path.ends_with(of));
    let watched = parameter("watch").is_some_and(|watch| watch != "false");
    if let (Some(of), true) = (tenant, watched) {
        let is_first = server.watches[of].fetch_add(1, Ordering::Relaxed) == 0;
        let changes = if is_first { CHANGES.min(server.objects) } else { 0 };
        let events = (0..changes).map(|i| {
            let event = json!({"type": "MODIFIED", "object": object(i)});
            Ok::<_, std::io::Error>(Bytes::from(format!("{event}\n")))
        });
        let events = futures::stream::iter(events);
        // The first ends when all is told; the next stays open.
        let rest = futures::stream::iter((!is_first).then_some(())).then(|()| std::future::pending());
        return Body::from_stream(events.chain(rest)).into_response();
    }
    if watched {
        return Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response();
    }
    let limit = parameter("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let from: usize = parameter("continue").map_or(0, |token| token.parse().unwrap());
    let all = tenant.map_or(0, |_| server.objects);
    let to = all.min(from.saturating_add(limit));
    let items: Vec<Value> = (from..to).map(object).collect();
    let more = if to < all { to.to_string() } else { String::new() };
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": "1", "continue": more}, "items": items})
    .to_string()
    .into_response()
}

/// A running operator, ended when it is dropped.
struct Operator {
    child: Child,
    people: SocketAddr,
    pods: SocketAddr,
}

impl Operator {
    /// Starts one on ports that the system chooses, which its log has.
    async fn start(folder: &Path) -> Self {
        let log = folder.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_plumbline"))
            .args(["operator", "--lease-namespace", "plumbline", "--progress-url", "http://operator.test"])
            .args(["--metrics-address", "127.0.0.1:0", "--progress-address", "127.0.0.1:0"])
            .env("KUBECONFIG", folder.join("kubeconfig"))
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // Dropped, it is ended, should it never listen.
        let mut operator = Self { child, people: nowhere, pods: nowhere };
        let start = Instant::now();
        loop {
            let told = std::fs::read_to_string(&log).unwrap();
            let address = |server: &str| {
                let line =
                    told.lines().find(|line| line.contains("listening") && line.contains(&format!("\"{server}\"")))?;
                let port = line.split_once("127.0.0.1:")?.1;
                port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            };
            if let (Some(people), Some(pods)) = (address("metrics"), address("progress")) {
                operator.people.set_port(people);
                operator.pods.set_port(pods);
                return operator;
            }
            assert!(start.elapsed() < Duration::from_mins(1), "it does not listen: {told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory that it has held, in kB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks whether it is well, and how long that takes.
    fn healthz(&self) -> Option<Duration> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.people).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then(|| start.elapsed())
    }

    async fn until_it_is_well(&self) {
        let start = Instant::now();
        while self.healthz().is_none() {
            assert!(start.elapsed() < Duration::from_mins(1), "it is not well");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn peak_with(objects: usize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(objects, folder.path()).await;
    let operator = Operator::start(folder.path()).await;
    operator.until_it_is_well().await;
    server.until_all_is_read().await;
    operator.peak()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_of_tenants_take_no_memory_of_the_operator() {
    let (without, with) = (peak_with(0).await, peak_with(OBJECTS).await);
    println!(
        "peak memory: {without} kB without, {with} kB with {OBJECTS} ConfigMaps and claims of {ANNOTATIONS} bytes"
    );
    assert!(with < without + 10 * 1024, "{without} kB without, {with} kB with");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_that_say_nothing_keep_no_probe_out() {
    // One end of each of two ports' connections, and whatever else the test holds.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum.map(|most| most.min(8192)).or(Some(8192)), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    let most = wanted.current.map_or(8192, |most| most as usize);
    let each = 2000.min(most.saturating_sub(OTHER_FILES) / 2);
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(0, folder.path()).await;
    let operator = Operator::start(folder.path()).await;
    operator.until_it_is_well().await;
    let mut open = Vec::new();
    for address in [operator.people, operator.pods] {
        for i in 0..each {
            // A server that takes no more leaves them waiting here, until it has closed those that say nothing.
            let mut stream = TcpStream::connect_timeout(&address, ACCEPTED).unwrap();
            match i % 3 {
                0 => {}
                1 => stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").unwrap(),
                _ => stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap(),
            }
            open.push(stream);
        }
        let took = operator.healthz().expect("/healthz answers");
        println!("/healthz with {} connections: {took:?}", open.len());
        assert!(took < Duration::from_secs(1), "{took:?} with {} connections", open.len());
    }
}
