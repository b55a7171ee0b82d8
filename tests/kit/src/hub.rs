//! A server for the part of the Hugging Face hub's protocol that fetching uses, over local directories, with faults.
//! Talks to sockets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use futures::{StreamExt, stream};
use plumbline_crds::artifact;
use serde_json::json;
use tokio::net::TcpListener;

/// A hub, which is stopped when the value is dropped.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    address: String,
    /// Runs the server.
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Default)]
struct Shared {
    /// Directories by `models/org/name` and `datasets/org/name`.
    repositories: BTreeMap<String, PathBuf>,
    /// Token that every request must have, if it is set.
    token: Option<String>,
    state: Mutex<HubState>,
}

/// The hub's faults, and the requests it got.
#[derive(Debug, Default)]
pub struct HubState {
    /// Number of next responses with a file that end in the middle.
    pub breaks: usize,
    /// Delay between the halves of a file.
    pub pause: Duration,
    /// Number of next responses that are 503.
    pub unavailable: usize,
    /// Whether branches and tags point to another commit, whose files do not exist.
    pub moved: bool,
    /// Requests so far: `revision NAME`, and `path` or `path from BYTE` for each file.
    pub asked: Vec<String>,
    /// Replacement for the content of weight files.
    pub altered: Option<Vec<u8>>,
}

/// The initial commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The commit of every branch and tag once it has moved.
const MOVED: &str = "fedcba9876543210fedcba9876543210fedcba98";

impl Hub {
    /// Starts a hub. `repositories`: `models/org/name` or `datasets/org/name`, with their directories.
    pub fn start(repositories: &[(&str, PathBuf)], token: Option<&str>) -> Self {
        let repositories = repositories.iter().map(|(name, folder)| ((*name).to_owned(), folder.clone())).collect();
        let shared = Arc::new(Shared { repositories, token: token.map(str::to_owned), ..Shared::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, address, _runtime: runtime }
    }

    /// Its address, for `HF_ENDPOINT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its state, to read and to change.
    pub fn state(&self) -> std::sync::MutexGuard<'_, HubState> {
        self.shared.state.lock().unwrap()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let bearer = request.headers().get("authorization").and_then(|v| v.to_str().ok());
    if shared.token.as_ref().is_some_and(|token| bearer != Some(&format!("Bearer {token}"))) {
        return plain(StatusCode::UNAUTHORIZED, "who are you?");
    }
    let mut state = shared.state.lock().unwrap();
    if state.unavailable > 0 {
        state.unavailable -= 1;
        return plain(StatusCode::SERVICE_UNAVAILABLE, "later");
    }
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let folder = |kind: &str, org: &str, name: &str| shared.repositories.get(&format!("{kind}/{org}/{name}"));
    match parts.as_slice() {
        ["api", kind, org, name, "revision", revision] => {
            let moved = state.moved && *revision != COMMIT;
            state.asked.push(format!("revision {revision}"));
            match folder(kind, org, name) {
                Some(folder) => plain(StatusCode::OK, &listing(folder, if moved { MOVED } else { COMMIT })),
                None => plain(StatusCode::NOT_FOUND, "no such repository"),
            }
        }
        ["datasets", org, name, "resolve", COMMIT, path @ ..] => {
            file(&mut state, folder("datasets", org, name), &path.join("/"), request.headers())
        }
        [org, name, "resolve", COMMIT, path @ ..] => {
            file(&mut state, folder("models", org, name), &path.join("/"), request.headers())
        }
        _ => plain(StatusCode::NOT_FOUND, "no such place"),
    }
}

fn listing(folder: &PathBuf, commit: &str) -> String {
    let files = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let digest = artifact::digest_path(&path).unwrap();
        // As on the hub, only large files have a digest.
        let lfs = path.extension().is_some_and(|e| e == "safetensors").then(|| json!({"sha256": &digest[7..]}));
        let size = fs::metadata(&path).unwrap().len();
        json!({"rfilename": path.file_name().unwrap().to_str().unwrap(), "size": size, "lfs": lfs})
    });
    json!({"sha": commit, "siblings": files.collect::<Vec<_>>()}).to_string()
}

fn file(state: &mut HubState, folder: Option<&PathBuf>, path: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(Ok(mut content)) = folder.map(|f| fs::read(f.join(path))) else {
        return plain(StatusCode::NOT_FOUND, "no such file");
    };
    if let Some(other) = state.altered.as_ref().filter(|_| path.ends_with(".safetensors")) {
        content.clone_from(other);
    }
    let from =
        headers.get("range").and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let start: usize = from.unwrap_or(0);
    state.asked.push(if start > 0 { format!("{path} from {start}") } else { path.to_owned() });
    if start >= content.len() && start > 0 {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE, "");
    }
    let mut response = Response::builder();
    if start > 0 {
        let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    }
    let rest = Bytes::from(content).slice(start..);
    let half = rest.slice(..rest.len() / 2);
    let body = if state.breaks > 0 {
        state.breaks -= 1;
        let cut = stream::once(async {
            // Lets the data be sent before the connection is closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(io::Error::other("the line is cut"))
        });
        Body::from_stream(stream::iter([Ok(half)]).chain(cut))
    } else if state.pause > Duration::ZERO {
        let (pause, other) = (state.pause, rest.slice(rest.len() / 2..));
        let later = stream::once(async move {
            tokio::time::sleep(pause).await;
            Ok::<_, io::Error>(other)
        });
        Body::from_stream(stream::iter([Ok(half)]).chain(later))
    } else {
        Body::from(rest)
    };
    response.body(body).unwrap()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    Response::builder().status(status).body(Body::from(text.to_owned())).unwrap()
}
