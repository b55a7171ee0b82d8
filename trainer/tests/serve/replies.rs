//! What requests are answered.

use serde_json::{Value, json};

use super::script::{CONTEXT, Server, Setup, merged};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn completion(prompt: Value, mut more: Value) -> Value {
    more["prompt"] = prompt;
    merged(json!({"model": "m", "max_tokens": 100}), more)
}

fn chat(content: &str, more: Value) -> Value {
    merged(json!({"model": "m", "messages": [{"role": "user", "content": content}]}), more)
}

fn parsed(events: &[String]) -> Vec<Value> {
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect()
}

#[tokio::test]
async fn a_completion_is_answered_with_its_text_and_usage() {
    let server = Server::ready(Setup::default()).await;
    let reply = server.ask(COMPLETIONS, completion(json!("say:hi there"), json!({}))).await;
    assert_eq!(
        (&reply["object"], &reply["model"], &reply["choices"]),
        (
            &json!("text_completion"),
            &json!("m"),
            &json!([{"index": 0, "text": "hi there", "logprobs": null, "finish_reason": "stop"}])
        )
    );
    assert_eq!(reply["usage"], json!({"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}));
}

#[tokio::test]
async fn a_template_is_told_the_time_of_the_clients_run_or_that_of_the_request() {
    let server = Server::ready(Setup::default()).await;
    let told = async |time: Option<&str>| {
        let request = server.client.post(format!("{}{CHAT}", server.url)).json(&chat("say:TIME", json!({})));
        let request = time.into_iter().fold(request, |request, time| request.header("x-plumbline-time", time));
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let of_run = told(Some("2026-02-03T23:59:58")).await;
    assert_eq!(of_run["choices"][0]["message"]["content"], "2026-02-03 23:59");
    let before = jiff::Zoned::now().datetime().strftime("%Y-%m-%d %H:%M").to_string();
    let now = told(None).await["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let after = jiff::Zoned::now().datetime().strftime("%Y-%m-%d %H:%M").to_string();
    assert!(before <= now && now <= after, "{now}");
    assert_eq!(told(Some("yesterday")).await["error"]["param"], "x-plumbline-time");
}

#[tokio::test]
async fn a_prompt_of_token_ids_is_the_same_prompt() {
    let server = Server::ready(Setup::default()).await;
    let ids: Vec<u8> = b"say:x".to_vec();
    let reply = server.ask(COMPLETIONS, completion(json!([ids, "say:y"]), json!({}))).await;
    assert_eq!((&reply["choices"][0]["text"], &reply["choices"][1]["text"]), (&json!("x"), &json!("y")));
    assert_eq!(reply["usage"]["prompt_tokens"], 10);
}

#[tokio::test]
async fn the_limit_of_tokens_ends_a_response_with_length() {
    let server = Server::ready(Setup::default()).await;
    let reply = server.ask(COMPLETIONS, completion(json!("say:hello"), json!({"max_tokens": 1}))).await;
    assert_eq!((&reply["choices"][0]["text"], &reply["choices"][0]["finish_reason"]), (&json!("h"), &json!("length")));
    assert_eq!(reply["usage"]["completion_tokens"], 1);
    let reply = server.ask(COMPLETIONS, json!({"model": "m", "prompt": "forever"})).await;
    assert_eq!(reply["usage"]["completion_tokens"], 16, "the API's default");
}

#[tokio::test]
async fn completions_have_logprobs_in_parallel_lists() {
    let server = Server::ready(Setup::default()).await;
    let reply = server.ask(COMPLETIONS, completion(json!("say:aé"), json!({"logprobs": 2}))).await;
    assert_eq!(
        reply["choices"][0]["logprobs"],
        json!({
            "tokens": ["a", "\u{FFFD}", "\u{FFFD}", "<|end|>"],
            "token_logprobs": [-0.5, -0.5, -0.5, -0.5],
            "top_logprobs": [
                {"a": -0.5, "#": -1.5}, {"\u{FFFD}": -0.5, "#": -1.5}, {"\u{FFFD}": -0.5, "#": -1.5},
                {"<|end|>": -0.5, "#": -1.5},
            ],
            "text_offset": [0, 1, 1, 2],
        })
    );
}

#[tokio::test]
async fn chats_have_logprobs_by_token_also_for_one_token() {
    let server = Server::ready(Setup::default()).await;
    let body = chat("say:A", json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 1, "temperature": 0}));
    let reply = server.ask(CHAT, body).await;
    assert_eq!(
        reply["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "A"},
            "logprobs": {"content": [{
                "token": "A", "logprob": -0.5, "bytes": [65],
                "top_logprobs": [
                    {"token": "A", "logprob": -0.5, "bytes": [65]},
                    {"token": "#", "logprob": -1.5, "bytes": [35]},
                    {"token": "<|pad|>", "logprob": -9999.0, "bytes": b"<|pad|>"},
                ],
            }]},
            "finish_reason": "length",
        }])
    );
}

#[tokio::test]
async fn a_streamed_chat_says_the_same_as_a_whole_one() {
    let server = Server::ready(Setup::default()).await;
    let text = "né 😀 done";
    let body = chat(&format!("say:{text}"), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.events(CHAT, body).await;
    let chunks = parsed(&events);
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let deltas: Vec<&str> = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(deltas.concat(), text);
    assert!(deltas.iter().all(|d| !d.contains('\u{FFFD}')), "{deltas:?}");
    let [.., end, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(end["choices"][0], json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}));
    assert_eq!(usage["choices"], json!([]));
    let whole = server.ask(CHAT, chat(&format!("say:{text}"), json!({}))).await;
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"] && c["id"] != whole["id"]));
}

#[tokio::test]
async fn a_streamed_completion_has_no_usage_unless_it_is_asked_for() {
    let server = Server::ready(Setup::default()).await;
    let chunks = parsed(&server.events(COMPLETIONS, completion(json!("say:abc"), json!({"stream": true}))).await);
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "abc");
    assert!(chunks.iter().all(|c| c.get("usage").is_none()));
    assert_eq!(chunks.iter().filter(|c| !c["choices"][0]["finish_reason"].is_null()).count(), 1);
}

#[tokio::test]
async fn a_stop_string_cuts_the_text_and_frees_the_model() {
    let server = Server::ready(Setup::default()).await;
    let more = json!({"stop": ["STOP", "\n\n"], "logprobs": 0});
    let reply = server.ask(COMPLETIONS, completion(json!("say:text STOP and more"), more)).await;
    let choice = &reply["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("text "), &json!("stop")));
    assert_eq!(choice["logprobs"]["tokens"], json!(["t", "e", "x", "t", " "]));
    assert_eq!(reply["usage"]["completion_tokens"], 9, "the stop string was sampled");
    server.until("the rest is not sampled", |log| log.cancelled == 1 && log.open == 0).await;
    let events = server.events(CHAT, chat("say:one\n\ntwo", json!({"stop": "\n\n", "stream": true}))).await;
    let text: String = parsed(&events)
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .map(str::to_owned)
        .collect();
    assert_eq!(text, "one");
}

#[tokio::test]
async fn every_prompt_has_n_samples_in_order() {
    let server = Server::ready(Setup::default()).await;
    let ask = |more| server.ask(COMPLETIONS, completion(json!(["key:a", "key:b"]), more));
    let texts = |reply: Value| -> Vec<String> {
        let choices = reply["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(i, c)| c["index"] == i));
        choices.iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect()
    };
    let first = texts(ask(json!({"n": 3, "seed": 1})).await);
    assert_eq!(first.len(), 6);
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 6, "no two samples share random numbers: {first:?}");
    assert_eq!(texts(ask(json!({"n": 3, "seed": 1})).await), first, "the same seed gives the same text");
    let chunks = parsed(&server.events(CHAT, chat("say:x", json!({"n": 2, "stream": true}))).await);
    for index in 0..2 {
        let own = chunks.iter().filter(|c| c["choices"][0]["index"] == index);
        let finished = own.filter(|c| c["choices"][0]["finish_reason"] == "stop").count();
        assert_eq!(finished, 1);
    }
}

#[tokio::test]
async fn errors_have_openais_shape() {
    let server = Server::ready(Setup::default()).await;
    let long = "x".repeat(CONTEXT - 10);
    for (path, body, status, code, param) in [
        (COMPLETIONS, completion(json!("p"), json!({"temperature": -1})), 400, "invalid_value", "temperature"),
        (CHAT, chat("p", json!({"functions": [{"name": "f"}]})), 400, "unsupported_parameter", "functions"),
        (CHAT, chat("p", json!({"model": "other"})), 404, "model_not_found", "model"),
        (COMPLETIONS, completion(json!(long), json!({})), 400, "context_length_exceeded", "max_tokens"),
        (COMPLETIONS, completion(json!([999]), json!({})), 400, "invalid_value", "prompt"),
        (COMPLETIONS, completion(json!(""), json!({})), 400, "invalid_value", "prompt"),
        (COMPLETIONS, completion(json!("p"), json!({"n": 65})), 400, "invalid_value", "n"),
    ] {
        let response = server.post(path, body).await;
        assert_eq!(response.status(), status);
        let error: Value = response.json().await.unwrap();
        assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!(code), &json!(param)), "{error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
        assert!(error["error"]["message"].as_str().is_some_and(|m| m.len() > 10));
    }
}

#[tokio::test]
async fn a_conversation_that_the_template_refuses_is_the_clients_error() {
    let server = Server::ready(Setup::default()).await;
    let messages = json!([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]);
    let response = server.post(CHAT, json!({"model": "m", "messages": messages})).await;
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("no place for a system message"));
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_said_so_in_json() {
    let server = Server::ready(Setup::default()).await;
    for (response, status) in [
        (server.get("/v1/embeddings").await, 404),
        (server.get(CHAT).await, 405),
        (server.post("/health", json!({})).await, 405),
    ] {
        assert_eq!(response.status(), status);
        let error: Value = response.json().await.unwrap();
        assert!(error["error"]["message"].is_string(), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let server = Server::ready(Setup::default()).await;
    let response = server.post(COMPLETIONS, completion(json!("x".repeat(17 << 20)), json!({}))).await;
    assert_eq!(response.status(), 413);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "request_too_large");
}

#[tokio::test]
async fn the_model_is_listed_with_its_context() {
    let server = Server::ready(Setup::default()).await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("m")));
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    let one: Value = server.get("/v1/models/m").await.json().await.unwrap();
    assert_eq!(one, list["data"][0]);
    assert_eq!(server.get("/v1/models/other").await.status(), 404);
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_code_and_tokens() {
    let server = Server::ready(Setup::default()).await;
    server.ask(COMPLETIONS, completion(json!("say:abc"), json!({}))).await;
    server.post(COMPLETIONS, json!({})).await;
    for path in ["/a", "/b", "/c"] {
        server.get(path).await;
    }
    // The last step is counted just after its reply has left.
    server.until("the model rests", |log| log.open == 0).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let text = server.get("/metrics").await.text().await.unwrap();
    for line in [
        r#"plumbline_serve_requests_total{code="200",route="/v1/completions"} 1"#,
        r#"plumbline_serve_requests_total{code="400",route="/v1/completions"} 1"#,
        r#"plumbline_serve_requests_total{code="404",route="other"} 3"#,
        r#"plumbline_serve_request_seconds_count{route="/v1/completions"} 2"#,
        "plumbline_serve_prompt_tokens_total 7",
        "plumbline_serve_completion_tokens_total 4",
        "plumbline_serve_first_token_seconds_count 1",
        "plumbline_serve_batch_size_count 4",
        "plumbline_serve_sequences_active 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
    }
}
