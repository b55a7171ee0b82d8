//! The losses of the DPO family in whole runs: where they start, what they compute of a reference, and which model that is.

use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::dpo::DpoLoss;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::programs::{code, text};
use plumbline_testkit::{fixture, stage};
use serde_json::{Value, json};

const BETA: f64 = 0.1;

fn few(dpo: &Value) -> Value {
    let file = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
        "training": {"maxSteps": 6, "batchSize": 16}});
    with(with(chain::dpo("d", ""), &file), &json!({"dpo": dpo}))
}

fn inputs() -> Vec<(&'static str, PathBuf)> {
    vec![("policyModel", fixture::tiny()), ("dataset", fixture::path("pairs.jsonl"))]
}

/// Where the log-probabilities of a reference are kept.
fn of_reference(root: &Path) -> PathBuf {
    root.join("work/reference-logprobs.json")
}

#[test]
fn every_loss_with_a_reference_starts_at_its_documented_value() {
    let ln2 = std::f64::consts::LN_2;
    let root = tempfile::tempdir().unwrap();
    for loss in DpoLoss::ALL.into_iter().filter(|l| l.uses_reference()) {
        let start = match loss {
            DpoLoss::Sigmoid | DpoLoss::SigmoidNorm | DpoLoss::Robust => ln2,
            DpoLoss::Hinge | DpoLoss::ApoZero | DpoLoss::ApoDown => 1.0,
            DpoLoss::Ipo => 1.0 / (4.0 * BETA * BETA),
            DpoLoss::ExoPair => -(4.0f64 * 0.1 * 0.9).ln() / 2.0,
            DpoLoss::NcaPair | DpoLoss::BcoPair => 2.0 * ln2,
            DpoLoss::SppoHard => 1.0 / (2.0 * BETA * BETA),
            DpoLoss::Discopop => f64::midpoint(ln2, 1.0),
            other => panic!("{other:?} has no documented start"),
        };
        let smoothing = if loss.reads_label_smoothing() { 0.1 } else { 0.0 };
        let start = if loss == DpoLoss::SppoHard { start * 0.64 } else { start };
        let manifest = few(&json!({"loss": loss, "beta": BETA, "labelSmoothing": smoothing}));
        let manifest = with(manifest, &json!({"training": {"maxSteps": 1}}));
        let folder = root.path().join(format!("{loss:?}"));
        let output = stage::run_to_any_end(&manifest, &inputs(), &folder, &[]);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 0, "{said}");
        let first = stage::Made::read(&folder).metrics[0]["loss"].as_f64().unwrap();
        assert!((first - start).abs() < 1e-4 * start.max(1.0), "{loss:?} starts at {first}, expected {start}");
        assert!(said.contains("policy and reference are still the same model"), "{loss:?}: {said}");
    }
}

#[test]
fn losses_without_a_reference_learn_and_compute_none() {
    for loss in DpoLoss::ALL.into_iter().filter(|l| !l.uses_reference() && *l != DpoLoss::Sft) {
        let root = tempfile::tempdir().unwrap();
        let losses = json!([{"loss": loss}, {"loss": "Sft", "weight": 0.5}]);
        let made = stage::run(&few(&json!({"losses": losses})), &inputs(), root.path());
        assert!(!of_reference(root.path()).exists(), "{loss:?} computed a reference");
        let report = fs::read_to_string(made.artifact.join("report.html")).unwrap();
        assert!(report.contains(&format!("<dd>{loss:?} + 0.5 Sft</dd>")), "{loss:?} is not named in the report");
        let curve = |name: &str| made.metrics.iter().map(|m| m[name].as_f64().unwrap()).collect::<Vec<_>>();
        for name in ["loss", "nll_loss"] {
            let values = curve(name);
            assert!(values[5] < values[0], "{loss:?}: {name} does not fall: {values:?}");
        }
        let margins = curve("rewards/margins");
        assert!(margins[5] > margins[0], "{loss:?}: {margins:?}");
        assert_eq!(loss == DpoLoss::Orpo, made.metrics[0]["log_odds_ratio"].is_number(), "{loss:?}");
    }
}

#[test]
fn another_reference_model_takes_the_place_of_the_policys_start() {
    let root = tempfile::tempdir().unwrap();
    let of = |name: &str, model: Option<PathBuf>| {
        let dpo = if model.is_some() { json!({"referenceModel": {"uri": "m"}}) } else { json!({}) };
        let mut inputs = inputs();
        inputs.extend(model.map(|path| ("dpo.referenceModel", path)));
        stage::run(&few(&dpo), &inputs, &root.path().join(name))
    };
    let alone = of("alone", None);
    assert_eq!(of("same", Some(fixture::tiny())).metrics, alone.metrics, "the same model is the same reference");

    let tuned = of("tuned", Some(alone.artifact.clone()));
    let first = |made: &stage::Made, name: &str| made.metrics[0][name].as_f64().unwrap();
    assert!(first(&alone, "rewards/margins").abs() < 1e-4, "the policy is its own reference");
    let margin = first(&tuned, "rewards/margins");
    assert!(margin < -1e-3, "the tuned reference has a larger margin than the policy at its start: {margin}");
    assert_eq!(first(&tuned, "logps/chosen").to_bits(), first(&alone, "logps/chosen").to_bits(), "one policy");
}

#[test]
fn a_reference_model_that_does_not_read_the_policys_tokens_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let model = |name: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        for entry in
            fs::read_dir(fixture::tiny()).unwrap().map(Result::unwrap).filter(|e| e.file_name() != "manifest.json")
        {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let mut json: Value = serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap();
        change(&mut json);
        fs::write(folder.join(file), json.to_string()).unwrap();
        folder
    };
    let other_tokens = model("tokens", "tokenizer.json", &|tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let [one, other] = ["!", "#"].map(|token| vocabulary[token].clone());
        vocabulary["!"] = other;
        vocabulary["#"] = one;
    });
    let short = model("short", "config.json", &|config| config["max_position_embeddings"] = json!(8));
    for (name, path, words) in [
        ("a", other_tokens, "expected the tokenizer of the policy"),
        ("b", short, "found 8; lower spec.training.maxLength to 8"),
    ] {
        let mut inputs = inputs();
        inputs.push(("dpo.referenceModel", path));
        let root = root.path().join(name);
        let output = stage::run_to_any_end(&few(&json!({"referenceModel": {"uri": "m"}})), &inputs, &root, &[]);
        let said = text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code(&output), 2, "{said}");
        assert!(said.contains("spec.dpo.referenceModel") && said.contains(words), "{said}");
        assert!(!of_reference(&root).exists());
    }
}
