//! `judge-sim`: an OpenAI-compatible server with planted quality, biases and faults, on a local port.
//!
//! A response states its quality as `quality=<number>`. The judge reads it, the pipeline does not: so the quality and
//! biases that the pipeline measures can be compared with the planted ones. The log-odds of the first answer are
//!
//! - for two responses, `quality_weight * (quality of the first - quality of the second) + position_bias`;
//! - for one, `quality_weight * quality`;
//!
//! and `noise` is added to either.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A fault of one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A status with a body, and optionally a Retry-After header.
    Status(u16, &'static str, Option<&'static str>),
    /// Status 200 with a body that is not a completion: HTML, incomplete JSON.
    Body(&'static str),
    /// A completion with this text, without log-probabilities.
    Text(&'static str),
    /// The normal completion, truncated (`finish_reason: length`) before its first letter.
    Truncated,
    /// The normal completion without log-probabilities.
    NoLogProbs,
    /// The normal completion after this delay.
    Slow(Duration),
    /// A response computed from the request.
    Made(Make),
    /// A body without end.
    Endless,
    /// A body at ten bytes per second.
    Drip,
}

/// Computes a response: from the request, its `Authorization` header and the normal completion, a status and a body.
#[derive(Clone)]
pub struct Make(Arc<Making>);

type Making = dyn Fn(&Value, &str, Value) -> (u16, Vec<u8>) + Send + Sync;

impl std::fmt::Debug for Make {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Make")
    }
}

impl Fault {
    /// A response computed by the test.
    pub fn made(make: impl Fn(&Value, &str, Value) -> (u16, Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::Made(Make(Arc::new(make)))
    }

    /// The normal completion with a change.
    pub fn changed(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::made(move |_, _, mut completion| {
            change(&mut completion);
            (200, completion.to_string().into_bytes())
        })
    }
}

/// Chooses the fault of a request: from its number (from 0) and how often the same question was asked before.
pub type FaultPlan = Arc<dyn Fn(usize, usize) -> Option<Fault> + Send + Sync>;

/// Settings of a judge.
#[derive(Clone)]
pub struct Config {
    /// Log-odds per unit of quality.
    pub quality_weight: f64,
    /// Noise of the log-odds, from a hash of the question: uniform between minus and plus twice this value.
    pub noise: f64,
    /// Log-odds added to the response shown first.
    pub position_bias: f64,
    /// Total probability of the two answers.
    pub label_mass: f64,
    /// Key that requests must carry.
    pub api_key: Option<&'static str>,
    /// Delay of each response.
    pub latency: Duration,
    /// Whether responses without a quality are judged too, by a hash of their text.
    pub answers_all: bool,
    /// What goes wrong.
    pub faults: FaultPlan,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quality_weight: 1.0,
            noise: 0.0,
            position_bias: 0.0,
            label_mass: 0.9,
            api_key: None,
            latency: Duration::ZERO,
            answers_all: false,
            faults: Arc::new(|_, _| None),
        }
    }
}

impl Config {
    /// Adds faults.
    #[must_use]
    pub fn faults(mut self, plan: impl Fn(usize, usize) -> Option<Fault> + Send + Sync + 'static) -> Self {
        self.faults = Arc::new(plan);
        self
    }
}

/// A running judge, which is stopped when it is dropped.
pub struct JudgeSim {
    address: SocketAddr,
    url: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    config: Config,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// Time and question of each request.
    requests: Vec<(Instant, String)>,
    /// Number of responses sent per question, which a real server would charge for.
    bought: HashMap<String, usize>,
}

impl JudgeSim {
    /// Starts a judge on a free local port.
    ///
    /// # Panics
    /// If the machine has no free port or thread.
    pub fn start(config: Config) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), config)
    }

    /// Starts a judge on a given address, such as one that pods can reach, or that of an earlier judge.
    ///
    /// # Panics
    /// If the address is taken, or the machine has no free thread.
    #[allow(clippy::expect_used, reason = "a test kit without its server has nothing to test")]
    pub fn start_on(address: SocketAddr, config: Config) -> Self {
        let shared = Arc::new(Shared { config, log: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let address = listener.local_addr().expect("an address");
        let app = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/v1/completions", post(answer))
            .with_state(Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served.expect("a server"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, url: format!("http://{address}/v1"), shared, stop: Some(stop), thread: Some(thread) }
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL, including the version.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The questions received, in order, with their times. A question is the text of the last message.
    pub fn requests(&self) -> Vec<(Instant, String)> {
        self.shared.log().requests.clone()
    }

    /// How often each question was answered.
    pub fn bought(&self) -> HashMap<String, usize> {
        self.shared.log().bought.clone()
    }

    /// Number of responses sent.
    pub fn answered(&self) -> usize {
        self.shared.log().bought.values().sum()
    }
}

impl Drop for JudgeSim {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let config = &shared.config;
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if config.api_key.is_some_and(|key| given != format!("Bearer {key}")) {
        let given = given.trim_start_matches("Bearer ");
        let message = format!("Incorrect API key provided: {given}");
        return error(401, &json!({"error": {"message": message, "code": "invalid_api_key"}}).to_string(), None);
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return error(400, r#"{"error": {"message": "not JSON"}}"#, None);
    };
    let question = question_of(&request);
    let (number, asked_before) = {
        let mut log = shared.log();
        let before = log.requests.iter().filter(|(_, q)| *q == question).count();
        log.requests.push((Instant::now(), question.clone()));
        (log.requests.len() - 1, before)
    };
    tokio::time::sleep(config.latency).await;
    let fault = (config.faults)(number, asked_before);
    let completion = match fault {
        Some(Fault::Status(status, body, retry_after)) => return error(status, body, retry_after),
        Some(Fault::Body(body)) => return (StatusCode::OK, body).into_response(),
        Some(Fault::Text(text)) => completion(&request, text, "stop", None),
        Some(Fault::Truncated) => completion(&request, "", "length", None),
        Some(Fault::NoLogProbs) => true_completion(config, &request, &question, false),
        Some(Fault::Slow(wait)) => {
            tokio::time::sleep(wait).await;
            true_completion(config, &request, &question, true)
        }
        Some(Fault::Endless) => {
            let piece = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; 1 << 13]));
            return Body::from_stream(futures::stream::repeat_with(piece)).into_response();
        }
        Some(Fault::Drip) => {
            let piece = |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")), ()))
            };
            return Body::from_stream(futures::stream::unfold((), piece)).into_response();
        }
        Some(Fault::Made(make)) => {
            let (status, body) = make.0(&request, given, true_completion(config, &request, &question, true));
            if status == 200 {
                *shared.log().bought.entry(question).or_default() += 1;
            }
            return (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body).into_response();
        }
        None => true_completion(config, &request, &question, true),
    };
    *shared.log().bought.entry(question).or_default() += 1;
    axum::Json(completion).into_response()
}

fn error(status: u16, body: &str, retry_after: Option<&str>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body.to_owned()).into_response();
    if let Some(value) = retry_after.and_then(|v| v.parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn question_of(request: &Value) -> String {
    let last = request["messages"].as_array().and_then(|m| m.last()).map(|m| &m["content"]);
    last.unwrap_or(&request["prompt"]).as_str().unwrap_or_default().to_owned()
}

fn true_completion(config: &Config, request: &Value, question: &str, logprobs: bool) -> Value {
    let qualities: Vec<f64> = question
        .split("quality=")
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || ".-".contains(c))).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
        .collect();
    let noise = config.noise * arbitrary(question);
    let (log_odds, answers) = match qualities.as_slice() {
        [first, second] => (config.quality_weight * (first - second) + config.position_bias + noise, ["A", "B"]),
        [only] => (config.quality_weight * only + noise, ["yes", "no"]),
        _ if config.answers_all => (arbitrary_of_two(question), ["A", "B"]),
        _ => return completion(request, "There is nothing here to judge.", "stop", None),
    };
    let p = 1.0 / (1.0 + (-log_odds).exp());
    let wanted = if request["logprobs"].is_null() || !logprobs { None } else { Some(config.label_mass) };
    let tops = wanted.map(|mass| [(answers[0], mass * p), (answers[1], mass * (1.0 - p)), ("The", 1.0 - mass)]);
    completion(request, answers[usize::from(p < 0.5)], "stop", tops.as_ref())
}

/// Log-odds between -4 and 4 that depend on the two responses and not on their order, as enclosed in the built-in
/// questions; for a question in another form, on its text.
fn arbitrary_of_two(question: &str) -> f64 {
    let response = |name: &str| {
        let (_, rest) = question.split_once(&format!("_{name} "))?;
        let (_, rest) = rest.split_once(">\n")?;
        rest.split_once("\n</").map(|(text, _)| text)
    };
    match (response("A"), response("B")) {
        (Some(a), Some(b)) => arbitrary(a) - arbitrary(b),
        _ => arbitrary(question),
    }
}

/// A number between -2 and 2 that depends on the text only.
fn arbitrary(text: &str) -> f64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    4.0 * (hash >> 11) as f64 / (1_u64 << 53) as f64 - 2.0
}

fn completion(request: &Value, text: &str, finish: &str, tops: Option<&[(&str, f64); 3]>) -> Value {
    let usage = json!({"prompt_tokens": question_of(request).len() / 4, "completion_tokens": 1});
    let choice = if request["messages"].is_array() {
        let logprobs = tops.map(|tops| {
            let listed = tops.map(|(token, p)| json!({"token": token, "logprob": p.ln()}));
            json!({"content": [{"token": text, "logprob": 0.0, "top_logprobs": listed}]})
        });
        json!({"index": 0, "finish_reason": finish, "logprobs": logprobs,
            "message": {"role": "assistant", "content": text}})
    } else {
        let logprobs = tops.map(|tops| {
            let listed: serde_json::Map<String, Value> =
                tops.iter().map(|(token, p)| ((*token).to_owned(), p.ln().into())).collect();
            json!({"tokens": [text], "token_logprobs": [0.0], "top_logprobs": [listed]})
        });
        json!({"index": 0, "finish_reason": finish, "logprobs": logprobs, "text": text})
    };
    json!({"id": "sim", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice],
        "usage": usage})
}
