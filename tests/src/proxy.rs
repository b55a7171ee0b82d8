//! Stands between the operator and the API server: sees every request, and can end the operator at a chosen one. Talks to
//! sockets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
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
    fault: Option<Fault>,
    /// What has met its conflict.
    disputed: Mutex<BTreeSet<String>>,
}

/// What is made of the operator on its way: a fault that it could have, planted to see that tests find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It hears nothing of this resource: no event of a watch arrives. This one it has to live with.
    Unobserved(&'static str),
    /// Its first change of each Job and of each status meets a conflict, and is not done. This one, too, it has to live with.
    Conflicts,
    /// It gives its Jobs names that it does not find again.
    RandomNames,
    /// It lets a Job vanish as soon as it is finished, before it has written down how it ended.
    ForgottenResult,
    /// It takes statuses for written that are not.
    LostStatus,
}

impl Fault {
    fn bend(&self, method: &Method, path: &str, body: &mut Value) {
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
            Self::Unobserved(_) | Self::Conflicts | Self::LostStatus => {}
        }
    }
}

impl Proxy {
    /// In front of the API server of a kubeconfig with a token. Each write whose number is in `fatal` is done, and its answer
    /// lost: [`Self::fatal_write`] ends then.
    pub async fn start(kubeconfig: &Path, fatal: BTreeSet<usize>, fault: Option<Fault>) -> Self {
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
            fault,
            disputed: Mutex::default(),
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
    if let Some(Fault::Unobserved(resource)) = shared.fault
        && path.contains("watch=true")
        && path.contains(&format!("/{resource}?"))
    {
        std::future::pending::<()>().await;
    }
    let mut body = to_bytes(body, 10_000_000).await.unwrap();
    if shared.fault == Some(Fault::LostStatus) && path.contains("/status?") {
        return Response::new(Body::from(body));
    }
    if shared.fault == Some(Fault::Conflicts) && parts.method == Method::PATCH {
        let what = path.split('?').next().unwrap_or_default().to_owned();
        let first =
            (what.contains("/jobs/") || what.ends_with("/status")) && shared.disputed.lock().unwrap().insert(what);
        if first {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "message": "changed meanwhile", "code": 409});
            return Response::builder().status(StatusCode::CONFLICT).body(Body::from(status.to_string())).unwrap();
        }
    }
    if let Some(fault) = &shared.fault
        && let Ok(mut object) = serde_json::from_slice(&body)
    {
        fault.bend(&parts.method, &path, &mut object);
        body = object.to_string().into();
    }
    let mut headers = parts.headers;
    headers.remove("host");
    headers.remove("content-length");
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
