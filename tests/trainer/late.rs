//! What is needed last is checked first, and what is measured anew is not trained again: a fault in an evaluation costs no
//! step, and a run that differs from the one before only in what it measures continues with what is trained.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use plumbline_crds::conditions::Reason;
use plumbline_crds::{Kind, artifact};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fixture;
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use plumbline_testkit::place::Place;
use serde_json::{Value, json};

const TUNED: (Kind, &str) = (Kind::PolicyTuning, "tuned");
const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");

/// Steps of a training here.
const STEPS: usize = 6;
/// Prompts that no pair of the fixture has.
const PROMPTS: [&str; 4] = ["Once upon a", "The old house", "In the morning they", "My dear friend"];

/// A few steps of DPO on a file, evaluated on a few prompts, with some fields changed.
fn tuned(changes: &Value) -> Value {
    let few = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
        "training": {"maxSteps": STEPS, "batchSize": 8, "microBatchSize": 8},
        "evaluation": {"prompts": {"uri": null, "inline": PROMPTS}, "samplesPerPrompt": 1, "sampling": {"maxNewTokens": 8}},
    });
    with(with(chain::dpo(TUNED.1, ""), &few), changes)
}

/// A few steps of a reward model on a file, with some fields changed.
fn reward(changes: &Value) -> Value {
    let few = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
        "training": {"maxSteps": STEPS, "batchSize": 8, "microBatchSize": 8},
    });
    with(with(chain::reward(REWARD.1, ""), &few), changes)
}

/// A judge behind an endpoint that likes long responses.
fn sim_judge(sim: &JudgeSim) -> Value {
    json!({
        "name": "sim", "endpoint": {"url": sim.url(), "model": "planted"}, "mode": "Pointwise",
        "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}",
    })
}

/// The folders of a resource's runs.
fn folders(place: &Place, (kind, name): (Kind, &str)) -> Vec<PathBuf> {
    let folder = place.path("work").join(kind.plural()).join(name);
    let entries = fs::read_dir(folder).map(|all| all.map(|e| e.unwrap().path()).collect()).unwrap_or_default();
    Vec::into_iter(entries).filter(|path: &PathBuf| path.is_dir()).collect()
}

/// Steps that were taken, in all folders of a resource.
fn steps(place: &Place, resource: (Kind, &str)) -> usize {
    let lines = |folder: PathBuf| fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |t| t.lines().count());
    folders(place, resource).into_iter().map(lines).sum()
}

/// When the state of the last step was written: a second training would have written it again.
fn trained_at(place: &Place, resource: (Kind, &str)) -> SystemTime {
    let folders = folders(place, resource);
    assert_eq!(folders.len(), 1, "{folders:?}");
    let newest = fs::read_dir(folders[0].join("checkpoints")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    fs::metadata(newest.join("state.json")).unwrap().modified().unwrap()
}

fn digest(place: &Place, (kind, name): (Kind, &str)) -> String {
    artifact::verify(&place.artifact(kind, name)).unwrap().digest
}

/// The digest of what a manifest makes by itself.
fn undisturbed(manifest: &Value, resource: (Kind, &str)) -> String {
    let place = Place::new(std::slice::from_ref(manifest));
    let _ = place.run().well();
    assert_eq!(steps(&place, resource), STEPS);
    digest(&place, resource)
}

/// Runs a manifest that is wrong in what is needed last.
#[track_caller]
fn is_refused_at_once(place: &Place, manifest: Value, resource: (Kind, &str), expected: &str) {
    place.write(&[manifest]);
    let ended = place.run();
    assert_ne!(ended.code(), 0, "{expected}");
    assert!(ended.said().contains(expected), "expected {expected:?} in\n{}", ended.said());
    assert_eq!(steps(place, resource), 0, "{expected}: nothing is trained before it is found");
}

/// Writes a file into a place and gives its URI.
fn file(place: &Place, name: &str, text: &str) -> String {
    fs::write(place.path(name), text).unwrap();
    place.uri(name)
}

#[test]
fn an_evaluation_that_cannot_be_made_is_refused_before_the_first_step_and_a_repaired_one_trains_once() {
    let place = Place::new(&[]);
    let prompts = |name: &str, text: &str| json!({"prompts": {"inline": null, "uri": file(&place, name, text)}});
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let trained_on = serde_json::from_str::<Value>(pairs.lines().next().unwrap()).unwrap()["prompt"].clone();
    let words = file(&place, "words.txt", "good\t1.9\nbad\tnot a number\n");
    let judge = |fields: Value| {
        let mut judge = json!({"name": "j", "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}});
        chain::merge(&mut judge, &fields);
        json!({"judge": judge})
    };
    let turn = json!({"messages": [{"role": "user", "content": "hi"}]}).to_string();
    let long = json!({"prompt": "word ".repeat(4000)}).to_string();
    let cases = [
        (prompts("row.jsonl", "{\"prompt\": \"Once upon a\"}\n{\"promt\": \"typo\"}\n"), "row.jsonl:2"),
        (prompts("long.jsonl", &format!("{long}\n")), "spec.evaluation.prompts: expected prompts of 1 to"),
        (prompts("form.jsonl", &format!("{turn}\n")), "chat template"),
        (prompts("rows.csv", "prompt\nOnce\n"), "rows.csv"),
        (prompts("empty.txt", "\n\n"), "empty.txt"),
        (json!({"prompts": {"inline": [trained_on, "Once"]}}), "1 of 2 prompts are training prompts too"),
        (json!({"lexicons": [{"name": "w", "uri": words}]}), "words.txt"),
        (judge(json!({"endpoint": null, "mode": "Pointwise", "lexicon": {"uri": words}})), "words.txt"),
        (judge(json!({"template": "{{ response_a }} {{ respons_b }}"})), "spec.evaluation.judge.template: line 1"),
        (judge(json!({"template": "{{ response_a }}"})), "found one that does not use `response_b`"),
        (judge(json!({"templates": ["builtin:pairwise-v9"]})), "found builtin:pairwise-v9"),
        (
            judge(json!({"endpoint": null, "model": {"uri": fixture::uri("tiny")}})),
            "has no chat template; set api: Completion",
        ),
        (judge(json!({"answers": ["A", "A "]})), "spec.evaluation.judge.answers"),
        (
            judge(json!({"endpoint": {"apiKeySecretRef": {"name": "no-such", "key": "key"}}})),
            "PLUMBLINE_SECRET_NO_SUCH_KEY",
        ),
    ];
    for (change, expected) in cases {
        // The judge of the fixture is a word list: another one takes its place, not some of its fields.
        let without = if change.get("judge").is_some() { json!({"evaluation": {"judge": null}}) } else { json!({}) };
        let manifest = with(with(tuned(&json!({})), &without), &json!({"evaluation": change}));
        is_refused_at_once(&place, manifest, TUNED, expected);
    }
    place.write(&[tuned(&json!({}))]);
    let _ = place.run().well();
    assert_eq!((steps(&place, TUNED), folders(&place, TUNED).len()), (STEPS, 1), "one training in all");
    assert_eq!(digest(&place, TUNED), undisturbed(&tuned(&json!({})), TUNED));
}

#[test]
fn a_finished_model_is_evaluated_otherwise_without_training_and_asks_its_judge_nothing_twice() {
    let sim = JudgeSim::start(Config::default());
    let judge = sim_judge(&sim);
    let by = |change: Value| {
        let judged = with(tuned(&json!({"evaluation": {"judge": null}})), &json!({"evaluation": {"judge": judge}}));
        with(judged, &change)
    };
    let first = by(json!({}));
    let others = [
        by(json!({"evaluation": {"samplesPerPrompt": 2}})),
        by(json!({"evaluation": {"prompts": {"inline": PROMPTS[1..]}, "lexicons": null, "sampling": {"seed": 9}}})),
        by(json!({"evaluation": {"judge": {"template": "{{ response }} quality={{ response | length / 10 - 3 }}"}}})),
        by(json!({"evaluation": null})),
    ];
    let place = Place::new(std::slice::from_ref(&first));
    let _ = place.run().well();
    let (trained, made) = (trained_at(&place, TUNED), digest(&place, TUNED));
    for other in &others {
        place.write(std::slice::from_ref(other));
        let _ = place.run().well();
        assert_eq!((steps(&place, TUNED), trained_at(&place, TUNED)), (STEPS, trained), "not trained again");
        assert_eq!(digest(&place, TUNED), undisturbed(other, TUNED), "as if it had been evaluated so from the start");
    }
    let asked = sim.requests().len();
    place.write(std::slice::from_ref(&first));
    let _ = place.run().well();
    assert_eq!((digest(&place, TUNED), sim.requests().len()), (made, asked), "its answers were still there");
}

#[test]
fn what_another_run_left_in_the_work_folder_is_not_taken_for_this_one() {
    let place = Place::new(&[tuned(&json!({}))]);
    let _ = place.run().well();
    let (first, folder) = (place.status(TUNED.0, TUNED.1).job.unwrap().name, folders(&place, TUNED).remove(0));
    let kept = ["result.json", "run.yaml"].map(|name| (folder.join(name), fs::read(folder.join(name)).unwrap()));
    let other = tuned(&json!({"evaluation": {"samplesPerPrompt": 2}}));
    place.write(std::slice::from_ref(&other));
    let begun = |place: &Place| place.status(TUNED.0, TUNED.1).job.is_some_and(|job| job.name != first);
    place.start().until("the other run is written down", begun).kill();
    // As if it had been killed before it could remove what the first one left.
    for (path, content) in kept {
        fs::write(path, content).unwrap();
    }
    let _ = place.run().well();
    assert_eq!(digest(&place, TUNED), undisturbed(&other, TUNED));
}

#[test]
fn a_run_continues_from_its_checkpoint_with_a_smaller_micro_batch() {
    // So many that it is stopped in their midst also where the machine is busy.
    const MANY: usize = 20;
    let every = json!({"training": {"maxSteps": MANY, "checkpoint": {"everySteps": 1}}});
    let place = Place::new(&[tuned(&every)]);
    let taken = |place: &Place| steps(place, TUNED) >= 2;
    let ended = place.start().until("two steps are taken", taken).terminate();
    assert_eq!(ended.code(), 75, "{}", ended.said());
    let (taken, name) = (steps(&place, TUNED), place.status(TUNED.0, TUNED.1).job.unwrap().name);
    assert!(taken < MANY, "it was stopped in the middle");
    place.write(&[with(tuned(&every), &json!({"training": {"microBatchSize": 2, "checkpoint": {"keep": 3}}}))]);
    let _ = place.run().well();
    let job = place.status(TUNED.0, TUNED.1).job.unwrap();
    assert_eq!((job.name, job.attempt), (name, 2), "the same run");
    assert_eq!((steps(&place, TUNED), folders(&place, TUNED).len()), (MANY, 1), "{taken} of them before");
}

#[test]
fn a_reward_model_that_cannot_be_measured_is_refused_before_the_first_step() {
    let place = Place::new(&[]);
    let labels = |name: &str, text: &str| json!({"referenceLabels": {"uri": file(&place, name, text)}});
    let long = json!({"text": "word ".repeat(4000), "label": 1}).to_string();
    // Each of the same prompt, so that none is kept out.
    let pair = |i: usize| format!("{}\n", json!({"prompt": "Once", "chosen": format!(" a{i}"), "rejected": " b"}));
    let unsplit = file(&place, "unsplit.jsonl", &(0..8).map(pair).collect::<String>());
    for (change, expected) in [
        (labels("row.jsonl", "{\"text\": \"good\", \"label\": 1}\n{\"txt\": \"typo\"}\n"), "row.jsonl:2"),
        (labels("long.jsonl", &format!("{long}\n")), "long.jsonl: expected texts of 1 to"),
        (
            labels("unlabelled.jsonl", "{\"text\": \"good\", \"label\": 1}\n{\"text\": \"bad\"}\n"),
            "unlabelled.jsonl: expected a number as `label` in every record, found none in record 2",
        ),
        (json!({"dataset": {"uri": unsplit}, "gates": {"minAccuracy": 0.5}}), "spec.gates.minAccuracy"),
    ] {
        is_refused_at_once(&place, reward(&change), REWARD, expected);
    }
}

#[test]
fn a_gate_that_was_not_met_can_be_lowered_without_training_again() {
    let high = reward(&json!({"gates": {"maxCalibrationError": 0.0}}));
    let place = Place::new(&[high]);
    assert_eq!(place.run().code(), 9);
    assert_eq!(place.status(REWARD.0, REWARD.1).leading_reason(), Reason::GateFailed);
    let trained = trained_at(&place, REWARD);
    let low = reward(&json!({"gates": {"maxCalibrationError": 1.0}}));
    place.write(std::slice::from_ref(&low));
    let _ = place.run().well();
    assert_eq!((steps(&place, REWARD), trained_at(&place, REWARD)), (STEPS, trained));
    assert_eq!(digest(&place, REWARD), undisturbed(&low, REWARD));
}

#[test]
fn a_policy_that_a_guard_stopped_is_evaluated_otherwise_without_training_on() {
    let guarded = |samples: i64| {
        let few = json!({
            "training": {"maxSteps": 4, "batchSize": 8, "microBatchSize": 8, "checkpoint": {"everySteps": 100}},
            "rollout": {"promptsPerStep": 8, "sampling": {"maxNewTokens": 8}}, "guard": {"maxKl": 1e-4},
            "evaluation": {"prompts": {"limit": 4}, "samplesPerPrompt": samples, "sampling": {"maxNewTokens": 8}},
        });
        with(chain::ppo(TUNED.1, REWARD.1), &few)
    };
    let place = Place::new(&[reward(&json!({})), guarded(1)]);
    let _ = place.run().well();
    let report = |place: &Place| fs::read_to_string(place.artifact(TUNED.0, TUNED.1).join("report.html")).unwrap();
    assert!(report(&place).contains("Stopped by a guard"));
    let (taken, trained) = (steps(&place, TUNED), trained_at(&place, TUNED));
    assert!((1..4).contains(&taken), "{taken} steps");
    place.write(&[reward(&json!({})), guarded(2)]);
    let _ = place.run().well();
    assert_eq!((steps(&place, TUNED), trained_at(&place, TUNED)), (taken, trained));
    assert!(report(&place).contains("Stopped by a guard"));
    let apart = Place::new(&[reward(&json!({})), guarded(2)]);
    let _ = apart.run().well();
    assert_eq!(digest(&place, TUNED), digest(&apart, TUNED));
}

#[test]
fn answers_and_responses_serve_a_dataset_that_is_labelled_otherwise() {
    let sim = JudgeSim::start(Config::default());
    let judge = sim_judge(&sim);
    let dataset = |changes: &Value| {
        let few = json!({"prompts": {"limit": 12}, "generator": {"responsesPerPrompt": 3}, "pairs": {"perPrompt": 2}});
        with(with(chain::dataset(DATA.1, &judge), &few), changes)
    };
    let place = Place::new(&[dataset(&json!({"gates": {"minPairs": 25}}))]);
    let ended = place.run();
    assert!(ended.code() == 2 && ended.said().contains("spec.gates.minPairs requires 25 pairs"), "{}", ended.said());
    assert!(ended.said().contains("12 prompts yield at most 24") && sim.requests().is_empty(), "{}", ended.said());

    place.write(&[dataset(&json!({"gates": {"minPairs": 24}, "pairs": {"minConfidence": 0.9}}))]);
    assert_eq!(place.run().code(), 9);
    let asked = sim.requests().len();
    let sampled = |place: &Place| fs::read(folders(place, DATA)[0].join("journal/responses.jsonl")).unwrap();
    let responses = sampled(&place);
    let low = dataset(&json!({"gates": {"minPairs": 2}}));
    place.write(std::slice::from_ref(&low));
    let _ = place.run().well();
    assert_eq!((sim.requests().len(), sampled(&place)), (asked, responses), "nothing is sampled or asked again");
    let apart = Place::new(&[low]);
    let _ = apart.run().well();
    assert_eq!(digest(&place, DATA), digest(&apart, DATA));
}

#[test]
fn a_prompt_that_is_too_long_is_found_before_any_is_sampled() {
    let place = Place::new(&[]);
    let line = |text: String| format!("{}\n", json!({"prompt": text}));
    let mut text: String = (0..40).map(|i| line(format!("Once upon a {i}"))).collect();
    text += &line("word ".repeat(4000));
    let prompts = json!({"prompts": {"uri": file(&place, "prompts.jsonl", &text)}});
    place.write(&[with(chain::dataset(DATA.1, &chain::words()), &prompts)]);
    let ended = place.run();
    assert!(ended.code() == 3 && ended.said().contains("spec.prompts: expected prompts of 1 to"), "{}", ended.said());
    let sampled = |folder: &Path| fs::read(folder.join("journal/responses.jsonl")).unwrap_or_default();
    assert!(folders(&place, DATA).iter().all(|folder| sampled(folder).is_empty()));
}
