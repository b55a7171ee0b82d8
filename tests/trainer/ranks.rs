//! Several processes that train one model learn what one process learns from the same batches; and however one of them is
//! lost, begun again they end with the very artifact of those that were left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use plumbline_crds::run::StageResult;
use plumbline_feedback::data::preference::read_file;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::gang::{Gang, weights_apart};
use plumbline_testkit::{fixture, stage};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Float32 sums in another order, over the steps of a run.
const TOLERANCE: f64 = 1e-4;

type Inputs = Vec<(&'static str, PathBuf)>;

/// A run of its own: a manifest and what it is made from.
struct Job {
    manifest: Value,
    inputs: Inputs,
}

fn pairs() -> (&'static str, PathBuf) {
    ("dataset", fixture::path("pairs.jsonl"))
}

fn few() -> Value {
    json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
        "training": {"batchSize": 9, "microBatchSize": 3, "epochs": 3, "checkpoint": {"everySteps": 4}}})
}

/// 96 pairs in batches of 9: no share is like another, and the last batch of an epoch is smaller.
fn reward() -> Job {
    let mut changes = few();
    changes.as_object_mut().unwrap().remove("evaluation");
    Job { manifest: with(chain::reward("r", ""), &changes), inputs: vec![("baseModel", fixture::tiny()), pairs()] }
}

fn dpo(adapter: &Value) -> Job {
    let adapter = json!({"training": {"adapter": adapter, "learningRate": 1e-3}});
    let manifest = with(with(chain::dpo("d", ""), &few()), &adapter);
    Job { manifest, inputs: vec![("policyModel", fixture::tiny()), pairs()] }
}

fn sft(folder: &Path) -> Job {
    let texts = folder.join("texts.jsonl");
    let records = read_file(&fixture::path("pairs.jsonl")).unwrap();
    let text = |i: usize| format!("{}{}", records[i].prompt.to_text(), records[i].chosen.to_text());
    let lines: Vec<String> = (0..33).map(|i| format!("{}\n", json!({"text": text(i)}))).collect();
    fs::write(&texts, lines.concat()).unwrap();
    Job {
        manifest: with(
            chain::sft("s", "texts"),
            &json!({"training": {"epochs": 2, "batchSize": 8, "microBatchSize": 2}}),
        ),
        inputs: vec![("policyModel", fixture::tiny()), ("dataset", texts)],
    }
}

fn ppo(folder: &Path) -> Job {
    let scorer = reward();
    let scorer = stage::run(&scorer.manifest, &scorer.inputs, &folder.join("scorer")).artifact;
    // Of the 1,800 tokens that are sampled, none may lie within a rounding error of another one: with some seeds one does, it is
    // another token on several ranks, and all that follows differs. With this seed none does.
    let changes = json!({"rollout": {"promptsPerStep": 15}, "evaluation": null, "training": {
        "epochs": 1, "batchSize": 7, "microBatchSize": 3, "seed": 5, "checkpoint": {"everySteps": 2}}});
    Job {
        manifest: with(chain::ppo("p", "r"), &changes),
        inputs: vec![
            ("policyModel", fixture::tiny()),
            ("rewardModelRef", scorer),
            ("prompts", fixture::path("prompts.txt")),
        ],
    }
}

/// The same prompts, with groups of responses whose mean and deviation are those of all ranks.
fn grpo(folder: &Path) -> Job {
    let Job { manifest, inputs } = ppo(folder);
    let changes = json!({"method": "GRPO", "ppo": null, "grpo": {"klCoefficient": 0.05, "epochs": 2, "scaleRewards": "Batch"},
        "rollout": {"promptsPerStep": 5, "responsesPerPrompt": 3}, "training": {"maxSteps": 6}});
    Job { manifest: with(manifest, &changes), inputs }
}

impl Job {
    fn start(&self, size: usize, root: &Path) -> Gang {
        Gang::start(size, &self.manifest, &self.inputs, root)
    }

    /// The digest that several ranks end with when nobody disturbs them.
    fn undisturbed(&self, size: usize, root: &Path) -> String {
        digest(&self.start(size, root).well())
    }
}

fn digest(made: &stage::Made) -> String {
    artifact::verify(&made.artifact).unwrap().digest
}

/// Trains with one process and with several, and compares every metric of every step and every weight.
#[track_caller]
fn assert_learns_the_same(job: &Job, root: &Path) {
    let alone = stage::run(&job.manifest, &job.inputs, &root.join("1"));
    for size in [2, 3] {
        let together = job.start(size, &root.join(size.to_string())).well();
        assert!(alone.metrics.len() >= 5 && alone.metrics.len() == together.metrics.len());
        let mut most = 0.0f64;
        for (a, b) in alone.metrics.iter().zip(&together.metrics) {
            assert_eq!(a.as_object().unwrap().len(), b.as_object().unwrap().len(), "{a} and {b}");
            // Before the first step the policy is its reference: which response it prefers is the sign of a rounding error.
            let first = a["step"] == 1;
            for (name, value) in a.as_object().unwrap().iter().filter(|(n, _)| !first || *n != "rewards/accuracies") {
                let (one, several) = (value.as_f64().unwrap(), b[name].as_f64().unwrap());
                let apart = (one - several).abs() / (1.0 + one.abs());
                assert!(apart <= TOLERANCE, "{name}: {one} alone and {several} on {size} ranks\n{a}\n{b}");
                most = most.max(apart);
            }
        }
        let weights = weights_apart(&alone.artifact, &together.artifact);
        eprintln!("{size} ranks: metrics differ by {most:.1e} at most, weights by {weights:.1e} of the largest");
        assert!(weights <= 10.0 * TOLERANCE, "weights differ by {weights}");
    }
}

#[test]
fn a_reward_model_is_the_same_from_one_two_and_three_processes() {
    let root = tempfile::tempdir().unwrap();
    assert_learns_the_same(&reward(), root.path());
}

#[test]
fn all_are_told_the_time_at_which_the_first_began() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture::tiny().join(file), model.join(file)).unwrap();
    }
    let template = "{% if strftime_now('%Y') == '1999' %}It is long ago. {% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    let turn = |role: &str, content: &Value| json!([{"role": role, "content": content}]);
    let rows = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let rows = rows.lines().take(40).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let row = json!({"prompt": turn("user", &row["prompt"]), "chosen": turn("assistant", &row["chosen"]),
            "rejected": turn("assistant", &row["rejected"])});
        format!("{row}\n")
    });
    let data = root.path().join("pairs.jsonl");
    fs::write(&data, rows.collect::<String>()).unwrap();
    let job = Job { inputs: vec![("baseModel", model), ("dataset", data)], ..reward() };
    let tokens = |size: usize| {
        let root = root.path().join(size.to_string());
        fs::create_dir_all(root.join("work")).unwrap();
        fs::write(root.join("work/clock.json"), "\"1999-12-31T23:59:59\"").unwrap();
        let made =
            if size == 1 { stage::run(&job.manifest, &job.inputs, &root) } else { job.start(size, &root).well() };
        made.metrics.iter().map(|step| step["num_tokens"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(1), tokens(2));
}

#[test]
fn dpo_is_the_same_too_with_all_weights_and_with_an_adapter_above_frozen_layers() {
    let root = tempfile::tempdir().unwrap();
    assert_learns_the_same(&dpo(&json!(null)), &root.path().join("all"));
    let adapter = json!({"rank": 4, "alpha": 8, "lastLayers": 2});
    assert_learns_the_same(&dpo(&adapter), &root.path().join("adapter"));
}

#[test]
fn losses_without_a_reference_are_the_same_too() {
    let root = tempfile::tempdir().unwrap();
    let mut job = dpo(&json!(null));
    let losses = ["Simpo", "Orpo", "Cpo", "Sft"].map(|loss| json!({"loss": loss}));
    job.manifest = with(job.manifest, &json!({"dpo": {"losses": losses}}));
    assert_learns_the_same(&job, root.path());
}

#[test]
fn sft_is_the_same_too() {
    let root = tempfile::tempdir().unwrap();
    assert_learns_the_same(&sft(root.path()), root.path());
}

#[test]
fn ppo_is_the_same_too() {
    let root = tempfile::tempdir().unwrap();
    assert_learns_the_same(&ppo(root.path()), root.path());
}

#[test]
fn grpo_is_the_same_too() {
    let root = tempfile::tempdir().unwrap();
    assert_learns_the_same(&grpo(root.path()), root.path());
}

/// The exit code of each rank.
fn codes(ends: &[(i32, String)]) -> Vec<i32> {
    ends.iter().map(|(code, _)| *code).collect()
}

#[test]
fn whichever_rank_is_killed_the_other_does_not_wait_and_begun_again_they_end_the_same() {
    let root = tempfile::tempdir().unwrap();
    for (name, job, steps) in [("reward", reward(), 6), ("ppo", ppo(root.path()), 2)] {
        let expected = job.undisturbed(2, &root.path().join(name).join("undisturbed"));
        let folder = root.path().join(name).join("killed");
        for lost in [1, 0] {
            let gang = job.start(2, &folder).until_further(steps);
            gang.signal(lost, Signal::KILL);
            let killed = Instant::now();
            let ends = gang.end();
            assert_eq!(codes(&ends)[1 - lost], 12, "{name}: {}", ends[1 - lost].1);
            assert!(killed.elapsed() < Duration::from_secs(30), "{name}: nobody waits for a rank that is gone");
            assert!(!folder.join("artifact").exists());
        }
        let said: StageResult =
            serde_json::from_slice(&fs::read(folder.join("work/rank-1/result.json")).unwrap()).unwrap();
        assert_eq!(said.reason.as_str(), "PeerLost");
        assert_eq!(digest(&job.start(2, &folder).well()), expected, "{name}");
    }
}

#[test]
fn asked_to_stop_one_rank_stops_all_at_the_same_step_and_they_go_on_from_there() {
    let root = tempfile::tempdir().unwrap();
    let job = reward();
    let expected = job.undisturbed(2, &root.path().join("undisturbed"));
    let folder = root.path().join("stopped");
    for asked in [1, 0] {
        let gang = job.start(2, &folder).until_further(3);
        gang.signal(asked, Signal::TERM);
        let ends = gang.end();
        assert_eq!(codes(&ends), [75, 75], "{ends:?}");
        let steps = |work: &str| fs::read_to_string(folder.join(work).join("metrics.jsonl")).unwrap().lines().count();
        assert_eq!(steps("work"), steps("work/rank-1"), "at the same step");
        let newest = format!("work/checkpoints/step-{:09}", steps("work"));
        assert!(folder.join(&newest).is_dir(), "and every step that was taken is safe: {newest}");
    }
    assert_eq!(digest(&job.start(2, &folder).well()), expected);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let root = tempfile::tempdir().unwrap();
    let job = reward();
    let gang = job.start(2, root.path()).until_further(5);
    gang.signal(0, Signal::TERM);
    let ends = gang.end();
    assert_eq!(codes(&ends), [75, 75], "{ends:?}");
    let told = |root: &Path| fs::read_to_string(root.join("work/metrics.jsonl")).unwrap();
    let together = told(root.path());
    let alone = stage::run(&job.manifest, &job.inputs, root.path());
    let expected = stage::run(&job.manifest, &job.inputs, &root.path().join("alone"));
    assert!(told(root.path()).starts_with(&together), "what two have learnt is not learnt again");
    assert!(!told(&root.path().join("alone")).starts_with(&together), "one process alone rounds otherwise");
    let apart = weights_apart(&alone.artifact, &expected.artifact);
    assert!(apart <= 10.0 * TOLERANCE, "{apart}");
}

#[test]
fn a_rank_that_waits_for_others_can_be_asked_to_stop() {
    let root = tempfile::tempdir().unwrap();
    let job = reward();
    let gang = Gang::start_some(2, &[0], &job.manifest, &job.inputs, root.path());
    std::thread::sleep(Duration::from_secs(3));
    gang.signal(0, Signal::TERM);
    let ends = gang.end();
    assert_eq!(codes(&ends), [75], "{ends:?}");
}
