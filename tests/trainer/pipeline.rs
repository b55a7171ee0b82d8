//! The whole chain through the real programs, from prompts to a tuned policy: `plumbline run` starts `plumbline-trainer`
//! stage by stage on a tiny model that writes English-like text. A planted preference (words of a president over words of
//! a whaler) is labelled, learnt by the reward model, and followed by the policies; what is finished is not done again.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_crds::{Kind, artifact};
use plumbline_feedback::data::preference::{Split, read_split};
use plumbline_feedback::measure::Vader;
use plumbline_testkit::place::Place;
use plumbline_testkit::{chain, fixture};
use serde_json::{Value, json};

const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");
const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
const PPO: (Kind, &str) = (Kind::PolicyTuning, "ppo");
const DPO: (Kind, &str) = (Kind::PolicyTuning, "dpo");
const SFT: (Kind, &str) = (Kind::PolicyTuning, "sft");

/// What every finished resource has, whatever its kind.
fn assert_made(place: &Place, (kind, name): (Kind, &str)) {
    let (status, folder) = (place.status(kind, name), place.artifact(kind, name));
    assert!(status.is_true(ConditionType::Ready) && status.is_true(ConditionType::Succeeded), "{name}: {status:?}");
    assert!(!status.is_true(ConditionType::Stalled) && !status.is_true(ConditionType::Reconciling), "{name}");
    assert_eq!((status.leading_reason(), status.conditions.len()), (Reason::Completed, 6), "{name}");
    assert_eq!(status.progress.as_ref().map(|p| p.percent), Some(100), "{name}");
    let manifest = artifact::verify(&folder).unwrap();
    let said = status.artifact.unwrap();
    assert_eq!((said.digest, said.uri), (manifest.digest, format!("file://{}", folder.display())), "{name}");
    assert_eq!(manifest.inputs, status.inputs, "{name}: the artifact tells its lineage");
    for file in ["report.json", "report.html", "summary.json", "README.md"] {
        assert!(manifest.files.iter().any(|f| f.path == file && f.size > 0), "{name}: {file}");
    }
}

/// A number of a summary: `before.vader`, `reward_model.accuracy`.
fn number(summary: &Value, name: &str) -> f64 {
    let found = summary.pointer(&format!("/{}", name.replace('.', "/")));
    found.and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} is missing: {summary}"))
}

/// The values of a metric, step by step.
fn curve(place: &Place, (kind, name): (Kind, &str), metric: &str) -> Vec<f64> {
    place.jsonl(kind, name, "metrics.jsonl").iter().map(|line| line[metric].as_f64().unwrap()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The last steps of a curve are above (or below) the first ones by so much.
fn rise(curve: &[f64]) -> f64 {
    let part = (curve.len() / 4).max(1);
    mean(&curve[curve.len() - part..]) - mean(&curve[..part])
}

#[test]
fn a_planted_preference_is_labelled_learnt_and_followed_and_nothing_is_done_twice() {
    let place = Place::new(&[]);
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let pairs: Vec<Value> = pairs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text = |pair: &Value| format!("{}{}", pair["prompt"].as_str().unwrap(), pair["chosen"].as_str().unwrap());
    let lines: Vec<String> = pairs.iter().map(|pair| format!("{}\n", json!({"text": text(pair)}))).collect();
    fs::write(place.path("texts.jsonl"), lines.concat()).unwrap();
    place.write(&[
        chain::dpo("dpo", "data"),
        chain::ppo("ppo", "reward"),
        chain::sft("sft", &place.uri("texts.jsonl")),
        chain::reward("reward", "data"),
        chain::dataset("data", &chain::words()),
    ]);
    let first = place.run().well();
    eprintln!("the chain took {:.1} s", first.took.as_secs_f64());
    for made in [DATA, REWARD, PPO, DPO, SFT] {
        assert_made(&place, made);
        assert!(first.printed().contains(&format!("{} ", made.1)), "{}", first.printed());
    }
    the_labels_are_the_words(&place);
    the_reward_model_knows_the_words(&place);
    ppo_moves_the_policy_towards_the_words(&place);
    dpo_starts_at_ln_2_and_moves_the_policy_too(&place);
    let losses = curve(&place, SFT, "loss");
    assert!(rise(&losses) < -0.2, "SFT learns its texts: {losses:?}");

    let runs =
        |place: &Place| [DATA, REWARD, PPO, DPO, SFT].map(|(k, n)| (place.status(k, n), place.lines(k, n, "log.txt")));
    let before = runs(&place);
    let second = place.run().well();
    assert_eq!(runs(&place), before, "a second run must start nothing and say nothing new");
    assert!(second.took < Duration::from_secs(10), "and takes a moment: {:?}", second.took);
}

fn the_labels_are_the_words(place: &Place) {
    let (status, folder) = (place.status(DATA.0, DATA.1), place.artifact(DATA.0, DATA.1));
    assert_eq!((status.counts["prompts"], status.counts["responses"]), (96, 576));
    assert!(status.counts["pairs"] > 400 && status.counts["failedPairs"] == 0, "{:?}", status.counts);
    let words = Vader::load(&fixture::path("words.tsv")).unwrap();
    for record in [Split::Train, Split::Validation].into_iter().flat_map(|s| read_split(&folder, s).unwrap()) {
        let [chosen, rejected] = [&record.chosen, &record.rejected].map(|text| words.compound(&text.to_text()));
        assert!(chosen > rejected && record.p > 0.5, "{record:?}");
    }
    let summary = place.json(DATA.0, DATA.1, "summary.json");
    assert_eq!(number(&summary, "pairs") as i64, status.counts["pairs"]);
}

fn the_reward_model_knows_the_words(place: &Place) {
    let summary = place.json(REWARD.0, REWARD.1, "summary.json");
    let accuracy = number(&summary, "accuracy");
    assert!(number(&summary, "pairs") > 100.0);
    assert!(accuracy > 0.58, "held-out accuracy {accuracy}: chance is 0.5");
    assert!(number(&summary, "log_loss") < std::f64::consts::LN_2, "{summary}");
    for name in ["calibration_error", "length_correlation", "seconds.reward", "seconds.label"] {
        assert!(number(&summary, name).is_finite());
    }
    assert_eq!(summary["preference_dataset"]["pairs"], place.json(DATA.0, DATA.1, "summary.json")["pairs"]);
    let status = place.status(REWARD.0, REWARD.1);
    assert!((status.evaluation["accuracy"].parse::<f64>().unwrap() - accuracy).abs() < 1e-5);
}

fn ppo_moves_the_policy_towards_the_words(place: &Place) {
    let scores = curve(place, PPO, "objective/scores");
    assert!(rise(&scores) > 0.06, "rewards rise: {scores:?}");
    let ratios = curve(place, PPO, "val/ratio");
    assert!(ratios.iter().all(|r| (r - 1.0).abs() < 0.5), "{ratios:?}");
    assert!(curve(place, PPO, "objective/kl")[0].abs() < 1e-3, "the first rollout is the reference's own");
    followed(place, PPO, 0.15);
    let summary = place.json(PPO.0, PPO.1, "summary.json");
    let [before, after] = ["before.reward", "after.reward"].map(|name| number(&summary, name));
    assert!(after > before + 0.06, "reward on held-out prompts: {before} -> {after}");
    assert!(summary["reward_model"]["accuracy"].is_number() && summary["preference_dataset"]["pairs"].is_number());
    assert!(place.artifact(PPO.0, PPO.1).join("value_head.safetensors").is_file());
}

fn dpo_starts_at_ln_2_and_moves_the_policy_too(place: &Place) {
    let losses = curve(place, DPO, "loss");
    assert!(
        (losses[0] - std::f64::consts::LN_2).abs() < 1e-3,
        "policy and reference are the same at first: {losses:?}"
    );
    assert!(curve(place, DPO, "rewards/margins")[0].abs() < 1e-3);
    assert!(rise(&losses) < -0.02, "{losses:?}");
    assert!(rise(&curve(place, DPO, "rewards/accuracies")) > 0.05);
    followed(place, DPO, 0.1);
}

/// The evaluation of a policy that writes more of the good words than before by `gain`, under its stable names.
fn followed(place: &Place, (kind, name): (Kind, &str), gain: f64) {
    let summary = place.json(kind, name, "summary.json");
    let tuned = |of: &str| number(&summary, of);
    let [before, after] = ["before.words", "after.words"].map(tuned);
    assert!(after > before + gain, "{name}: words {before} -> {after}");
    let [low, high] = ["win_rate_ci.0", "win_rate_ci.1"].map(tuned);
    assert!(tuned("win_rate") > 0.5 && low <= tuned("win_rate"), "{name}: {summary}");
    assert!(tuned("win_rate") <= high && tuned("comparisons") == 128.0);
    assert!(tuned("kl") > 0.0 && tuned("failed_comparisons") == 0.0);
    for side in ["before", "after"] {
        for measure in ["distinct_2", "repetition_rate", "length", "ended"] {
            assert!(tuned(&format!("{side}.{measure}")).is_finite(), "{name}: {side}.{measure}");
        }
    }
    let status = place.status(kind, name);
    assert!((status.evaluation["winRate"].parse::<f64>().unwrap() - tuned("win_rate")).abs() < 1e-5);

    let samples = place.jsonl(kind, name, "samples.jsonl");
    assert_eq!(samples.len(), 32, "one line a held-out prompt");
    for sample in &samples {
        for side in ["before", "after"] {
            assert_eq!(sample[side].as_array().unwrap().len(), 4, "{sample}");
        }
    }
    let held_out = fs::read_to_string(fixture::path("prompts-held-out.txt")).unwrap();
    let asked: Vec<&str> = samples.iter().map(|s| s["prompt"].as_str().unwrap()).collect();
    assert_eq!(asked, held_out.lines().collect::<Vec<_>>());
}

#[test]
fn a_model_judge_is_served_and_its_beliefs_become_labels() {
    let judge = json!({
        "name": "reader", "model": {"uri": fixture::uri("tiny")}, "mode": "Pointwise", "api": "Completion",
        "template": "{{ prompt }}{{ response }} of the", "answers": [" United", " whale"],
    });
    let changes = json!({"prompts": {"limit": 48}});
    let place = Place::new(&[chain::with(chain::dataset("data", &judge), &changes)]);
    let _ = place.run().well();
    assert_made(&place, DATA);
    let (status, folder) = (place.status(DATA.0, DATA.1), place.artifact(DATA.0, DATA.1));
    assert!(status.cost.as_ref().is_some_and(|c| c.requests > 150), "{:?}", status.cost);
    let mut replies = BTreeMap::new();
    for line in place.jsonl(DATA.0, DATA.1, "journal/replies.jsonl") {
        *replies.entry(line["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(replies.len() as i64, status.counts["questions"]);
    assert!(replies.values().all(|n| *n == 1), "no question is asked twice");

    // The model expects the government to go on after a president's words: its verdicts follow the word list.
    let words = Vader::load(&fixture::path("words.tsv")).unwrap();
    let records: Vec<_> = Split::ALL.into_iter().flat_map(|s| read_split(&folder, s).unwrap()).collect();
    let differences = records.iter().map(|r| {
        let [chosen, rejected] = [&r.chosen, &r.rejected].map(|text| words.compound(&text.to_text()));
        chosen - rejected
    });
    let decided: Vec<f64> = differences.filter(|d| d.abs() > 0.3).collect();
    let agreeing = decided.iter().filter(|d| **d > 0.0).count() as f64 / decided.len() as f64;
    assert!(decided.len() > 30 && agreeing > 0.6, "{agreeing} of {}", decided.len());
}
