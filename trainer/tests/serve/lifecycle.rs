//! How the server shares the model, refuses, gives up work and ends.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures::future::join_all;
use plumbline_crds::source::Sampling;
use plumbline_feedback::Result;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::protocol::update::Update;
use plumbline_trainer::generate::engine::Job;
use plumbline_trainer::serve::metrics::Metrics;
use plumbline_trainer::serve::scheduler::{self, Message, Work};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::script::{Scripted, Server, Setup, merged, tokenizer};

const COMPLETIONS: &str = "/v1/completions";
const STEP: Duration = Duration::from_millis(5);

fn forever(more: Value) -> Value {
    merged(json!({"model": "m", "prompt": "forever", "max_tokens": 4000}), more)
}

fn say(text: &str) -> Value {
    json!({"model": "m", "prompt": format!("say:{text}"), "max_tokens": 1000})
}

#[tokio::test]
async fn while_the_model_loads_requests_are_told_to_come_back() {
    let (load, loading) = mpsc::channel();
    let mut server = Server::start(Setup { load: Some(loading), ..Setup::default() }).await;
    assert_eq!(server.get("/health").await.status(), 503);
    let response = server.post(COMPLETIONS, say("x")).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "model_loading");
    assert!(server.ready.try_recv().is_err(), "not ready yet");
    drop(load);
    (&mut server.ready).await.unwrap();
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.ask(COMPLETIONS, say("x")).await["choices"][0]["text"], "x");
}

#[tokio::test]
async fn requests_that_overlap_share_batches() {
    let server = Server::ready(Setup { pace: STEP, ..Setup::default() }).await;
    let text = "x".repeat(49);
    let replies = join_all((0..8).map(|_| server.ask(COMPLETIONS, say(&text)))).await;
    assert!(replies.iter().all(|r| r["choices"][0]["text"] == text.as_str()));
    let log = server.log.lock().unwrap();
    assert_eq!(log.batches.iter().sum::<usize>(), 8 * 50);
    assert_eq!(log.batches.iter().max(), Some(&8));
    assert!(log.batches.len() < 100, "one after the other would take 400 steps, took {}", log.batches.len());
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_model() {
    let server = Server::ready(Setup { pace: STEP, ..Setup::default() }).await;
    let mut streamed = server.post(COMPLETIONS, forever(json!({"stream": true, "n": 2}))).await;
    assert!(streamed.chunk().await.unwrap().is_some(), "it has begun");
    drop(streamed);
    server.until("both samples of the stream are cancelled", |log| log.cancelled == 2 && log.open == 0).await;

    let whole = server.post(COMPLETIONS, forever(json!({})));
    assert!(tokio::time::timeout(Duration::from_millis(200), whole).await.is_err(), "it has no end");
    server.until("the whole reply is cancelled", |log| log.cancelled == 3 && log.open == 0).await;
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let left = r#"plumbline_serve_requests_total{code="499",route="/v1/completions"} 1"#;
    assert!(metrics.lines().any(|l| l == left), "{metrics}");
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let server = Server::ready(Setup { pace: STEP, capacity: 3, ..Setup::default() }).await;
    let held = server.post(COMPLETIONS, forever(json!({"stream": true, "n": 3}))).await;
    let refused = server.post(COMPLETIONS, say("x")).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let error: Value = refused.json().await.unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["type"]), (&json!("queue_full"), &json!("overloaded_error")));
    server.until("all places are taken", |log| log.open == 3).await;
    drop(held);
    server.until("the places are free", |log| log.open == 0).await;
    assert_eq!(server.ask(COMPLETIONS, say("x")).await["choices"][0]["text"], "x");
}

#[tokio::test]
async fn a_job_the_model_refuses_fails_alone() {
    let server = Server::ready(Setup::default()).await;
    let response = server.post(COMPLETIONS, json!({"model": "m", "prompt": ["say:a", "refuse"]})).await;
    assert_eq!(response.status(), 500);
    assert!(response.text().await.unwrap().contains("refuses this job"));
    assert_eq!(server.ask(COMPLETIONS, say("x")).await["choices"][0]["text"], "x");
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_runs_and_takes_nothing_new() {
    let server = Server::ready(Setup { pace: STEP, ..Setup::default() }).await;
    let (url, client) = (server.url.clone(), server.client.clone());
    let running = client.post(format!("{url}{COMPLETIONS}")).json(&say(&"x".repeat(60))).send();
    let running = tokio::spawn(running);
    server.until("it runs", |log| log.open == 1).await;
    let (ended, _) = server.begin_stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let new = reqwest::Client::new().post(format!("{url}{COMPLETIONS}")).json(&say("y")).send().await;
    assert!(new.is_err(), "a new connection is not accepted");
    let reply: Value = running.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(reply["choices"][0]["text"], "x".repeat(60));
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn told_to_stop_it_does_not_wait_for_ever() {
    let setup = Setup { pace: STEP, drain: Duration::from_millis(200), ..Setup::default() };
    let server = Server::ready(setup).await;
    let mut endless = server.post(COMPLETIONS, forever(json!({"stream": true}))).await;
    assert!(endless.chunk().await.unwrap().is_some());
    let asked = Instant::now();
    let (ended, _) = server.begin_stop();
    ended.await.unwrap().unwrap();
    // What was asked for takes 20 s.
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    let mut text = String::new();
    while let Ok(Some(chunk)) = endless.chunk().await {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!text.contains("[DONE]"), "a stream that was cut does not look finished");
    assert!(text.contains(r#"data: {"error""#), "{text}");
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let server = Server::ready(Setup::default()).await;
    // A connection that is kept alive must not hold it up.
    server.get("/health").await;
    let asked = Instant::now();
    server.stop().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "took {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_model_that_breaks_down_ends_the_server_and_no_request_is_answered_with_half_a_text() {
    let server = Server::ready(Setup { pace: STEP, ..Setup::default() }).await;
    let (url, client) = (server.url.clone(), server.client.clone());
    let post = |body: Value| tokio::spawn(client.post(format!("{url}{COMPLETIONS}")).json(&body).send());
    let innocent = post(forever(json!({})));
    server.until("it runs", |log| log.open == 1).await;
    let culprit = post(json!({"model": "m", "prompt": "fail"}));
    for request in [innocent, culprit] {
        let response = request.await.unwrap().unwrap();
        assert_eq!(response.status(), 500);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["type"], "server_error");
    }
    let error = server.ended().await.unwrap_err();
    assert!(error.to_string().contains("the script fails here"), "{error}");
}

/// Work for `prompt`, and where its reply comes.
fn work(prompt: &str) -> (Message, UnboundedReceiver<Result<Update>>) {
    let (reply, updates) = unbounded_channel();
    let job =
        Job { tokens: prompt.bytes().map(i64::from).collect(), sampling: Sampling::default(), key: 0, top_logprobs: 0 };
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let work =
        Work { jobs: vec![job], stop: Arc::default(), tokens_wanted: false, reply, permit, queued: Instant::now() };
    (Message::Work(work), updates)
}

#[test]
fn what_waits_together_starts_together() {
    let (sender, inbox) = mpsc::channel();
    let (messages, replies): (Vec<_>, Vec<_>) = (0..3).map(|_| work("say:ab")).unzip();
    for message in messages {
        sender.send(message).unwrap();
    }
    drop(sender);
    let log = Arc::default();
    let sampler = Scripted::new(Duration::ZERO, Arc::clone(&log));
    scheduler::run(sampler, &tokenizer(), &inbox, &Metrics::new().unwrap()).unwrap();
    assert_eq!(log.lock().unwrap().batches, [3, 3, 3], "two letters and the end");
    for mut reply in replies {
        let text = |update: Result<Update>| update.unwrap().text;
        assert_eq!(text(reply.try_recv().unwrap()), "a");
        assert_eq!(text(reply.try_recv().unwrap()), "b");
        let end = reply.try_recv().unwrap().unwrap().end.unwrap();
        assert_eq!((end.finish, end.sampled), (Finish::Eos, 3));
        assert!(reply.try_recv().is_err(), "nothing after the end");
    }
}

#[test]
fn an_idle_model_waits_a_moment_for_more_work_before_it_starts() {
    let (sender, inbox) = mpsc::channel();
    let log = Arc::default();
    let sampler = Scripted::new(Duration::ZERO, Arc::clone(&log));
    let model = std::thread::spawn(move || {
        scheduler::run(sampler, &tokenizer(), &inbox, &Metrics::new().unwrap()).unwrap();
    });
    let mut replies = Vec::new();
    for _ in 0..20 {
        for _ in 0..2 {
            let (message, reply) = work("say:a");
            sender.send(message).unwrap();
            replies.push(reply);
            // Longer than it takes to wake the thread, shorter than the moment.
            std::thread::sleep(Duration::from_micros(500));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(sender);
    model.join().unwrap();
    let shared = log.lock().unwrap().batches.iter().filter(|size| **size == 2).count();
    assert!(shared >= 20, "of 40 steps of pairs only {shared} were shared");
}
