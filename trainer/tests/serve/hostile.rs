//! What clients send to a server that they do not mean well with: it stays up, others are served, and it ends when it is
//! asked to.

use std::time::{Duration, Instant};

use futures::future::join_all;
use plumbline_trainer::serve::listen::Patience;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::script::{Server, Setup, merged};

const COMPLETIONS: &str = "/v1/completions";
const HALF_A_HEAD: &str = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n";
const HALF_A_BODY: &str = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"model\"";
/// Half of the shortest time for which a server waits by default: an answer that takes less was not held up by a client that
/// it waits for, however busy the machine is.
const SOON: Duration = Duration::from_secs(15);

fn say(text: &str) -> Value {
    json!({"model": "m", "prompt": format!("say:{text}"), "max_tokens": 1000})
}

/// A connection that has sent this.
async fn connected(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is reset has nothing more to say either.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Answered soon, whatever else is open.
async fn assert_answers(server: &Server) {
    let asked = Instant::now();
    assert_eq!(reqwest::get(format!("{}/health", server.url)).await.unwrap().status(), 200);
    let client = reqwest::Client::new();
    let reply = client.post(format!("{}{COMPLETIONS}", server.url)).json(&say("x")).send().await.unwrap();
    assert_eq!(reply.json::<Value>().await.unwrap()["choices"][0]["text"], "x");
    assert!(asked.elapsed() < SOON, "took {:?}", asked.elapsed());
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("plumbline_serve_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn those_who_hold_connections_and_send_no_request_keep_nobody_out() {
    for silent in ["", HALF_A_HEAD, HALF_A_BODY] {
        let patience = Patience { connections: 16, ..Patience::default() };
        let server = Server::ready(Setup { patience, ..Setup::default() }).await;
        let held = join_all((0..40).map(|_| connected(&server, silent))).await;
        assert_answers(&server).await;
        assert!(metric(&server, "connections_refused_total").await >= 24.0, "{silent}");
        drop(held);
    }
}

#[tokio::test]
async fn a_request_that_is_being_answered_is_not_given_up_for_new_connections() {
    let patience = Patience { connections: 4, ..Patience::default() };
    let server = Server::ready(Setup { pace: Duration::from_millis(2), patience, ..Setup::default() }).await;
    let (url, text) = (format!("{}{COMPLETIONS}", server.url), "x".repeat(300));
    let long = tokio::spawn(server.client.post(url).json(&say(&text)).send());
    server.until("it runs", |log| log.open == 1).await;
    let held = join_all((0..40).map(|_| connected(&server, HALF_A_HEAD))).await;
    let reply: Value = long.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(reply["choices"][0]["text"], text.as_str());
    drop(held);
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let short = Duration::from_millis(300);
    let started = Instant::now();
    let patience = Patience { head: short, ..Patience::default() };
    let server = Server::ready(Setup { patience, ..Setup::default() }).await;
    assert_eq!(rest(connected(&server, "").await).await, "", "an idle connection is closed");
    rest(connected(&server, HALF_A_HEAD).await).await;
    // This one waits for heads as others do: on a busy machine those below take longer than so short a time.
    let patience = Patience { body: short, ..Patience::default() };
    let server = Server::ready(Setup { patience, ..Setup::default() }).await;
    let told = rest(connected(&server, HALF_A_BODY).await).await;
    assert!(told.starts_with("HTTP/1.1 408") && told.contains("request_timeout"), "{told}");
    let took = started.elapsed();
    assert!(took >= short * 3 && took < SOON, "took {took:?}");
    assert_eq!(reqwest::get(format!("{}/health", server.url)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn told_to_stop_it_does_not_wait_for_requests_that_are_half_there() {
    let server = Server::ready(Setup { drain: Duration::from_mins(1), ..Setup::default() }).await;
    let held = join_all(["", HALF_A_HEAD, HALF_A_BODY].map(|text| connected(&server, text))).await;
    assert_answers(&server).await;
    let asked = Instant::now();
    server.stop().await.unwrap();
    assert!(asked.elapsed() < SOON, "took {:?}", asked.elapsed());
    drop(held);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_reply_is_let_go() {
    let patience = Patience { unread: Duration::from_millis(300), ..Patience::default() };
    let server = Server::ready(Setup { patience, ..Setup::default() }).await;
    let body = json!({"model": "m", "prompt": "forever", "max_tokens": 4000, "n": 32, "stream": true}).to_string();
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    // Some 25 MB of events, of which the sockets hold a few.
    let unread = connected(&server, &(head + &body)).await;
    let ended = async {
        while metric(&server, r#"request_seconds_count{route="/v1/completions"}"#).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ended).await.expect("it is held for ever");
    assert!(!rest(unread).await.contains("[DONE]"));
    assert_answers(&server).await;
}

#[tokio::test]
async fn long_requests_share_a_memory_and_short_ones_do_not_wait_for_it() {
    let server = Server::ready(Setup::default()).await;
    let most = 4 << 20;
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {most}\r\n\r\n");
    let unfinished = head + &" ".repeat(most - 1);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connected(&server, &unfinished).await);
    }
    assert_answers(&server).await;
    let refused =
        rest(connected(&server, &(unfinished.replace("host: x", "host: x\r\nconnection: close") + " ")).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: 1") && refused.contains("queue_full"), "{refused}");
    assert_answers(&server).await;
    drop(held);
    let long = merged(say("x"), json!({"metadata": {"note": "y".repeat(100_000)}}));
    for _ in 0..200 {
        if server.post(COMPLETIONS, long.clone()).await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the memory is not given back");
}

#[tokio::test]
async fn a_body_in_chunks_of_a_byte_is_a_body() {
    let server = Server::ready(Setup::default()).await;
    let body = say("x").to_string();
    let chunks = body.chars().fold(String::new(), |text, c| text + "1\r\n" + &c.to_string() + "\r\n");
    let head =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    let answer = rest(connected(&server, &format!("{head}{chunks}0\r\n\r\n")).await).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let endless = format!("{head}{}", "10000\r\n".to_owned() + &" ".repeat(0x10000) + "\r\n");
    let mut stream = connected(&server, &endless).await;
    let more = "10000\r\n".to_owned() + &" ".repeat(0x10000) + "\r\n";
    for _ in 0..400 {
        if stream.write_all(more.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = rest(stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_answers(&server).await;
}

#[tokio::test]
async fn what_replies_may_come_to_take_is_bounded_for_one_request_and_for_all() {
    let setup = Setup { pace: Duration::from_millis(5), capacity: 512, ..Setup::default() };
    let server = Server::ready(setup).await;
    let forever = |more: Value| merged(json!({"model": "m", "prompt": "forever", "max_tokens": 4000}), more);
    let response = server.post(COMPLETIONS, forever(json!({"n": 128, "logprobs": 100}))).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["param"], "max_tokens");
    assert!(error["error"]["message"].as_str().unwrap().contains("MiB"), "{error}");

    let large = forever(json!({"n": 128, "logprobs": 3, "stream": true}));
    let first = server.post(COMPLETIONS, large.clone()).await;
    assert_eq!(first.status(), 200);
    let second = server.post(COMPLETIONS, large.clone()).await;
    assert_eq!((second.status().as_u16(), &second.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_answers(&server).await;
    drop(first);
    server.until("its places are free", |log| log.open == 0).await;
    assert_eq!(server.post(COMPLETIONS, large).await.status(), 200, "the memory is given back");
}
