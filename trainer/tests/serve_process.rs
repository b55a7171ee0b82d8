//! The `serve` program with a real model, tiny and with random weights: from a folder to replies, and to its end.

#[cfg(test)]
#[path = "../feedback/src/protocol/fixture.rs"]
mod fixture;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use plumbline_trainer::load::hugging_face::write_safetensors;
    use serde_json::{Value, json};
    use tch::{Device, Kind, Tensor};
    use tempfile::TempDir;

    use super::fixture;

    const VOCABULARY: i64 = 258;
    /// Half of the time for which a server waits for a head, and less than that for which it drains.
    const SOON: Duration = Duration::from_secs(15);

    /// A model folder: two layers of width 16, vocabulary of the fixture's tokenizer.
    fn model() -> TempDir {
        let folder = fixture::model_folder();
        let config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 128, "tie_word_embeddings": true, "eos_token_id": 256,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        tch::manual_seed(7);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.5;
        let ones = || Tensor::ones([16], (Kind::Float, Device::Cpu));
        let mut tensors = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), random(&[VOCABULARY, 16])),
            ("model.norm.weight".to_owned(), ones()),
        ]);
        for layer in 0..2 {
            let mut add = |part: &str, tensor| tensors.insert(format!("model.layers.{layer}.{part}.weight"), tensor);
            add("input_layernorm", ones());
            add("post_attention_layernorm", ones());
            for (part, rows) in [("q_proj", 16), ("k_proj", 8), ("v_proj", 8), ("o_proj", 16)] {
                add(&format!("self_attn.{part}"), random(&[rows, 16]));
            }
            for (part, shape) in [("gate_proj", [24, 16]), ("up_proj", [24, 16]), ("down_proj", [16, 24])] {
                add(&format!("mlp.{part}"), random(&shape));
            }
        }
        write_safetensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
        folder
    }

    fn serve(model: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbline-trainer"));
        command.arg("serve").arg("--model").arg(model).args(["--name", "tiny", "--threads", "1"]).args(more);
        command.env("OMP_NUM_THREADS", "1").stderr(Stdio::piped());
        command
    }

    struct Running {
        child: Child,
        url: String,
        _folder: TempDir,
    }

    impl Running {
        fn start(model: &Path, more: &[&str]) -> Self {
            Self::start_with(serve(model, more))
        }

        fn start_with(mut command: Command) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("port");
            let child = command.arg("--port-file").arg(&file).spawn().unwrap();
            let mut running = Self { child, url: String::new(), _folder: folder };
            let until = Instant::now() + Duration::from_mins(1);
            while !file.exists() {
                assert!(running.child.try_wait().unwrap().is_none(), "it ended before it was ready");
                assert!(Instant::now() < until, "it was never ready");
                std::thread::sleep(Duration::from_millis(10));
            }
            let port: u16 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            running.url = format!("http://127.0.0.1:{port}");
            running
        }

        async fn ask(&self, path: &str, body: Value) -> Value {
            let request = reqwest::Client::new().post(format!("{}{path}", self.url)).json(&body);
            let reply: Value = request.send().await.unwrap().json().await.unwrap();
            assert!(reply.get("error").is_none(), "{reply}");
            reply
        }

        /// The most memory that it has had, in MiB.
        fn peak(&self) -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
        }

        fn terminate(&self) {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }

        /// The exit code, which must come soon.
        fn code(&mut self) -> Option<i32> {
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                assert!(Instant::now() < until, "it does not end");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[tokio::test]
    async fn from_a_model_folder_to_replies_and_to_a_clean_end() {
        let model = model();
        let mut server = Running::start(model.path(), &[]);
        assert_eq!(reqwest::get(format!("{}/health", server.url)).await.unwrap().status(), 200);

        let chat = json!({
            "model": "tiny", "messages": [{"role": "user", "content": "Which is better, A or B?"}],
            "max_tokens": 1, "temperature": 0, "logprobs": true, "top_logprobs": 100,
        });
        let reply = server.ask("/v1/chat/completions", chat.clone()).await;
        let first = &reply["choices"][0]["logprobs"]["content"][0];
        let top = first["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 100);
        assert_eq!(
            (&first["token"], &first["logprob"]),
            (&top[0]["token"], &top[0]["logprob"]),
            "greedy takes the first"
        );
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b));
        let mass: f64 = logprobs.iter().map(|l| l.exp()).sum();
        assert!(mass > 0.3 && mass <= 1.0001, "probabilities sum to {mass}");
        assert_eq!(reply["usage"]["prompt_tokens"], 24);
        let again = server.ask("/v1/chat/completions", chat).await;
        let second = &again["choices"][0]["logprobs"]["content"][0];
        assert_eq!(second["token"], first["token"]);
        // The second time the prompt is cached, so that it is summed in another order.
        let difference = second["logprob"].as_f64().unwrap() - logprobs[0];
        assert!(difference.abs() < 1e-4, "differs by {difference}");

        let sampled = |prompt: &str, n: usize| json!({"model": "tiny", "prompt": [prompt, "another"], "n": n, "max_tokens": 12, "seed": 3});
        let (one, many) = tokio::join!(
            server.ask("/v1/completions", sampled("a prompt", 1)),
            server.ask("/v1/completions", sampled("a prompt", 4))
        );
        assert_eq!(one["choices"][0]["text"], many["choices"][0]["text"], "a sample does not depend on its batch");
        assert_ne!(many["choices"][0]["text"], many["choices"][1]["text"]);

        let metrics = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
        let reused =
            metrics.lines().find_map(|l| l.strip_prefix("plumbline_serve_prefix_tokens_reused_total ")).unwrap();
        assert!(reused.parse::<u64>().unwrap() >= 3 * 15, "four samples share their prompt: {reused}");

        server.terminate();
        assert_eq!(server.code(), Some(0));
    }

    /// The status that a body is answered with.
    async fn status(url: &str, body: Vec<u8>) -> u16 {
        let request = reqwest::Client::new().post(format!("{url}/v1/completions")).body(body);
        request.send().await.map_or(0, |response| response.status().as_u16())
    }

    #[tokio::test]
    async fn no_request_takes_much_memory() {
        let model = model();
        let server = Running::start(model.path(), &[]);
        let before = server.peak();
        let list = |n: usize, item: &str, count: usize| {
            format!(
                r#"{{"model":"tiny","max_tokens":1,"n":{n},"prompt":[{}{item}]}}"#,
                format!("{item},").repeat(count)
            )
        };
        let text =
            |bytes: usize| json!({"model": "tiny", "max_tokens": 1, "prompt": "a ".repeat(bytes / 2)}).to_string();
        let wide = r#"{"model":"tiny","prompt":"a","n":32,"max_tokens":100,"logprobs":100}"#;
        for (body, expected) in [
            (list(128, "\"a\"", 9_999), 400),
            (list(128, "\"a\"", 99_999), 400),
            (list(128, "\"a\"", 999_999), 413),
            (list(1, "0", 2_000_000), 413),
            (list(1, "[]", 1_300_000), 413),
            (list(1, "{\"\":[]}", 400_000), 413),
            (list(1, "0", 250_000), 400),
            (text(4_000_000), 400),
            (text(15_000_000), 413),
            (wide.to_owned(), 200),
        ] {
            let (length, start) = (body.len(), body[..60.min(body.len())].to_owned());
            let four = (0..4).map(|_| status(&server.url, body.clone().into_bytes()));
            let found = futures::future::join_all(four).await;
            assert!(found.iter().all(|code| *code == expected), "{start}: {found:?}");
            let more = server.peak() - before;
            assert!(more < 400, "four times {length} bytes, {start}: {more} MiB");
        }
    }

    #[tokio::test]
    async fn a_template_that_takes_all_memory_that_it_may_has_it_once() {
        let model = model();
        let template = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        let config = json!({"eos_token": "<|end|>", "chat_template": template}).to_string();
        std::fs::write(model.path().join("tokenizer_config.json"), config).unwrap();
        let server = Running::start(model.path(), &[]);
        let before = server.peak();
        let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
        for _ in 0..40 {
            let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", server.url)).json(&body);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 400);
            let error = response.text().await.unwrap();
            assert!(error.contains("MiB of memory"), "{error}");
        }
        let more = server.peak() - before;
        assert!(more < 200, "{more} MiB");
    }

    #[tokio::test]
    async fn few_files_and_many_half_heads_keep_nobody_out_and_do_not_delay_its_end() {
        use std::io::Write;
        let model = model();
        let inner = serve(model.path(), &[]);
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n 64 && exec "$0" "$@""#]).arg(inner.get_program()).args(inner.get_args());
        command.env("OMP_NUM_THREADS", "1").stderr(Stdio::piped());
        let mut server = Running::start_with(command);
        let held: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
                let _ = stream.write_all(b"GET /health HTTP/1.1\r\n");
                stream
            })
            .collect();
        let asked = Instant::now();
        assert_eq!(reqwest::get(format!("{}/health", server.url)).await.unwrap().status(), 200);
        let reply = server.ask("/v1/completions", json!({"model": "tiny", "prompt": "a", "max_tokens": 2})).await;
        assert_eq!(reply["usage"]["completion_tokens"], 2);
        assert!(asked.elapsed() < SOON, "took {:?}", asked.elapsed());
        server.terminate();
        let asked = Instant::now();
        assert_eq!(server.code(), Some(0));
        assert!(asked.elapsed() < SOON, "took {:?}", asked.elapsed());
        drop(held);
    }

    #[test]
    fn it_ends_when_the_process_that_it_was_started_for_is_gone() {
        let model = model();
        let mut parent = Command::new("sleep").arg("600").spawn().unwrap();
        let mut server = Running::start(model.path(), &["--parent-pid", &parent.id().to_string()]);
        std::thread::sleep(Duration::from_millis(1500));
        assert!(server.child.try_wait().unwrap().is_none(), "its parent lives");
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert_eq!(server.code(), Some(0));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_exit_code_of_the_contract() {
        let empty = tempfile::tempdir().unwrap();
        let port_file = empty.path().join("port");
        let output = serve(empty.path(), &["--port-file", port_file.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "a folder without a model is bad data");
        assert!(String::from_utf8_lossy(&output.stderr).contains("tokenizer.json"));
        assert!(!port_file.exists(), "it was never ready");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("accepting"), "it never accepted requests");
        let output = serve(&empty.path().join("absent"), &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("--model: ") && said.contains("absent: no such directory"), "{said}");

        let model = model();
        for bad in [
            ["--max-context", "100000"],
            ["--host", "not a host"],
            ["--parent-pid", "999999999"],
            ["--precision", "int4"],
        ] {
            let output = serve(model.path(), &bad).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{bad:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(bad[0]), "{bad:?} is not named");
        }
    }
}
