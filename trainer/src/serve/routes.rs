//! The routes of the server. Talks HTTP; `plan` interprets requests, and `protocol` formats replies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::civil::DateTime;
use plumbline_feedback::clock;
use plumbline_feedback::protocol::ApiError;
use plumbline_feedback::protocol::response::{Api, Writer};
use plumbline_feedback::protocol::update::Update;
use plumbline_feedback::text::tokenizer::Tokenizer;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::body::Reading;
use super::listen::{Patience, Place};
use super::metrics::Metrics;
use super::model::Shape;
use super::plan::{self, Asked, Bounds, Plan};
use super::replies::{self, Pending};
use super::scheduler::{Message, Work};
use crate::generate::engine::Job;

/// Maximum memory of the prompts and replies of all requests together, in bytes.
const MOST_MEMORY: usize = 512 << 20;
/// Granularity of memory reservations, in bytes.
const UNIT: usize = 1 << 10;
/// Identifies this build in `system_fingerprint`.
const FINGERPRINT: &str = concat!("plumbline-", env!("CARGO_PKG_VERSION"));
/// Status in metrics for a client that disconnected before its reply was ready, as in nginx.
const CLIENT_LEFT: u16 = 499;

/// The state that handlers share.
pub struct App {
    /// The model's name.
    pub name: String,
    /// Set once the model is loaded.
    pub ready: OnceLock<Ready>,
    /// Counters.
    pub metrics: Metrics,
    work: Sender<Message>,
    places: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    reading: Reading,
    capacity: usize,
    started: u64,
    replies: AtomicU64,
}

/// The handlers' view of the model.
#[derive(Clone)]
pub struct Ready {
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its limits.
    pub shape: Shape,
}

impl App {
    /// A server of the model `name` that sends its work to a scheduler, with at most `capacity` sequences at a time.
    /// `patience`: timeouts for clients.
    pub fn new(name: String, capacity: usize, patience: Patience, metrics: Metrics, work: Sender<Message>) -> Self {
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        Self {
            name,
            ready: OnceLock::new(),
            metrics,
            work,
            places: Arc::new(Semaphore::new(capacity)),
            memory: Arc::new(Semaphore::new(MOST_MEMORY / UNIT)),
            reading: Reading::new(patience.body),
            capacity,
            started: seconds(),
            replies: AtomicU64::new(0),
        }
    }

    fn ready(&self) -> Result<Ready, ApiError> {
        self.ready.get().cloned().ok_or_else(ApiError::loading)
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{:x}-{:x}", self.started, self.replies.fetch_add(1, Ordering::Relaxed))
    }
}

/// The server's routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Result<Json<serde_json::Value>, Rejection> {
    app.ready()?;
    Ok(Json(json!({"status": "ok"})))
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Rejection> {
    let text = app.metrics.text().map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn models(State(app): State<Arc<App>>) -> Result<Json<serde_json::Value>, Rejection> {
    Ok(Json(json!({"object": "list", "data": [described(&app, app.ready()?.shape)]})))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<serde_json::Value>, Rejection> {
    if name != app.name {
        return Err(ApiError::model_not_found(&name, &app.name).into());
    }
    Ok(Json(described(&app, app.ready()?.shape)))
}

/// The description of the model. `max_model_len` is vLLM's name for the context length.
fn described(app: &App, shape: Shape) -> serde_json::Value {
    json!({
        "id": app.name, "object": "model", "created": app.started, "owned_by": "plumbline",
        "max_model_len": shape.context,
    })
}

async fn completions(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Place>,
    body: Body,
) -> Result<Response, Rejection> {
    Ok(answer(&app, Api::Completions, &place, clock::wall(), body).await?)
}

async fn chat(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    Ok(answer(&app, Api::Chat, &place, time(&headers)?, body).await?)
}

/// The time of the client's run, or the current time.
fn time(headers: &HeaderMap) -> Result<DateTime, ApiError> {
    let Some(value) = headers.get(clock::HEADER) else { return Ok(clock::wall()) };
    value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let message = format!("the header `{}` must be a time such as 2026-02-03T04:05:06", clock::HEADER);
        ApiError::invalid(clock::HEADER, message)
    })
}

async fn answer(app: &Arc<App>, api: Api, place: &Place, now: DateTime, body: Body) -> Result<Response, ApiError> {
    let (route, prefix) = match api {
        Api::Completions => (COMPLETIONS, "cmpl"),
        Api::Chat => (CHAT, "chatcmpl"),
    };
    let timer = app.metrics.timer(route);
    let body = app.reading.receive(body).await?;
    place.answering();
    let ready = app.ready()?;
    let tokenizer = Arc::clone(&ready.tokenizer);
    let name = app.name.clone();
    let bounds = Bounds { shape: ready.shape, sequences: app.capacity, memory: MOST_MEMORY };
    let turn = app.reading.turn(body.bytes.len()).await?;
    // Tokenising a long prompt takes long enough to block other connections. It continues even if the client
    // disconnects, and holds its permit until it ends.
    let plan = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        plan::plan(Asked { api, body: &body.bytes, now }, &name, &ready.tokenizer, bounds)
    })
    .await
    .map_err(|e| ApiError::internal(format!("the request could not be read: {e}")))??;
    let Plan { jobs, params, prompt_tokens, memory } = plan;
    let memory = reserve(app, memory)?;
    let sequences = jobs.len();
    let writer = Writer {
        api,
        id: app.id(prefix),
        created: seconds(),
        model: app.name.clone(),
        fingerprint: FINGERPRINT,
        logprobs: params.logprobs,
        include_usage: params.include_usage,
        tokenizer,
    };
    let updates = submit(app, jobs, params.sampling.stop.into(), params.logprobs.is_some())?;
    let pending = Pending { updates, writer, sequences, prompt_tokens, timer, memory };
    if params.stream {
        return Ok(Sse::new(replies::events(pending)).keep_alive(KeepAlive::default()).into_response());
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], replies::whole(pending).await?).into_response())
}

/// Reserves memory for a request, or rejects the request if there is not enough.
fn reserve(app: &App, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(&app.memory)
        .try_acquire_many_owned(bytes.div_ceil(UNIT) as u32)
        .map_err(|_| ApiError::out_of_memory(MOST_MEMORY >> 20))
}

/// Queues the jobs of a request, or rejects them if the queue is full.
fn submit(
    app: &App,
    jobs: Vec<Job>,
    stop: Arc<[String]>,
    tokens_wanted: bool,
) -> Result<mpsc::UnboundedReceiver<crate::Result<Update>>, ApiError> {
    let permit = Arc::clone(&app.places)
        .try_acquire_many_owned(jobs.len() as u32)
        .map_err(|_| ApiError::overloaded(app.capacity))?;
    let (reply, updates) = mpsc::unbounded_channel();
    let work = Work { jobs, stop, tokens_wanted, reply, permit, queued: Instant::now() };
    app.work
        .send(Message::Work(work))
        .map_err(|_| ApiError::internal("the model failed; the server is shutting down"))?;
    Ok(updates)
}

async fn no_route(method: Method, uri: Uri) -> Rejection {
    ApiError::no_route(method.as_str(), uri.path()).into()
}

async fn wrong_method(method: Method, uri: Uri) -> Rejection {
    ApiError::wrong_method(method.as_str(), uri.path()).into()
}

/// An error as a response.
struct Rejection(ApiError);

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(json!({"error": error.body}))).into_response();
        if let Some(seconds) = error.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// The value of the label `route`, from a closed list.
fn route(path: &str) -> &'static str {
    match path {
        "/health" => "/health",
        "/metrics" => "/metrics",
        COMPLETIONS => COMPLETIONS,
        CHAT => CHAT,
        _ if path == "/v1/models" || path.starts_with("/v1/models/") => "/v1/models",
        _ => "other",
    }
}

/// Counts each request once: with its status, or as abandoned if the reply is dropped unfinished.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut counted = Counted { route: route(request.uri().path()), app, code: CLIENT_LEFT };
    let response = next.run(request).await;
    counted.code = response.status().as_u16();
    response
}

struct Counted {
    app: Arc<App>,
    route: &'static str,
    code: u16,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.app.metrics.request(self.route, self.code);
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
