//! Requests that are changed at random, in their structure and in their bytes: each is refused as the client's fault, or is
//! a plan within bounds. The seeds are fixed.

use std::ops::Range;
use std::time::Duration;

use plumbline_feedback::protocol::response::Api;
use plumbline_trainer::serve::listen::Patience;
use plumbline_trainer::serve::model::Shape;
use plumbline_trainer::serve::plan::{Asked, Bounds, plan};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::script::{CONTEXT, Server, Setup, tokenizer};

const VOCABULARY: i64 = 258;
const BOUNDS: Bounds = Bounds {
    shape: Shape { context: CONTEXT, vocabulary: VOCABULARY as usize, longest_token: 9 },
    sequences: 64,
    memory: 64 << 20,
};

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn asked(api: Api, body: &[u8]) -> Asked<'_> {
    Asked { api, body, now: jiff::civil::date(2026, 2, 3).into() }
}

fn requests() -> [(Api, Value); 4] {
    [
        (Api::Completions, json!({"model": "m", "prompt": "say:hi"})),
        (
            Api::Completions,
            json!({"model": "m", "prompt": ["a", "b"], "n": 2, "max_tokens": 5, "temperature": 0.5, "top_p": 0.9,
                "top_k": 3, "min_p": 0.1, "seed": 7, "stop": ["x"], "logprobs": 5, "best_of": 2, "echo": false}),
        ),
        (
            Api::Completions,
            json!({"model": "m", "prompt": [[1, 2, 3], [4]], "max_tokens": 1, "stream": true,
            "stream_options": {"include_usage": true}}),
        ),
        (
            Api::Chat,
            json!({"model": "m", "messages": [{"role": "assistant", "content": "b"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]}], "max_completion_tokens": 5, "logprobs": true, "top_logprobs": 20, "tools": [], "user": "u", "seed": -1}),
        ),
    ]
}

fn odd_values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(0.5),
        json!(1e308),
        json!(-1e308),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e19),
        json!(5e-324),
        json!(128),
        json!(257),
        json!(258),
        json!(""),
        json!("\u{0}"),
        json!("<|end|>"),
        json!("\u{202e}\u{1b}[2J"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({"a": {"b": []}}),
        json!([{}, {}]),
        json!("x".repeat(20_000)),
        json!(vec![0; 5000]),
        json!(vec!["a"; 100]),
    ];
    let deep = (0..100).fold(json!(0), |inner, _| json!([inner]));
    values.push(deep);
    values
}

/// Everything in a value, by path.
fn places(value: &Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    match value {
        Value::Array(items) => {
            for (i, v) in items.iter().enumerate() {
                places(v, &format!("{path}/{i}"), all);
            }
        }
        Value::Object(map) => {
            for (k, v) in map {
                places(v, &format!("{path}/{k}"), all);
            }
        }
        _ => {}
    }
}

fn change_structure(request: &mut Value, random: &mut Random) {
    let mut paths = Vec::new();
    places(request, "", &mut paths);
    let path = random.of(&paths).clone();
    let (odd, roll) = (random.of(&odd_values()).clone(), random.below(4));
    let Some(place) = request.pointer_mut(&path) else { return };
    match place {
        Value::Object(map) if roll == 0 => drop(map.insert(format!("field{}", random.below(3)), odd)),
        Value::Object(map) if roll == 1 => {
            let key = map.keys().nth(random.below(map.len().max(1))).cloned();
            drop(key.and_then(|key| map.remove(&key)));
        }
        Value::Array(items) if roll == 0 => items.push(odd),
        Value::Array(items) if roll == 1 => drop(items.pop()),
        other => *other = odd,
    }
}

fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let piece = |random: &mut Random, length: usize| -> Range<usize> {
        let start = random.below(length + 1);
        start..(start + random.below(40)).min(length)
    };
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.below(256) as u8),
        2 => drop(bytes.drain(piece(random, bytes.len()))),
        3 => {
            let repeated = bytes[piece(random, bytes.len())].to_vec();
            bytes.splice(at..at, repeated);
        }
        4 => {
            let odd = random.of(&[&b"\\ud800"[..], b"\xff", b"1e999", b"[[", b"\r\n", b"\""]).iter().copied();
            bytes.splice(at..at, odd);
        }
        _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ => {}
    }
}

#[test]
fn a_changed_request_is_refused_or_planned_within_bounds() {
    let (tokenizer, requests) = (tokenizer(), requests());
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut planned, mut refused) = (0, 0);
    for _ in 0..6000 {
        let (api, request) = random.of(&requests).clone();
        let mut changed = request.clone();
        for _ in 0..random.below(3) {
            change_structure(&mut changed, &mut random);
        }
        let mut body = changed.to_string().into_bytes();
        for _ in 0..random.below(2) {
            change_bytes(&mut body, &mut random);
        }
        match plan(asked(api, &body), "m", &tokenizer, BOUNDS) {
            Ok(plan) => {
                planned += 1;
                assert!(!plan.jobs.is_empty() && plan.jobs.len() <= BOUNDS.sequences && plan.memory <= BOUNDS.memory);
                for job in &plan.jobs {
                    let tokens = job.tokens.len() as i64 + job.sampling.max_new_tokens;
                    assert!(!job.tokens.is_empty() && job.sampling.max_new_tokens > 0 && tokens <= CONTEXT as i64);
                    assert!(job.tokens.iter().all(|token| (0..VOCABULARY).contains(token)) && job.top_logprobs <= 100);
                    let numbers = [job.sampling.temperature, job.sampling.top_p, job.sampling.min_p];
                    assert!(numbers.iter().all(|n| n.is_finite()), "{numbers:?}");
                }
            }
            Err(error) => {
                refused += 1;
                let text = String::from_utf8_lossy(&body);
                assert!(matches!(error.status, 400 | 404 | 413), "{error:?}: {text}");
                assert!(error.body.message.len() < 700, "{} bytes say what is wrong", error.body.message.len());
            }
        }
    }
    assert!(planned > 300 && refused > 3000, "{planned} planned, {refused} refused");
}

#[test]
fn a_field_that_is_not_known_is_never_passed_over() {
    let tokenizer = tokenizer();
    for (api, request) in requests() {
        let mut paths = Vec::new();
        places(&request, "", &mut paths);
        assert!(plan(asked(api, request.to_string().as_bytes()), "m", &tokenizer, BOUNDS).is_ok(), "{request}");
        for path in paths {
            let mut changed = request.clone();
            let Some(Value::Object(map)) = changed.pointer_mut(&path) else { continue };
            map.insert("surprise".into(), json!(1));
            let error = plan(asked(api, changed.to_string().as_bytes()), "m", &tokenizer, BOUNDS).err();
            assert!(error.is_some_and(|e| e.body.message.contains("surprise")), "{path} of {request}");
        }
    }
}

#[tokio::test]
async fn no_bytes_that_come_by_the_wire_end_the_server() {
    let short = Duration::from_millis(500);
    let patience = Patience { head: short, body: short, ..Patience::default() };
    let server = Server::ready(Setup { patience, ..Setup::default() }).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for _ in 0..300 {
        let (_, request) = random.of(&requests()[..2]).clone();
        let body = request.to_string();
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut bytes = (head + &body).into_bytes();
        for _ in 0..=random.below(4) {
            change_bytes(&mut bytes, &mut random);
        }
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let answered = async { stream.read_to_end(&mut Vec::new()).await };
        assert!(tokio::time::timeout(Duration::from_secs(10), answered).await.is_ok(), "{bytes:?} has no end");
    }
    let said = json!({"model": "m", "prompt": "say:x", "max_tokens": 10});
    assert_eq!(server.ask("/v1/completions", said).await["choices"][0]["text"], "x");
    server.until("nothing is left", |log| log.open == 0).await;
}
