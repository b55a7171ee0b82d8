//! What `kubectl explain` prints. Talks to a real API server.

use std::time::{Duration, Instant};

use plumbline_testkit::cluster::Cluster;
use plumbline_testkit::programs::text;

/// How long an API server may take until every way of asking it describes a new kind. Its index of descriptions is made anew
/// some time after the descriptions themselves.
const DESCRIBED: Duration = Duration::from_mins(1);

fn explain(args: &[&str]) -> String {
    let deadline = Instant::now() + DESCRIBED;
    loop {
        // What was once found missing must not be remembered.
        let cache = tempfile::tempdir().unwrap();
        let cache = format!("--cache-dir={}", cache.path().display());
        let output = Cluster::shared().kubectl(&[&["explain", &cache], args].concat());
        if output.status.success() {
            // Lines are wrapped; what is looked for may stand on two of them.
            return text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        }
        let said = text(&output.stderr);
        assert!(said.contains("couldn't find resource") && Instant::now() < deadline, "{args:?}: {said}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn kubectl_explain_describes_each_field_with_its_default_and_range() {
    for (field, words) in [
        ("policytuning", "A PolicyTuning tunes a language model by a reward model or by preference data"),
        ("poltune.spec.ppo.klCoefficient", "in the reward. Defaults to 0.05. Must be between 0 and 100."),
        ("policytuning.spec.training.learningRate", "Peak learning rate. Defaults to 1e-5. Must be between 0 and 1."),
        ("policytuning.spec.method", "ENUM: SFT DPO PPO"),
        ("rewardm.spec.gates.minAccuracy", "Must be between 0 and 1."),
        (
            "preferencedataset.spec.judges.limits.timeoutSeconds",
            "Timeout of one attempt, in seconds. Defaults to 120. Must be between 1 and 3600.",
        ),
        ("prefds.status.job.name", "Name of the Job"),
    ] {
        let said = explain(&[field]);
        assert!(said.contains(words), "{field}: {said}");
    }
}

#[test]
fn kubectl_explain_leaves_no_field_of_an_object_without_words() {
    for object in [
        "preferencedataset.spec",
        "preferencedataset.spec.prompts",
        "preferencedataset.spec.generator",
        "preferencedataset.spec.generator.sampling",
        "preferencedataset.spec.judges",
        "preferencedataset.spec.order",
        "rewardmodel.spec",
        "rewardmodel.spec.training",
        "rewardmodel.spec.training.adapter",
        "rewardmodel.spec.compute",
        "rewardmodel.spec.compute.tolerations",
        "policytuning.spec",
        "policytuning.spec.ppo",
        "policytuning.spec.dpo",
        "policytuning.spec.guard",
        "policytuning.spec.evaluation",
        "policytuning.spec.evaluation.judge",
        "policytuning.spec.evaluation.sampling",
        "policytuning.spec.guard.heldOutJudge",
        "policytuning.spec.guard.heldOutJudge.limits",
        "policytuning.status",
    ] {
        let said = explain(&[object]);
        assert!(said.contains("FIELDS:") && !said.contains("<no description>"), "{object}: {said}");
    }
}

#[test]
fn kubectl_explain_shows_a_kind_as_a_tree() {
    for (object, field) in [
        ("preferencedataset.spec", "responsesPerPrompt <integer>"),
        ("rewardmodel.spec", "centeringCoefficient <number>"),
        ("policytuning.spec.ppo", "adaptiveKl <Object> horizon <integer> target <number> -required-"),
    ] {
        let said = explain(&[object, "--recursive"]);
        assert!(said.contains(field), "{object}: {said}");
    }
}
