//! A scripted model and a server of it. A token is a byte, 256 ends a response, 257 has no text. The response to the
//! prompt `say:TEXT` is TEXT; to `key:` the job's key; to `forever` it has no end; on `fail` the model breaks down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::text::tokenizer::Tokenizer;
use plumbline_feedback::{Error, Result};
use plumbline_trainer::generate::engine::{Event, Job, JobId, Stats};
use plumbline_trainer::serve::listen::Patience;
use plumbline_trainer::serve::model::{Loaded, Sample, Shape};
use plumbline_trainer::serve::server::{Options, serve};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fixture::model_folder;

pub(crate) const CONTEXT: usize = 4096;
pub(crate) const END: i64 = 256;

/// What happened inside of the model.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Sequences in each step.
    pub(crate) batches: Vec<usize>,
    /// Jobs cancelled.
    pub(crate) cancelled: usize,
    /// Jobs that are not done.
    pub(crate) open: usize,
}

/// The model.
pub(crate) struct Scripted {
    /// Seconds of a step.
    pace: Duration,
    log: Arc<Mutex<Log>>,
    jobs: Vec<(JobId, Job, VecDeque<i64>)>,
    stats: Stats,
    next: JobId,
}

impl Scripted {
    pub(crate) fn new(pace: Duration, log: Arc<Mutex<Log>>) -> Self {
        Self { pace, log, jobs: Vec::new(), stats: Stats::default(), next: 0 }
    }
}

impl Sample for Scripted {
    fn submit(&mut self, job: Job) -> Result<JobId> {
        let prompt = text(&job.tokens);
        let mut reply: VecDeque<i64> = match prompt.split_once(':') {
            Some(("say", text)) => text.chars().map(|c| i64::from(u32::from(c))).collect(),
            Some(("key", _)) => format!("{:x}", job.key).bytes().map(i64::from).collect(),
            _ if prompt == "forever" => std::iter::repeat_n(i64::from(b'.'), CONTEXT).collect(),
            _ if prompt == "refuse" => return Err(Error::Failed("the script refuses this job".into())),
            _ => VecDeque::new(),
        };
        reply.push_back(END);
        self.next += 1;
        self.stats.prompt_tokens += job.tokens.len() as u64;
        self.jobs.push((self.next, job, reply));
        self.log.lock().unwrap().open = self.jobs.len();
        Ok(self.next)
    }

    fn cancel(&mut self, job: JobId) {
        let before = self.jobs.len();
        self.jobs.retain(|(id, ..)| *id != job);
        let mut log = self.log.lock().unwrap();
        log.cancelled += before - self.jobs.len();
        log.open = self.jobs.len();
    }

    fn step(&mut self) -> Result<Vec<Event>> {
        std::thread::sleep(self.pace);
        let mut events = Vec::new();
        for (id, job, reply) in &mut self.jobs {
            if text(&job.tokens) == "fail" {
                return Err(Error::Failed("the script fails here".into()));
            }
            job.sampling.max_new_tokens -= 1;
            let token = reply.pop_front().unwrap_or(END);
            let finish = match token {
                END => Some(Finish::Eos),
                _ if job.sampling.max_new_tokens == 0 => Some(Finish::Length),
                _ => None,
            };
            let others = [(token, -0.5), (i64::from(b'#'), -1.5), (257, f32::NEG_INFINITY)];
            let top = others.into_iter().take(job.top_logprobs).collect();
            events.push(Event { job: *id, token, logprob: -0.5, top, finish });
        }
        for event in events.iter().filter(|e| e.finish.is_some()) {
            self.jobs.retain(|(id, ..)| *id != event.job);
        }
        self.stats.sampled_tokens += events.len() as u64;
        let mut log = self.log.lock().unwrap();
        log.batches.push(events.len());
        log.open = self.jobs.len();
        Ok(events)
    }

    fn idle(&self) -> bool {
        self.jobs.is_empty()
    }

    fn stats(&self) -> Stats {
        Stats { active: self.jobs.len(), ..self.stats }
    }
}

fn text(tokens: &[i64]) -> String {
    tokens.iter().filter_map(|t| u8::try_from(*t).ok()).map(char::from).collect()
}

/// The byte-level tokenizer of the model.
pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::load(model_folder().path()).unwrap()
}

/// A body with further fields.
pub(crate) fn merged(mut body: Value, more: Value) -> Value {
    let (Some(fields), Value::Object(more)) = (body.as_object_mut(), more) else { panic!("two objects") };
    fields.extend(more);
    body
}

/// How a test's server is set up.
pub(crate) struct Setup {
    /// Time of a step.
    pub(crate) pace: Duration,
    pub(crate) capacity: usize,
    pub(crate) drain: Duration,
    pub(crate) patience: Patience,
    /// The model is loaded when this is dropped or sent to.
    pub(crate) load: Option<std::sync::mpsc::Receiver<()>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            pace: Duration::ZERO,
            capacity: 64,
            drain: Duration::from_secs(10),
            patience: Patience::default(),
            load: None,
        }
    }
}

/// A server that listens.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) client: reqwest::Client,
    pub(crate) ready: oneshot::Receiver<()>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Server {
    /// Starts a server of the model `m`.
    pub(crate) async fn start(setup: Setup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Log::default()));
        let sampler_log = Arc::clone(&log);
        let (stop, stopped) = oneshot::channel();
        let (say_ready, ready) = oneshot::channel();
        let load = move || {
            if let Some(load) = setup.load {
                let _ = load.recv();
            }
            let shape = Shape { context: CONTEXT, vocabulary: 258, longest_token: 9 };
            Ok(Loaded { sampler: Scripted::new(setup.pace, sampler_log), tokenizer: Arc::new(tokenizer()), shape })
        };
        let on_ready = move |_| {
            let _ = say_ready.send(());
            Ok(())
        };
        let Setup { capacity, drain, patience, .. } = setup;
        let options = Options { name: "m".into(), capacity, drain, patience };
        let task = tokio::spawn(serve(listener, options, load, on_ready, async { drop(stopped.await) }));
        Self { url, log, client: reqwest::Client::new(), ready, stop, task }
    }

    /// Starts a server whose model is loaded.
    pub(crate) async fn ready(setup: Setup) -> Self {
        let mut server = Self::start(setup).await;
        (&mut server.ready).await.unwrap();
        server
    }

    /// Posts a body.
    pub(crate) async fn post(&self, path: &str, body: Value) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap()
    }

    /// The JSON of an answer with status 200.
    pub(crate) async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let body = response.text().await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The `data` of a streamed answer's events.
    pub(crate) async fn events(&self, path: &str, body: Value) -> Vec<String> {
        let response = self.post(path, body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.text().await.unwrap();
        body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// Waits until the model's log says so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Log) -> bool) {
        for _ in 0..2000 {
            if holds(&self.log.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}: {:?}", self.log.lock().unwrap());
    }

    /// Tells the server to stop, and waits for its end.
    pub(crate) async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// Tells the server to stop.
    pub(crate) fn begin_stop(self) -> (JoinHandle<Result<()>>, Arc<Mutex<Log>>) {
        let _ = self.stop.send(());
        (self.task, self.log)
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn ended(self) -> Result<()> {
        let Self { task, stop, .. } = self;
        let result = task.await.unwrap();
        drop(stop);
        result
    }
}
