//! How sequences are packed and cut into micro-batches changes memory, never a number: every metric of every training
//! method is the same for micro-batches of one and of eight, and a packed sequence is computed as if it were alone.

use std::path::{Path, PathBuf};

use plumbline_crds::training::Precision;
use plumbline_feedback::data::preference::read_file;
use plumbline_feedback::data::tokens::{Sequence, pair};
use plumbline_feedback::text::tokenizer::Tokenizer;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::{fixture, stage};
use plumbline_trainer::load::hugging_face::ModelFolder;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::reward_model::RewardModel;
use plumbline_trainer::train::responses::response_logprobs;
use serde_json::{Value, json};
use tch::Device;

/// Float32 sums in another order.
const TOLERANCE: f64 = 1e-5;

fn model(role: &'static str) -> (&'static str, PathBuf) {
    (role, fixture::tiny())
}

fn pairs() -> (&'static str, PathBuf) {
    ("dataset", fixture::path("pairs.jsonl"))
}

fn reward(changes: &Value, root: &Path) -> stage::Made {
    let few = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "training": {"maxSteps": 4, "batchSize": 8}});
    stage::run(&with(with(chain::reward("r", ""), &few), changes), &[model("baseModel"), pairs()], root)
}

/// Trains with micro-batches of one and of eight, and compares every metric of every step.
#[track_caller]
fn assert_same(train: impl Fn(&Value, &Path) -> stage::Made) {
    let root = tempfile::tempdir().unwrap();
    let [one, eight] = [1, 8].map(|size| {
        let changes = json!({"training": {"microBatchSize": size}});
        train(&changes, &root.path().join(size.to_string())).metrics
    });
    assert!(one.len() >= 3 && one.len() == eight.len(), "{} steps", one.len());
    for (a, b) in one.iter().zip(&eight) {
        assert_eq!(a.as_object().unwrap().len(), b.as_object().unwrap().len());
        // Before the first step the policy is its reference, and which response it prefers is the sign of a rounding error.
        let step = &a["step"];
        let first = *step == one[0]["step"];
        for (name, value) in a.as_object().unwrap().iter().filter(|(n, _)| !first || *n != "rewards/accuracies") {
            let (a, b) = (value.as_f64().unwrap(), b[name].as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE * (1.0 + a.abs()), "{name} at step {step}: {a} and {b}");
        }
    }
}

#[test]
fn a_reward_model_learns_the_same_from_micro_batches_of_any_size() {
    assert_same(reward);
}

#[test]
fn dpo_learns_the_same_from_micro_batches_of_any_size() {
    assert_same(|changes, root| {
        let file = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
            "training": {"maxSteps": 4, "batchSize": 8}});
        stage::run(&with(with(chain::dpo("d", ""), &file), changes), &[model("policyModel"), pairs()], root)
    });
}

#[test]
fn dpo_with_an_adapter_above_frozen_layers_learns_the_same_too() {
    assert_same(|changes, root| {
        let file = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
            "training": {"maxSteps": 4, "batchSize": 8, "learningRate": 3e-3, "adapter": {"rank": 4, "alpha": 8, "lastLayers": 2}}});
        stage::run(&with(with(chain::dpo("d", ""), &file), changes), &[model("policyModel"), pairs()], root)
    });
}

/// DPO with one loss or several, and settings that these read.
fn assert_losses_same(dpo: &Value) {
    assert_same(|changes, root| {
        let file = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null, "dpo": dpo,
            "training": {"maxSteps": 4, "batchSize": 8}});
        stage::run(&with(with(chain::dpo("d", ""), &file), changes), &[model("policyModel"), pairs()], root)
    });
}

#[test]
fn every_loss_with_a_reference_learns_the_same_from_micro_batches_of_any_size() {
    let of = |loss: &str| json!({"loss": loss});
    let large = |loss: &str| json!({"loss": loss, "weight": 0.01});
    let plain = ["Sigmoid", "SigmoidNorm", "Hinge", "NcaPair", "BcoPair", "ApoZero", "ApoDown", "Discopop"].map(of);
    let all = [plain.as_slice(), &["Ipo", "SppoHard"].map(large)].concat();
    assert_losses_same(&json!({"losses": all}));
    let smoothed = ["Robust", "ExoPair", "Sft"].map(of);
    assert_losses_same(&json!({"losses": smoothed, "labelSmoothing": 0.1}));
}

#[test]
fn losses_without_a_reference_learn_the_same_from_micro_batches_of_any_size() {
    let losses = ["Simpo", "Orpo", "Cpo", "Sft"].map(|loss| json!({"loss": loss}));
    assert_losses_same(&json!({"losses": losses}));
}

#[test]
fn sft_learns_the_same_from_micro_batches_of_any_size() {
    let texts = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    let records = read_file(&fixture::path("pairs.jsonl")).unwrap();
    let text = |i: usize| format!("{}{}", records[i].prompt.to_text(), records[i].chosen.to_text());
    let lines: Vec<String> = (0..32).map(|i| format!("{}\n", json!({"text": text(i)}))).collect();
    std::fs::write(texts.path(), lines.concat()).unwrap();
    assert_same(|changes, root| {
        let few = json!({"training": {"epochs": 1}});
        let inputs = [model("policyModel"), ("dataset", texts.path().to_owned())];
        stage::run(&with(with(chain::sft("s", "texts"), &few), changes), &inputs, root)
    });
}

#[test]
fn ppo_learns_the_same_from_micro_batches_of_any_size() {
    let root = tempfile::tempdir().unwrap();
    let scorer = reward(&json!({}), root.path()).artifact;
    assert_same(|changes, root| {
        let few = json!({"evaluation": null, "rollout": {"promptsPerStep": 16},
            "training": {"maxSteps": 3, "batchSize": 8}});
        let inputs =
            [model("policyModel"), ("rewardModelRef", scorer.clone()), ("prompts", fixture::path("prompts.txt"))];
        stage::run(&with(with(chain::ppo("p", "r"), &few), changes), &inputs, root)
    });
}

#[test]
fn a_packed_sequence_is_computed_as_if_it_were_alone() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::load(&fixture::tiny()).unwrap();
    let records = read_file(&fixture::path("pairs.jsonl")).unwrap();
    let sequences: Vec<Sequence> = records
        .iter()
        .take(24)
        .map(|r| pair(&tokenizer, &r.prompt, &r.chosen, &r.rejected).unwrap()[0].sequence.clone())
        .collect();
    let all: Vec<&Sequence> = sequences.iter().collect();
    let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * (1.0 + a.abs());

    let decoder = ModelFolder::open(&fixture::tiny()).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();
    let packed = response_logprobs(&decoder, Adapters::Off, &all, 1.0);
    let scorer = RewardModel::load(&reward(&json!({}), root.path()).artifact, Precision::Float32, Device::Cpu).unwrap();
    let tokens: Vec<Vec<i64>> = sequences.iter().map(Sequence::tokens).collect();
    let scores = scorer.score(&tokens);
    assert!(scores.iter().any(|s| (s - scores[0]).abs() > 1e-2), "the scores are not all alike: {scores:?}");
    for (i, sequence) in all.iter().enumerate() {
        let alone = &response_logprobs(&decoder, Adapters::Off, &[sequence], 1.0)[0];
        assert_eq!((packed[i].len(), alone.len()), (sequence.response.len(), sequence.response.len()));
        assert!(packed[i].iter().zip(alone).all(|(a, b)| close(*a, *b)), "{i}: {:?} and {alone:?}", packed[i]);
        let score = scorer.score(&tokens[i..=i])[0];
        assert!(close(score, scores[i]), "{i}: {score} and {}", scores[i]);
    }
}
