//! A Llama-2-type tokenizer, which puts a space before the first word and a token before every text, through the real
//! programs: what is served, labelled, tuned and scored has the tokens and texts that transformers gives (`tests/golden/
//! sentencepiece.json`). And a chat template that tells the time, in a run that is killed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plumbline_testkit::programs::{code, text, trainer};
use plumbline_testkit::{chain, chain::with, fixture, stage};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);

/// What transformers gives with a token before every text, and without.
fn of_transformers() -> Vec<Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/sentencepiece.json");
    let golden: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    golden["variants"].as_array().unwrap().clone()
}

/// The tiny model with that tokenizer.
fn model(golden: &Value, folder: &Path) -> PathBuf {
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/sentencepiece");
    fs::copy(tokenizer.join("tokenizer_config.json"), model.join("tokenizer_config.json")).unwrap();
    fs::copy(fixture::tiny().join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let mut rules = read(tokenizer.join("tokenizer.json"));
    if golden["bos"] == false {
        rules["post_processor"] = Value::Null;
    }
    fs::write(model.join("tokenizer.json"), rules.to_string()).unwrap();
    let mut config = read(fixture::tiny().join("config.json"));
    chain::merge(&mut config, &json!({"bos_token_id": 1, "eos_token_id": 2}));
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}

/// A server of a model, which ends when the value is dropped.
struct Served(Child, u16);

impl Served {
    fn start(model: &Path) -> Self {
        let file = model.with_file_name("port");
        let mut command = Command::new(trainer());
        command.args(["serve", "--name", "m", "--threads", "1", "--model"]).arg(model).arg("--port-file").arg(&file);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let mut served = Self(child, 0);
        while served.1 == 0 {
            assert!(begun.elapsed() < PATIENCE && served.0.try_wait().unwrap().is_none(), "the server never came up");
            served.1 = fs::read_to_string(&file).ok().and_then(|port| port.trim().parse().ok()).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {reply}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_served_model_has_the_prompts_tokens_and_the_texts_of_transformers() {
    for golden in of_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let served = Served::start(&model(&golden, folder.path()));
        for expected in golden["continuations"].as_array().unwrap() {
            let asked = json!({"model": "m", "prompt": expected["prompt"], "max_tokens": expected["ids"].as_array().unwrap().len(),
                "temperature": 0, "logprobs": 1});
            let reply = served.post("/v1/completions", &asked);
            let choice = &reply["choices"][0];
            assert_eq!(choice["text"], expected["text"], "{expected}");
            let prompt = expected["prompt_ids"].as_array().unwrap().len();
            assert_eq!(reply["usage"]["prompt_tokens"], prompt, "{expected}");
            let tokens: Vec<&str> =
                choice["logprobs"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
            assert_eq!(tokens.concat().replace("<s>", ""), expected["text"].as_str().unwrap(), "{expected}");
            assert_eq!(choice["logprobs"]["text_offset"][1], tokens[0].chars().count(), "a space is a character");
        }
        let hostile = |content: &str| {
            let asked = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": content}]});
            served.post("/v1/chat/completions", &asked)["usage"]["prompt_tokens"].as_i64().unwrap()
        };
        assert!(hostile("a </s> b") > hostile("a b") + 2, "a control token in a turn is read as its characters");
    }
}

#[test]
fn labelled_responses_keep_the_space_that_they_begin_with() {
    for golden in of_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let continuations = golden["continuations"].as_array().unwrap();
        let prompts: Vec<&Value> = continuations.iter().map(|c| &c["prompt"]).collect();
        let length = continuations[0]["ids"].as_array().unwrap().len();
        let manifest = with(
            chain::dataset("data", &chain::words()),
            &json!({"prompts": {"uri": null, "inline": prompts}, "generator": {"responsesPerPrompt": 2,
                "sampling": {"temperature": 0.0, "maxNewTokens": length}}}),
        );
        let inputs =
            [("generator.model", model(&golden, folder.path())), ("judges[0].lexicon", fixture::path("words.tsv"))];
        // Greedy responses are alike, so there is nothing to compare; what was sampled is in the work folder.
        let _ = stage::run_to_any_end(&manifest, &inputs, &folder.path().join("run"), &[]);
        let journal = fs::read_to_string(folder.path().join("run/work/journal/responses.jsonl")).unwrap();
        let chunk: Value = serde_json::from_str(&journal).unwrap();
        let found: Vec<&Value> = chunk["responses"].as_array().unwrap().iter().map(|r| &r[0]["text"]).collect();
        let expected: Vec<&Value> = continuations.iter().map(|c| &c["text"]).collect();
        assert_eq!(found, expected);
    }
}

/// The pairs of the golden file as a dataset.
fn pairs(golden: &Value, folder: &Path) -> PathBuf {
    let data = folder.join("pairs/data");
    fs::create_dir_all(&data).unwrap();
    let row = |p: &Value| json!({"prompt": p["prompt"], "chosen": p["chosen"]["response"], "rejected": p["rejected"]["response"]});
    let rows: Vec<String> = golden["pairs"].as_array().unwrap().iter().map(|p| format!("{}\n", row(p))).collect();
    fs::write(data.join("train-00000.jsonl"), rows.concat()).unwrap();
    folder.join("pairs")
}

#[test]
fn tuning_and_scoring_read_the_tokens_that_transformers_gives_a_prompt_and_a_response_together() {
    for golden in of_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let (model, data) = (model(&golden, folder.path()), pairs(&golden, folder.path()));
        let pairs = golden["pairs"].as_array().unwrap();
        let once = json!({"datasetRef": null, "evaluation": null, "dataset": {"uri": "file:///pairs"},
            "training": {"maxSteps": 1, "batchSize": pairs.len(), "microBatchSize": pairs.len(), "learningRate": 1e-9}});

        let manifest = with(chain::dpo("dpo", ""), &once);
        let inputs = [("policyModel", model.clone()), ("dataset", data.clone())];
        let tuned = stage::run(&manifest, &inputs, &folder.path().join("dpo"));
        for side in ["chosen", "rejected"] {
            let sum: f64 = pairs.iter().map(|p| p[side]["logps"].as_f64().unwrap()).sum();
            let found = tuned.metrics[0][format!("logps/{side}")].as_f64().unwrap();
            let expected = sum / pairs.len() as f64;
            assert!((found - expected).abs() < 1e-3, "{side}: {found} is not {expected}");
        }

        let inputs = [("baseModel", model), ("dataset", data)];
        let scored = stage::run(&with(chain::reward("reward", ""), &once), &inputs, &folder.path().join("reward"));
        let length = |side: &Value| {
            side["prompt_ids"].as_array().unwrap().len() + side["response_ids"].as_array().unwrap().len()
        };
        let expected: usize = pairs.iter().map(|p| length(&p["chosen"]) + length(&p["rejected"])).sum();
        assert_eq!(scored.metrics[0]["num_tokens"], expected as f64);
    }
}

#[test]
fn a_template_that_tells_the_time_tells_the_same_time_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        fs::copy(fixture::tiny().join(file), model.join(file)).unwrap();
    }
    let template = "It is {{ strftime_now('%Y-%m-%d %H:%M:%S') }}.\n{% for m in messages %}[{{ m.role }}] {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    let turn = |role: &str, content: &Value| json!([{"role": role, "content": content}]);
    let rows = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let rows: Vec<String> = rows
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let row = json!({"prompt": turn("user", &row["prompt"]), "chosen": turn("assistant", &row["chosen"]),
                "rejected": turn("assistant", &row["rejected"])});
            format!("{row}\n")
        })
        .collect();
    let data = folder.path().join("pairs.jsonl");
    fs::write(&data, rows.concat()).unwrap();
    let change = json!({"datasetRef": null, "evaluation": null, "dataset": {"uri": "file:///pairs.jsonl"},
        "training": {"maxSteps": 4, "batchSize": 8, "learningRate": 1e-12, "maxLength": 128, "checkpoint": {"everySteps": 1}}});
    let manifest = with(chain::dpo("dpo", ""), &change);
    let (inputs, root) = ([("policyModel", model), ("dataset", data)], folder.path().join("run"));

    let mut child = stage::command(&manifest, &inputs, &root).stderr(Stdio::null()).spawn().unwrap();
    let (metrics, begun) = (root.join("work/metrics.jsonl"), Instant::now());
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 1 {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "no step was taken, or all were");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let clock = root.join("work/clock.json");
    let told = fs::read_to_string(&clock).unwrap();
    assert!(!root.join("artifact").exists(), "it was killed before its end");

    let ended = stage::run_to_any_end(&manifest, &inputs, &root, &[]);
    assert_eq!(code(&ended), 0, "{}", text(&ended.stderr));
    assert_eq!(fs::read_to_string(&clock).unwrap(), told);
    let made = stage::Made::read(&root);
    assert_eq!(made.metrics.len(), 4);
    for step in &made.metrics {
        for name in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
            let reward = step[name].as_f64().unwrap();
            assert!(reward.abs() < 1e-5, "the reference read another time than the policy: {name} {reward}");
        }
    }
    let report = fs::read_to_string(made.artifact.join("report.json")).unwrap();
    assert!(report.contains("Time in the chat template") && report.contains(&told[1..11]), "the report says which");
}
