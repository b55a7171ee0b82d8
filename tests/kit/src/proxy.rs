//! A proxy between the operator and the API server: it records every request, injects faults, and tells the test when
//! to kill the operator. Talks to sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use kube::config::Kubeconfig;
use plumbline_operator::cluster::controller::PAGE;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::cluster::Cluster;

/// Delay of events from an API server that lags behind.
const LATE: Duration = Duration::from_secs(3);

/// A proxy for one operator, which is stopped when the value is dropped.
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
    /// Numbers of the writes (from 1) whose responses are withheld.
    kill_after: BTreeSet<usize>,
    kill_requested: Notify,
    /// Set while the client is being killed: its requests are not forwarded.
    blocked: AtomicBool,
    fault: Option<Fault>,
    /// Objects whose first change got a conflict.
    conflicted: Mutex<BTreeSet<String>>,
    restarted: AtomicBool,
    stale_lists: Mutex<BTreeSet<String>>,
    /// The first response to each list that a watch starts from, by path.
    first_lists: Mutex<BTreeMap<String, (HeaderMap, Bytes)>>,
}

/// A fault that is injected into requests or responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Watch events of this resource are dropped. The operator has to tolerate it.
    Unobserved(&'static str),
    /// The first change of each Job and of each status gets a conflict, and is not made. The operator has to tolerate
    /// it.
    Conflicts,
    /// After a restart, the lists that watches start from are those of the first start, and events are delayed, as with
    /// an API server that lags behind. The operator has to tolerate it.
    Stale,
    /// A planted defect, which tests must detect: Jobs get names that the operator does not find again.
    RandomNames,
    /// A planted defect: a Job is deleted as soon as it is finished, before its result is recorded.
    ForgottenResult,
    /// A planted defect: writes of statuses are confirmed, but not made.
    LostStatus,
}

impl Fault {
    fn alter(&self, method: &Method, path: &str, body: &mut Value) {
        if *method != Method::POST || !path.contains("/jobs") {
            return;
        }
        match self {
            Self::RandomNames => {
                let tail = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
                body["metadata"]["name"] =
                    json!(format!("{}-{tail}", &body["metadata"]["name"].as_str().unwrap()[..20]));
            }
            Self::ForgottenResult => body["spec"]["ttlSecondsAfterFinished"] = json!(0),
            Self::Unobserved(_) | Self::Conflicts | Self::Stale | Self::LostStatus => {}
        }
    }
}

impl Proxy {
    /// Starts a proxy in front of the API server of a kubeconfig with a token. Each write whose number is in
    /// `kill_after` is made, but its response is withheld; then [`Self::kill_requested`] returns.
    pub async fn start(kubeconfig: &Path, kill_after: BTreeSet<usize>, fault: Option<Fault>) -> Self {
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
            kill_after,
            kill_requested: Notify::new(),
            blocked: AtomicBool::new(false),
            fault,
            conflicted: Mutex::default(),
            restarted: AtomicBool::new(false),
            stale_lists: Mutex::default(),
            first_lists: Mutex::default(),
        });
        let router = Router::new().fallback(forward).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, kubeconfig, server }
    }

    /// A kubeconfig that points to this proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Waits for the next write whose response is withheld: the test must now kill the client.
    pub async fn kill_requested(&self) {
        self.shared.kill_requested.notified().await;
    }

    /// Forwards requests again, after the client was killed and before it restarts.
    pub fn accept_restarted(&self) {
        self.shared.restarted.store(true, Ordering::SeqCst);
        self.shared.blocked.store(false, Ordering::SeqCst);
    }

    /// The resources whose lists got a response from before a restart.
    pub fn stale_lists(&self) -> BTreeSet<String> {
        self.shared.stale_lists.lock().unwrap().clone()
    }

    /// The writes so far, as `POST /path`.
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
    // A killed process must not change anything.
    if shared.blocked.load(Ordering::SeqCst) {
        return refused("the client is being killed");
    }
    if let Some(Fault::Unobserved(resource)) = shared.fault
        && path.contains("watch=true")
        && path.contains(&format!("/{resource}?"))
    {
        std::future::pending::<()>().await;
    }
    // A page of a list of resources, or the list that a watch starts from.
    let limits = [PAGE, 1].map(|limit| format!("limit={limit}"));
    let is_list = parts.uri.query().is_some_and(|q| q.split('&').any(|p| limits.iter().any(|limit| limit == p)));
    let begins_watch = shared.fault == Some(Fault::Stale) && is_list && !path.contains("watch=true");
    if shared.fault == Some(Fault::Stale) && shared.restarted.load(Ordering::SeqCst) {
        let first = shared.first_lists.lock().unwrap().get(&path).cloned();
        if let Some((headers, body)) = first.filter(|_| begins_watch) {
            let resource = parts.uri.path().rsplit('/').next().unwrap_or_default();
            shared.stale_lists.lock().unwrap().insert(resource.to_owned());
            return response(StatusCode::OK, &headers, Body::from(body));
        }
        if path.contains("watch=true") {
            tokio::time::sleep(LATE).await;
        }
    }
    let mut body = to_bytes(body, 10_000_000).await.unwrap();
    if shared.fault == Some(Fault::LostStatus) && path.contains("/status?") {
        return Response::new(Body::from(body));
    }
    if shared.fault == Some(Fault::Conflicts) && parts.method == Method::PATCH {
        let what = path.split('?').next().unwrap_or_default().to_owned();
        let first =
            (what.contains("/jobs/") || what.ends_with("/status")) && shared.conflicted.lock().unwrap().insert(what);
        if first {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "message": "changed meanwhile", "code": 409});
            return Response::builder().status(StatusCode::CONFLICT).body(Body::from(status.to_string())).unwrap();
        }
    }
    if let Some(fault) = &shared.fault
        && let Ok(mut object) = serde_json::from_slice(&body)
    {
        fault.alter(&parts.method, &path, &mut object);
        body = object.to_string().into();
    }
    let mut headers = parts.headers;
    headers.remove("host");
    headers.remove("content-length");
    let url = format!("{}{path}", shared.upstream);
    let sent = shared.client.request(parts.method.clone(), url).headers(headers).body(body).send().await;
    let Ok(answer) = sent else { return refused("the API server does not answer") };
    // Token reviews and events do not affect the operator's later state.
    let counts = !path.contains("/tokenreviews") && !path.contains("/events") && !path.contains("/leases");
    if parts.method != "GET" && counts && answer.status().is_success() {
        let number = {
            let mut writes = shared.writes.lock().unwrap();
            writes.push(format!("{} {}", parts.method, path.split('?').next().unwrap_or_default()));
            writes.len()
        };
        if shared.kill_after.contains(&number) {
            shared.blocked.store(true, Ordering::SeqCst);
            shared.kill_requested.notify_one();
            std::future::pending::<()>().await;
        }
    }
    let (status, headers) = (answer.status(), answer.headers().clone());
    if begins_watch && status.is_success() {
        let Ok(body) = answer.bytes().await else { return refused("the API server does not answer") };
        shared.first_lists.lock().unwrap().entry(path).or_insert_with(|| (headers.clone(), body.clone()));
        return response(status, &headers, Body::from(body));
    }
    response(status, &headers, Body::from_stream(answer.bytes_stream()))
}

fn response(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers.clone();
    response.headers_mut().remove("transfer-encoding");
    response
}

fn refused(why: &str) -> Response<Body> {
    Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::from(why.to_owned())).unwrap()
}
