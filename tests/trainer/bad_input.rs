//! What is wrong with a model, a dataset, a prompt or a judge ends the run with the exit code and the reason of the
//! contract and a message that names the file, the URL or the field; and what was paid for before is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_feedback::judge::journal::Journal;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fixture;
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use plumbline_testkit::place::Place;
use plumbline_trainer::load::hugging_face::{read_safetensors, write_safetensors};
use serde_json::{Value, json};
use tch::Kind as Precision;

const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");
const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
const DPO: (Kind, &str) = (Kind::PolicyTuning, "dpo");
const PPO: (Kind, &str) = (Kind::PolicyTuning, "ppo");

/// The run ends with `code`, the status says `reason`, and message and screen hold each of `words`.
#[track_caller]
fn assert_fails(place: &Place, (kind, name): (Kind, &str), code: i32, reason: Reason, words: &[&str]) {
    let ended = place.run();
    assert_eq!(ended.code(), code, "{}", ended.said());
    let status = place.status(kind, name);
    assert_eq!(status.leading_reason(), reason, "{}", ended.said());
    assert!(status.is_true(ConditionType::Stalled) && !status.is_true(ConditionType::Ready), "{status:?}");
    assert!(status.artifact.is_none() && !place.artifact(kind, name).exists(), "nothing was made");
    let message = &status.condition(ConditionType::Ready).unwrap().message;
    for word in words {
        assert!(message.contains(word), "expected `{word}` in: {message}");
        assert!(ended.said().contains(word), "expected `{word}` on the screen: {}", ended.said());
    }
}

/// A copy of the tiny model as a plain folder, to break.
fn model(place: &Place) -> PathBuf {
    let folder = place.path("model");
    fs::create_dir(&folder).unwrap();
    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        fs::copy(fixture::tiny().join(file), folder.join(file)).unwrap();
    }
    folder
}

/// A reward model of the pairs of the fixtures.
fn reward(changes: &Value) -> Value {
    let file =
        json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "training": {"maxSteps": 1}});
    with(with(chain::reward(REWARD.1, ""), &file), changes)
}

#[test]
fn a_truncated_model_file_is_named_as_not_whole() {
    let place = Place::new(&[]);
    let folder = model(&place);
    place.write(&[reward(&json!({"baseModel": {"uri": place.uri("model")}}))]);
    let weights = folder.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        assert_fails(&place, REWARD, 3, Reason::DataInvalid, &["model/model.safetensors"]);
    }
    fs::write(&weights, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    assert_fails(&place, REWARD, 3, Reason::DataInvalid, &["model/model.safetensors", "git lfs pull"]);
    fs::remove_file(&weights).unwrap();
    assert_fails(&place, REWARD, 3, Reason::DataInvalid, &["model/model.safetensors"]);
    fs::write(&weights, whole).unwrap();
    let _ = place.run().well();
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let place = Place::new(&[]);
    let folder = model(&place);
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let other = text.replace("\"intermediate_size\": 256", "\"intermediate_size\": 260");
    assert_ne!(text, other);
    fs::write(&config, other).unwrap();
    place.write(&[reward(&json!({"baseModel": {"uri": place.uri("model")}}))]);
    let expected = ["model.safetensors", "model.layers.0.mlp.gate_proj.weight", "[256, 96]", "[260, 96]"];
    assert_fails(&place, REWARD, 3, Reason::DataInvalid, &expected);
    let status = place.status(REWARD.0, REWARD.1);
    assert_eq!(status.job.unwrap().attempt, 1, "trying again would not help");
}

#[test]
fn a_missing_tensor_and_another_family_are_named() {
    let place = Place::new(&[]);
    let folder = model(&place);
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5")).unwrap();
    place.write(&[reward(&json!({"baseModel": {"uri": place.uri("model")}}))]);
    assert_fails(
        &place,
        REWARD,
        3,
        Reason::DataInvalid,
        &["/model:", "model.layers.4.input_layernorm.weight", "config.json"],
    );
    fs::write(&config, text.replace("\"model_type\": \"llama\"", "\"model_type\": \"rwkv\"")).unwrap();
    assert_fails(&place, REWARD, 2, Reason::TrainerConfigRejected, &["/model:", "config.json", "rwkv"]);
}

/// Changes one number of a weight of `model.safetensors` to NaN.
fn spoil(weights: &Path, name: &str) {
    let mut tensors = read_safetensors(weights).unwrap();
    let _ = tensors.get_mut(name).unwrap().get(3).get(5).fill_(f64::NAN);
    write_safetensors(weights, &tensors).unwrap();
}

#[test]
fn a_weight_that_is_not_finite_ends_every_stage_before_it_computes_and_is_not_tried_again() {
    let place = Place::new(&[]);
    let weights = model(&place).join("model.safetensors");
    spoil(&weights, "model.layers.2.mlp.up_proj.weight");
    let model = json!({"uri": place.uri("model")});
    let pairs = json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "evaluation": null});
    let dpo = with(with(chain::dpo(DPO.1, ""), &pairs), &json!({"policyModel": model}));
    let dataset = with(chain::dataset(DATA.1, &chain::words()), &json!({"generator": {"model": model}}));
    for (resource, named) in [(reward(&json!({"baseModel": model})), REWARD), (dpo, DPO), (dataset, DATA)] {
        place.write(&[resource]);
        let words = ["model/model.safetensors", "'model.layers.2.mlp.up_proj.weight'", "not finite", "[3, 5]"];
        assert_fails(&place, named, 3, Reason::DataInvalid, &words);
        assert_eq!(place.status(named.0, named.1).job.unwrap().attempt, 1, "trying again would not help");
    }
}

#[test]
fn a_model_that_computes_no_numbers_is_named_before_anything_is_learnt_from_it() {
    let place = Place::new(&[]);
    let weights = model(&place).join("model.safetensors");
    let mut tensors = read_safetensors(&weights).unwrap();
    let large = tensors["model.layers.2.mlp.down_proj.weight"].to_kind(Precision::Float).sign() * 1e38;
    tensors.insert("model.layers.2.mlp.down_proj.weight".into(), large);
    write_safetensors(&weights, &tensors).unwrap();
    let changes = json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "evaluation": null,
        "policyModel": {"uri": place.uri("model")}});
    place.write(&[with(chain::dpo(DPO.1, ""), &changes)]);
    assert_fails(&place, DPO, 3, Reason::DataInvalid, &["spec.policyModel", "log-probabilities", "not finite"]);
    assert_eq!(place.status(DPO.0, DPO.1).job.unwrap().attempt, 1, "trying again would not help");
}

#[test]
fn a_judge_that_says_the_same_of_every_pair_fails_a_gate_and_responses_that_are_all_alike_are_no_pairs() {
    let place = Place::new(&[]);
    let config = Config { answers_all: true, ..Config::default() };
    let always_first =
        JudgeSim::start(config.faults(|_, _| {
            Some(Fault::changed(|completion| completion["choices"][0]["message"]["content"] = json!("A")))
        }));
    let judge = json!({"name": "j", "labelSource": "Verdict", "endpoint": {"url": always_first.url(), "model": "m"}});
    let few = json!({"prompts": {"uri": null, "inline": ["Once upon a", "The old house"], "validationFraction": null},
        "generator": {"responsesPerPrompt": 3}, "pairs": {"perPrompt": 3}});
    let dataset = with(chain::dataset(DATA.1, &judge), &few);
    place.write(std::slice::from_ref(&dataset));
    let words = ["maxConflictRate", "of 6 of 6 pairs", "100.0 % of the verdicts favour the response shown first"];
    assert_fails(&place, DATA, 9, Reason::GateFailed, &words);
    let greedy = with(dataset, &json!({"generator": {"sampling": {"temperature": 0.0}}}));
    place.write(&[greedy]);
    let words = ["of 6 responses to 2 prompts, 0 are empty", "too similar", "sampling.temperature"];
    assert_fails(&place, DATA, 3, Reason::DataInvalid, &words);
}

#[test]
fn a_reward_model_in_place_of_a_policy_is_called_what_it_is() {
    let place = Place::new(&[reward(&json!({}))]);
    let _ = place.run().well();
    let model = format!("file://{}", place.artifact(REWARD.0, REWARD.1).display());
    let changes = json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "evaluation": null,
        "policyModel": {"uri": model}});
    place.write(&[with(chain::dpo(DPO.1, ""), &changes)]);
    assert_fails(&place, DPO, 3, Reason::DataInvalid, &["a reward model (it has the tensor 'score.weight')"]);
}

#[test]
fn a_reward_model_with_another_tokenizer_is_refused_before_anything_is_sampled() {
    let place = Place::new(&[]);
    let path = model(&place).join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let [one, other] = ["!", "#"].map(|token| vocabulary[token].clone());
    vocabulary["!"] = other;
    vocabulary["#"] = one;
    fs::write(&path, tokenizer.to_string()).unwrap();
    let base = json!({"baseModel": {"uri": place.uri("model")}});
    place.write(&[reward(&base), chain::ppo(PPO.1, REWARD.1)]);
    assert_fails(
        &place,
        PPO,
        2,
        Reason::TrainerConfigRejected,
        &["spec.rewardModelRef", "\"!\" is not token 1", "tokenizer"],
    );
    assert_eq!(place.lines(PPO.0, PPO.1, "metrics.jsonl"), 0);
}

#[test]
fn a_token_outside_the_models_vocabulary_is_named_and_is_not_tried_again() {
    let place = Place::new(&[]);
    let path = model(&place).join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": 1024, "content": "<|im_start|>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}));
    fs::write(&path, tokenizer.to_string()).unwrap();
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let record = json!({"prompt": "It is", "chosen": " a<|im_start|>", "rejected": " the sea.", "p": 0.9});
    fs::write(place.path("pairs.jsonl"), format!("{record}\n{pairs}")).unwrap();
    let (model, file) = (json!({"uri": place.uri("model")}), json!({"uri": place.uri("pairs.jsonl")}));
    let changes = json!({"datasetRef": null, "dataset": file, "evaluation": null, "policyModel": model});
    for (resource, named) in
        [(reward(&json!({"baseModel": model, "dataset": file})), REWARD), (with(chain::dpo(DPO.1, ""), &changes), DPO)]
    {
        place.write(&[resource]);
        assert_fails(&place, named, 3, Reason::DataInvalid, &["tokenizer.json", "<|im_start|>", "1024"]);
        assert_eq!(place.status(named.0, named.1).job.unwrap().attempt, 1, "trying again would not help");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_named_with_its_length_and_the_context() {
    let long = ["The people of the United States"; 80].join(" ");
    let prompts = json!({"prompts": {"uri": null, "inline": ["It is a fine day", long]}});
    let place = Place::new(&[with(chain::dataset(DATA.1, &chain::words()), &prompts)]);
    assert_fails(
        &place,
        DATA,
        3,
        Reason::DataInvalid,
        &["spec.prompts", "\"The people of the United States", "tokens", "context of 256"],
    );
}

#[test]
fn a_pair_longer_than_the_context_is_left_out_whatever_max_length_says() {
    let place = Place::new(&[]);
    let long = format!(" {}", ["the people of the United States"; 80].join(" "));
    let record = json!({"prompt": "It is", "chosen": long, "rejected": " the sea.", "p": 0.9});
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    fs::write(place.path("pairs.jsonl"), format!("{record}\n{pairs}")).unwrap();
    let changes = json!({"dataset": {"uri": place.uri("pairs.jsonl")}, "training": {"maxLength": 1024, "maxSteps": 2}});
    let dpo = with(with(chain::dpo(DPO.1, ""), &json!({"datasetRef": null, "evaluation": null})), &changes);
    place.write(&[with(reward(&json!({})), &changes), dpo]);
    let _ = place.run().well();
    let report = fs::read_to_string(place.artifact(REWARD.0, REWARD.1).join("report.json")).unwrap();
    assert!(report.contains("Pairs left out"), "it is counted where people look");

    fs::write(place.path("pairs.jsonl"), format!("{record}\n")).unwrap();
    place.write(&[with(reward(&json!({})), &changes)]);
    let ended = place.run();
    assert_eq!(ended.code(), 3, "{}", ended.said());
    assert!(ended.said().contains("pairs.jsonl") && ended.said().contains("256"), "{}", ended.said());
}

#[test]
fn a_line_that_is_no_preference_is_named_with_its_number() {
    let place = Place::new(&[]);
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let second_line_cut = pairs.replacen("\"rejected\"", "\"refused\"", 2).replacen("\"refused\"", "\"rejected\"", 1);
    fs::write(place.path("pairs.jsonl"), second_line_cut).unwrap();
    place.write(&[reward(&json!({"dataset": {"uri": place.uri("pairs.jsonl")}}))]);
    assert_fails(&place, REWARD, 3, Reason::DataInvalid, &["pairs.jsonl:2:", "rejected"]);
}

#[test]
fn an_altered_artifact_is_refused_by_name_and_an_incomplete_one_is_no_artifact() {
    let few = json!({"prompts": {"limit": 32}});
    let place = Place::new(&[with(chain::dataset(DATA.1, &chain::words()), &few)]);
    let _ = place.run().well();
    let artifact = place.artifact(DATA.0, DATA.1);
    let train = artifact.join("data/train-00000.jsonl");
    let original = fs::read_to_string(&train).unwrap();

    // As the output of a resource of this work folder.
    fs::write(&train, original.replacen("\"p\":0.", "\"p\":1.", 1)).unwrap();
    let ended = place.run();
    assert_eq!(ended.code(), 3);
    assert_eq!(place.status(DATA.0, DATA.1).leading_reason(), Reason::DataInvalid);
    assert!(ended.said().contains("data/train-00000.jsonl"), "{}", ended.said());

    // As an input that a manifest names by its path.
    let by_path = Place::new(&[reward(&json!({"dataset": {"uri": format!("file://{}", artifact.display())}}))]);
    let ended = by_path.run();
    assert_eq!(ended.code(), 3);
    assert!(ended.said().contains("data/train-00000.jsonl") && ended.said().contains("dataset"), "{}", ended.said());
    assert!(by_path.find_run(REWARD.0, REWARD.1).is_none(), "nothing was started on it");

    fs::write(&train, original).unwrap();
    let manifest = artifact.join("manifest.json");
    let complete = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    let ended = by_path.run();
    assert_eq!(ended.code(), 2, "{}", ended.said());
    for word in ["spec.dataset.uri", "manifest.json", artifact.to_str().unwrap()] {
        assert!(ended.said().contains(word), "expected `{word}`: {}", ended.said());
    }
    fs::write(&manifest, complete).unwrap();
    let _ = by_path.run().well();
}

/// A dataset with a judge behind an endpoint.
fn asked(url: &str) -> Value {
    let judge = json!({
        "name": "sim", "endpoint": {"url": url, "model": "planted"}, "mode": "Pointwise",
        "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}",
        "limits": {"concurrency": 2, "maxAttempts": 2, "timeoutSeconds": 5},
    });
    let few = json!({"prompts": {"limit": 24}, "generator": {"sampling": {"maxNewTokens": 12}}});
    with(chain::dataset(DATA.1, &judge), &few)
}

#[test]
fn a_judge_that_nobody_answers_for_is_named_by_its_url() {
    let url = JudgeSim::start(Config::default()).url().to_owned();
    let place = Place::new(&[asked(&url)]);
    assert_fails(&place, DATA, 4, Reason::JudgeUnavailable, &[&url, "Connection refused", "spec.judges[0]"]);
}

/// A judge that answers 20 questions and then does something else, until it is healed: the run ends as the contract says,
/// what was answered is in the journal, and the next run asks for the rest alone.
#[track_caller]
fn fails_after_twenty(fault: Fault, code: i32, reason: Reason, words: &[&str]) {
    let healed = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&healed);
    let sim = JudgeSim::start(
        Config::default()
            .faults(move |number, _| (number >= 20 && !broken.load(Ordering::SeqCst)).then(|| fault.clone())),
    );
    let place = Place::new(&[asked(sim.url())]);
    assert_fails(&place, DATA, code, reason, &[&[sim.url(), "spec.judges[0]"], words].concat());
    let journal = place.find_run(DATA.0, DATA.1).unwrap().join("journal");
    assert_eq!((sim.answered(), answers(&journal)), (20, 20), "what was answered is kept, what failed is no answer");
    healed.store(true, Ordering::SeqCst);
    let _ = place.run().well();
    let status = place.status(DATA.0, DATA.1);
    assert_eq!(sim.answered() as i64, status.counts["questions"]);
    assert_eq!(status.counts["failedPairs"], 0, "{:?}", status.counts);
    assert!(sim.bought().values().all(|times| *times == 1), "nothing was bought twice");
}

fn answers(journal: &Path) -> usize {
    Journal::open(journal).unwrap().len()
}

#[test]
fn a_judge_that_refuses_the_key_ends_the_run_at_once() {
    let body = r#"{"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}"#;
    let words = ["HTTP 401", "API key provided", "The key is missing, wrong or not allowed"];
    fails_after_twenty(Fault::Status(401, body, None), 7, Reason::JudgeRejected, &words);
}

#[test]
fn a_judge_that_is_busy_for_good_is_unavailable() {
    let body = r#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#;
    fails_after_twenty(Fault::Status(429, body, Some("0")), 4, Reason::JudgeUnavailable, &["HTTP 429", "slow down"]);
}

#[test]
fn a_judge_that_breaks_on_every_question_is_unavailable() {
    fails_after_twenty(Fault::Status(500, "boom", None), 4, Reason::JudgeUnavailable, &["HTTP 500", "boom"]);
}

#[test]
fn a_judge_that_answers_garbage_is_unavailable_and_garbage_is_no_label() {
    let page = "<html><body>maintenance</body></html>";
    fails_after_twenty(Fault::Body(page), 4, Reason::JudgeUnavailable, &["HTTP 200", "maintenance"]);
}
