//! What an artifact's report says is measured on the artifact's own files: merging adapters and rounding to the type of the
//! base model's weights change a model, here one in float16.

use std::f64::consts::LN_2;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plumbline_crds::training::Precision;
use plumbline_feedback::data::preference::{self, Preference};
use plumbline_feedback::data::tokens;
use plumbline_feedback::measure::calibration::calibration;
use plumbline_feedback::text::tokenizer::Tokenizer;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use plumbline_testkit::programs::{code, text, trainer};
use plumbline_testkit::{fixture, stage};
use plumbline_trainer::model::reward_model::RewardModel;
use serde_json::{Value, json};
use tch::Device;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

#[test]
fn a_tuned_model_that_is_evaluated_again_has_the_same_numbers() {
    let adapter = |save: &str| json!({"rank": 4, "alpha": 8.0, "save": save});
    for adapter in [Value::Null, adapter("Merged"), adapter("Adapter")] {
        let root = tempfile::tempdir().unwrap();
        let few = json!({
            "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
            "training": {"maxSteps": 3, "batchSize": 8, "microBatchSize": 8, "adapter": adapter},
            "evaluation": {
                "prompts": {"uri": null, "inline": ["Once upon a", "The old house", "My dear friend"]},
                "samplesPerPrompt": 2, "sampling": {"maxNewTokens": 8}, "judge": null, "lexicons": null,
            },
        });
        let manifest = with(chain::dpo("tuned", ""), &few);
        let inputs = [("policyModel", fixture::tiny()), ("dataset", fixture::path("pairs.jsonl"))];
        let made = stage::run(&manifest, &inputs, root.path());
        let mut again = Command::new(trainer());
        again.args(["evaluate", "--run"]).arg(root.path().join("run.yaml")).env("OMP_NUM_THREADS", "1");
        let output = again.output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let summary = read(&made.artifact.join("summary.json"));
        let numbers = read(&root.path().join("work/re-evaluation/evaluation.json"));
        let numbers = numbers["numbers"].as_object().unwrap();
        assert!(numbers.len() > 4 && numbers["kl"].as_f64().unwrap().abs() > 1e-4, "{adapter}: {numbers:?}");
        for (name, number) in numbers {
            let reported = summary.pointer(&format!("/{}", name.replace('.', "/"))).or_else(|| summary.get(name));
            assert_eq!(reported, Some(number), "{adapter}: {name}: {summary}");
        }
    }
}

#[test]
fn the_accuracy_of_a_reward_model_is_that_of_the_saved_one() {
    let root = tempfile::tempdir().unwrap();
    let pairs = fixture::path("pairs.jsonl");
    let few = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
        "training": {"maxSteps": 3, "batchSize": 8, "microBatchSize": 8, "adapter": null},
    });
    let manifest = with(chain::reward("reward", ""), &few);
    let inputs: [(&str, PathBuf); 2] = [("baseModel", fixture::tiny()), ("dataset", pairs.clone())];
    let made = stage::run(&manifest, &inputs, root.path());
    let tokenizer = Tokenizer::load(&fixture::tiny()).unwrap();
    let (_, held_out) = preference::read(&pairs).unwrap();
    let tokens = |record: &Preference| {
        let pair = tokens::pair(&tokenizer, &record.prompt, &record.chosen, &record.rejected).unwrap();
        pair.map(|side| side.sequence.tokens())
    };
    let responses: Vec<Vec<i64>> = held_out.iter().flat_map(tokens).collect();
    let scores = RewardModel::load(&made.artifact, Precision::Float32, Device::Cpu).unwrap().score(&responses);
    let points: Vec<(f64, f64)> =
        scores.chunks(2).zip(&held_out).map(|(pair, record)| (pair[0] - pair[1], record.p)).collect();
    let summary = read(&made.artifact.join("summary.json"));
    let (reported, log_loss) = (summary["log_loss"].as_f64().unwrap(), calibration(&points, 10).unwrap().log_loss);
    assert!((reported - log_loss).abs() < 1e-9 && (reported - LN_2).abs() > 1e-4, "{reported} {log_loss}");
}

#[test]
fn what_was_measured_on_training_pairs_is_called_so() {
    let root = tempfile::tempdir().unwrap();
    let pairs = root.path().join("pairs.jsonl");
    // All of one prompt: none can be held out.
    let pair = |i: usize| format!("{}\n", json!({"prompt": "Once", "chosen": format!(" a{i}"), "rejected": " b"}));
    fs::write(&pairs, (0..8).map(pair).collect::<String>()).unwrap();
    let manifest = with(chain::reward("reward", ""), &json!({"datasetRef": null, "dataset": {"uri": "pairs"}}));
    let inputs = [("baseModel", fixture::tiny()), ("dataset", pairs)];
    let made = stage::run(&manifest, &inputs, root.path());
    let summary = read(&made.artifact.join("summary.json"));
    assert!(summary["train_accuracy"].is_number() && summary["train_pairs"] == 8.0, "{summary}");
    assert!(summary.get("accuracy").is_none() && summary.get("pairs").is_none(), "{summary}");
    let report = read(&made.artifact.join("report.json"));
    assert_eq!(report["sections"][0]["title"], "Nothing was held out");
}

#[test]
fn a_judge_that_goes_by_the_order_is_no_evidence_of_a_win_rate() {
    let conflicts = |always_first: bool| {
        let config = Config { answers_all: true, ..Config::default() };
        let says_a = |completion: &mut Value| completion["choices"][0]["message"]["content"] = json!("A");
        let sim = JudgeSim::start(config.faults(move |_, _| always_first.then(|| Fault::changed(says_a))));
        let root = tempfile::tempdir().unwrap();
        let few = json!({
            "datasetRef": null, "dataset": {"uri": "pairs"},
            "training": {"maxSteps": 1, "batchSize": 8, "microBatchSize": 8},
            "evaluation": {
                "prompts": {"uri": null, "inline": ["Once upon a", "The old house", "My dear friend"]},
                "samplesPerPrompt": 2, "sampling": {"maxNewTokens": 8}, "lexicons": null, "judge": null,
            },
        });
        let mut manifest = with(chain::dpo("tuned", ""), &few);
        manifest["spec"]["evaluation"]["judge"] =
            json!({"name": "j", "labelSource": "Verdict", "endpoint": {"url": sim.url(), "model": "m"}});
        let inputs = [("policyModel", fixture::tiny()), ("dataset", fixture::path("pairs.jsonl"))];
        let made = stage::run(&manifest, &inputs, root.path());
        let report = fs::read_to_string(made.artifact.join("report.json")).unwrap();
        let summary = read(&made.artifact.join("summary.json"));
        (summary["conflicts"].as_f64(), report.contains("The judge follows the order more than the responses"))
    };
    assert_eq!(conflicts(false), (Some(0.0), false));
    assert_eq!(conflicts(true), (Some(6.0), true));
}
