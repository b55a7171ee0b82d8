//! Every method that samples raises the planted reward, and a run that is killed ends as one that was not. What each of them
//! computes is tested with its code; PPO has tests of its own.

use plumbline_crds::Kind;
use plumbline_crds::artifact;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fixture;
use plumbline_testkit::place::Place;
use serde_json::{Value, json};

const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");

/// A method, its block of settings, and the responses per prompt that it needs.
type Method = (&'static str, &'static str, fn() -> Value, usize);

const METHODS: [Method; 9] = [
    ("GRPO", "grpo", || json!({}), 4),
    ("GRPO", "grpo", || json!({"loss": "Grpo", "klCoefficient": 0.01, "epochs": 2}), 4),
    (
        "GRPO",
        "grpo",
        || json!({"loss": "DrGrpo", "scaleRewards": "None", "klEstimator": "K2", "klCoefficient": 0.01}),
        4,
    ),
    (
        "GRPO",
        "grpo",
        || {
            json!({"loss": "Cispo", "scaleRewards": "Batch", "clipRangeHigh": 2.0, "epochs": 2, "scoreClip": 2.0,
        "missingEosPenalty": 0.1})
        },
        4,
    ),
    ("GRPO", "grpo", || json!({"loss": "Gspo", "epochs": 2, "dualClip": 3.0}), 4),
    ("RLOO", "rloo", || json!({"klCoefficient": 0.01, "adaptiveKl": {"target": 2.0, "horizon": 100}}), 4),
    ("REINFORCE", "reinforce", || json!({"klCoefficient": 0.01}), 1),
    ("REINFORCEPlusPlus", "reinforcePlusPlus", || json!({"baseline": "Group"}), 4),
    ("A2C", "a2c", || json!({"klCoefficient": 0.01, "whitenAdvantages": "Enabled"}), 1),
];

/// Those of them with a different state between rollouts: nothing, the KL coefficient, a baseline too, a critic.
const STATES: [usize; 4] = [0, 5, 6, 8];

/// A reward model that likes a president's words, and tunings by some of the methods, called `tuned-<n>`. `steps`: rollouts.
fn manifests(chosen: &[usize], steps: usize) -> Vec<Value> {
    let pairs = json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
        "training": {"epochs": 12, "learningRate": 3e-3}});
    let mut all = vec![with(chain::reward(REWARD.1, ""), &pairs)];
    for &i in chosen {
        let (method, block, settings, responses) = METHODS[i];
        let mut tuning = with(
            chain::ppo(&format!("tuned-{i}"), REWARD.1),
            &json!({"method": method, "ppo": null, "evaluation": null,
                "rollout": {"promptsPerStep": 48 / responses, "responsesPerPrompt": responses},
                "training": {"maxSteps": steps, "epochs": 100, "batchSize": 48, "checkpoint": {"everySteps": 1}}}),
        );
        tuning["spec"][block] = settings();
        all.push(tuning);
    }
    all
}

/// The values of a metric, step by step.
fn curve(place: &Place, name: &str, metric: &str) -> Vec<f64> {
    place.jsonl(Kind::PolicyTuning, name, "metrics.jsonl").iter().map(|l| l[metric].as_f64().unwrap()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn every_method_raises_the_reward_that_it_learns_from() {
    let all: Vec<usize> = (0..METHODS.len()).collect();
    let place = Place::new(&manifests(&all, 16));
    let _ = place.run().well();
    for (i, (method, _, settings, _)) in METHODS.iter().enumerate() {
        let name = format!("tuned-{i}");
        let scores = curve(&place, &name, "objective/scores");
        let rise = mean(&scores[12..]) - mean(&scores[..4]);
        eprintln!("{method} {}: the score rises by {rise:.2}: {scores:.2?}", settings());
        assert!(rise > 0.5, "{method} {}: {rise}: {scores:?}", settings());
        let differences = curve(&place, &name, "policy/initial_difference");
        assert!(differences.iter().all(|d| *d < 1e-5), "{method}: what samples is what trains: {differences:?}");
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_model_for_every_kind_of_state() {
    let manifests = manifests(&STATES, 4);
    let digests = |place: &Place| -> Vec<String> {
        let digest = |i| artifact::verify(&place.artifact(Kind::PolicyTuning, &format!("tuned-{i}"))).unwrap().digest;
        STATES.iter().map(digest).collect()
    };
    let undisturbed = Place::new(&manifests);
    let _ = undisturbed.run().well();
    let disturbed = Place::new(&manifests);
    for i in STATES {
        let name = format!("tuned-{i}");
        let running = disturbed.start();
        running
            .until("two rollouts are learnt from", |p| p.lines(Kind::PolicyTuning, &name, "metrics.jsonl") >= 2)
            .kill();
    }
    let _ = disturbed.run().well();
    assert_eq!(digests(&disturbed), digests(&undisturbed));
}
