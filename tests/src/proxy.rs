//! Stands between the operator and the API server: sees every request, and can end the operator at a chosen one. Talks to
//! sockets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use kube::config::Kubeconfig;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::cluster::Cluster;

/// A proxy for one operator. It ends when the value is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    client: reqwest::Client,
    writes: Mutex<Vec<String>>,
    /// Answers to writes of these numbers (the first is 1) are never passed on.
    fatal: BTreeSet<usize>,
    died: Notify,
    dead: AtomicBool,
    /// Events of watches of this resource are held back.
    silenced: Option<String>,
}

impl Proxy {
    /// In front of the API server of a kubeconfig with a token. Each write whose number is in `fatal` is done, and its answer
    /// lost: [`Self::fatal_write`] ends then.
    pub async fn start(kubeconfig: &Path, fatal: BTreeSet<usize>, silenced: Option<&str>) -> Self {
        let mut config = Kubeconfig::read_from(kubeconfig).unwrap();
        let cluster = config.clusters[0].cluster.as_mut().unwrap();
        cluster.certificate_authority_data = None;
        let root = std::fs::read(Cluster::shared().folder().join("ca.crt")).unwrap();
        let root = reqwest::Certificate::from_pem(&root).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().unwrap();
        let upstream = cluster.server.take().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        cluster.server = Some(format!("http://{}", listener.local_addr().unwrap()));
        let file = tempfile::Builder::new().prefix("proxy-").suffix(".conf").tempfile().unwrap();
        let kubeconfig = file.keep().unwrap().1;
        std::fs::write(&kubeconfig, serde_yaml::to_string(&config).unwrap()).unwrap();
        let shared = Arc::new(Shared {
            upstream,
            client,
            writes: Mutex::new(Vec::new()),
            fatal,
            died: Notify::new(),
            dead: AtomicBool::new(false),
            silenced: silenced.map(str::to_owned),
        });
        let router = Router::new().fallback(forward).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, kubeconfig, server }
    }

    /// A kubeconfig that leads through this proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Waits for the next write whose answer is not passed on: whoever asked for it is to be ended now.
    pub async fn fatal_write(&self) {
        self.shared.died.notified().await;
    }

    /// Whoever asked was ended, and another one takes over.
    pub fn revive(&self) {
        self.shared.dead.store(false, Ordering::SeqCst);
    }

    /// Every write that was done so far, as `POST /path`.
    pub fn writes(&self) -> Vec<String> {
        self.shared.writes.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    // Nothing that a dead process has sent may be done any more.
    if shared.dead.load(Ordering::SeqCst) {
        return refused("the client is dead");
    }
    let watched = shared.silenced.as_ref().filter(|s| path.contains("watch=true") && path.contains(&format!("/{s}?")));
    if watched.is_some() {
        std::future::pending::<()>().await;
    }
    let body = to_bytes(body, 10_000_000).await.unwrap();
    let mut headers = parts.headers;
    headers.remove("host");
    let url = format!("{}{path}", shared.upstream);
    let sent = shared.client.request(parts.method.clone(), url).headers(headers).body(body).send().await;
    let Ok(answer) = sent else { return refused("the API server does not answer") };
    // A token review asks, and an event is a courtesy: neither changes what will be.
    let counts = !path.contains("/tokenreviews") && !path.contains("/events") && !path.contains("/leases");
    if parts.method != "GET" && counts && answer.status().is_success() {
        let number = {
            let mut writes = shared.writes.lock().unwrap();
            writes.push(format!("{} {}", parts.method, path.split('?').next().unwrap_or_default()));
            writes.len()
        };
        if shared.fatal.contains(&number) {
            shared.dead.store(true, Ordering::SeqCst);
            shared.died.notify_one();
            std::future::pending::<()>().await;
        }
    }
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" {
            response = response.header(name, value);
        }
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap()
}

fn refused(why: &str) -> Response<Body> {
    Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::from(why.to_owned())).unwrap()
}
