//! Twenty steps of DPO and of PPO on the tiny model follow the committed trajectory (`fixtures/trajectories.json`): a change
//! to a loss, an optimiser, a sampler or the order of the data shows here, wanted or not. To write the file anew after a
//! wanted one:
//!
//! ```sh
//! PLUMBLINE_WRITE_TRAJECTORIES=1 cargo test --workspace --test trainer trajectory
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_testkit::chain::{self, with};
use plumbline_testkit::{fixture, stage};
use serde_json::{Value, json};

/// As far as another processor's sums may lead away in twenty steps.
const TOLERANCE: f64 = 1e-4;
const STEPS: usize = 20;
const FILE: &str = "trajectories.json";

type Trajectories = BTreeMap<String, Vec<f64>>;

/// The curves of some metrics under `<method>/<metric>`.
fn curves(method: &str, metrics: &[Value], names: &[&str]) -> Trajectories {
    let curve = |name: &str| metrics.iter().map(|line| line[name].as_f64().unwrap()).collect::<Vec<f64>>();
    names.iter().map(|name| (format!("{method}: {name}"), curve(name))).collect()
}

fn train(root: &Path) -> Trajectories {
    let (model, pairs) = (fixture::tiny(), fixture::path("pairs.jsonl"));
    let file = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
        "training": {"maxSteps": STEPS, "batchSize": 8, "epochs": 3}});
    let dpo = stage::run(
        &with(chain::dpo("dpo", ""), &file),
        &[("policyModel", model.clone()), ("dataset", pairs.clone())],
        &root.join("dpo"),
    );
    let file =
        json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "training": {"maxSteps": STEPS, "batchSize": 8}});
    let reward = stage::run(
        &with(chain::reward("reward", ""), &file),
        &[("baseModel", model.clone()), ("dataset", pairs)],
        &root.join("reward"),
    );
    let few = json!({"evaluation": null, "rollout": {"promptsPerStep": 8, "sampling": {"maxNewTokens": 12}},
        "training": {"maxSteps": STEPS, "batchSize": 8}});
    let inputs =
        [("policyModel", model), ("rewardModelRef", reward.artifact), ("prompts", fixture::path("prompts.txt"))];
    let ppo = stage::run(&with(chain::ppo("ppo", "reward"), &few), &inputs, &root.join("ppo"));

    let mut all = curves("DPO", &dpo.metrics, &["loss", "rewards/margins", "grad_norm"]);
    all.extend(curves("reward", &reward.metrics, &["loss"]));
    let names = ["loss/policy_avg", "loss/value_avg", "objective/scores", "objective/kl", "policy/entropy_avg"];
    all.extend(curves("PPO", &ppo.metrics, &names));
    all
}

#[test]
fn training_follows_the_committed_trajectory() {
    let root = tempfile::tempdir().unwrap();
    let found = train(root.path());
    let file = fixture::path(FILE);
    if std::env::var_os("PLUMBLINE_WRITE_TRAJECTORIES").is_some() {
        fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let expected: Trajectories = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, values) in &found {
        assert_eq!((values.len(), expected[name].len()), (STEPS, STEPS), "{name}");
        for (step, (a, b)) in values.iter().zip(&expected[name]).enumerate() {
            assert!((a - b).abs() <= TOLERANCE * (1.0 + b.abs()), "{name} at step {}: {a}, expected {b}", step + 1);
        }
    }
}
