//! What an artifact's report says is measured on the artifact's own files: merging adapters and rounding to the type of the
//! base model's weights change a model, here one in float16.

use std::f64::consts::LN_2;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plumbline_crds::training::Precision;
use plumbline_tests::chain::{self, with};
use plumbline_tests::programs::{code, text, trainer};
use plumbline_tests::{fixture, stage};
use plumbline_trainer::data::preference::{self, Preference};
use plumbline_trainer::data::tokens;
use plumbline_trainer::load::tokenizer::Tokenizer;
use plumbline_trainer::measure::calibration::calibration;
use plumbline_trainer::stage::reward::RewardModel;
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
    let tokens = |record: &Preference, response| {
        tokens::sequence(&tokenizer, &record.prompt, response).unwrap().sequence.tokens()
    };
    let responses: Vec<Vec<i64>> =
        held_out.iter().flat_map(|record| [&record.chosen, &record.rejected].map(|r| tokens(record, r))).collect();
    let scores = RewardModel::load(&made.artifact, Precision::Float32, Device::Cpu).unwrap().score(&responses);
    let points: Vec<(f64, f64)> =
        scores.chunks(2).zip(&held_out).map(|(pair, record)| (pair[0] - pair[1], record.p)).collect();
    let summary = read(&made.artifact.join("summary.json"));
    let (reported, log_loss) = (summary["log_loss"].as_f64().unwrap(), calibration(&points, 10).unwrap().log_loss);
    assert!((reported - log_loss).abs() < 1e-9 && (reported - LN_2).abs() > 1e-4, "{reported} {log_loss}");
}
