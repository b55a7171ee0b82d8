//! The chain that is disturbed, and what must be the same afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use plumbline_crds::{Kind, artifact};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use plumbline_testkit::place::Place;
use serde_json::{Value, json};

pub(crate) const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");
pub(crate) const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
pub(crate) const PPO: (Kind, &str) = (Kind::PolicyTuning, "ppo");
pub(crate) const DPO: (Kind, &str) = (Kind::PolicyTuning, "dpo");
pub(crate) const ALL: [(Kind, &str); 4] = [DATA, REWARD, PPO, DPO];

pub(crate) const RESPONSES: &str = "journal/responses.jsonl";
pub(crate) const REPLIES: &str = "journal/replies.jsonl";
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Requests that are on their way at once, and so may be lost with a kill.
pub(crate) const CONCURRENCY: usize = 4;

pub(crate) fn judge() -> JudgeSim {
    JudgeSim::start(Config { latency: Duration::from_millis(8), ..Config::default() })
}

/// A short chain whose judge sits behind an endpoint and likes long responses.
pub(crate) fn manifests(sim: &JudgeSim) -> [Value; 4] {
    let judge = json!({
        "name": "sim", "endpoint": {"url": sim.url(), "model": "planted"}, "mode": "Pointwise",
        "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}",
        "limits": {"concurrency": CONCURRENCY},
    });
    let short =
        json!({"training": {"epochs": 1, "checkpoint": {"everySteps": 4}}, "evaluation": {"samplesPerPrompt": 2}});
    let reward = json!({"training": {"epochs": 1, "checkpoint": {"everySteps": 4}}});
    let tuned = |manifest: Value| with(with(manifest, &short), &json!({"rollout": {"promptsPerStep": 8}}));
    [
        with(
            chain::dataset(DATA.1, &judge),
            &json!({"prompts": {"limit": 64}, "generator": {"responsesPerPrompt": 4}}),
        ),
        with(chain::reward(REWARD.1, DATA.1), &reward),
        tuned(chain::ppo(PPO.1, REWARD.1)),
        with(chain::dpo(DPO.1, DATA.1), &short),
    ]
}

/// The same chain with two judges of unlike taste, behind one endpoint and on one bill.
pub(crate) fn two_judges(sim: &JudgeSim) -> [Value; 4] {
    let mut manifests = manifests(sim);
    let judges = manifests[0]["spec"]["judges"].as_array_mut().unwrap();
    let mut second = judges[0].clone();
    second["name"] = json!("second");
    second["template"] = json!("Briefly: {{ prompt }}{{ response }} quality={{ response | length / 30 - 2 }}");
    judges.push(second);
    for judge in judges {
        judge["price"] = json!({"inputPerMillionTokens": 100.0, "outputPerMillionTokens": 100.0});
    }
    manifests
}

/// The digest of each artifact, and of each file that is part of it: a difference names the file.
pub(crate) fn digests(place: &Place) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for (kind, name) in ALL {
        let manifest = artifact::verify(&place.artifact(kind, name)).unwrap();
        let content = manifest.files.iter().filter(|f| !artifact::RECORDS.contains(&f.path.as_str()));
        digests.extend(content.map(|f| (format!("{name}/{}", f.path), f.sha256.clone())));
        digests.insert(name.to_owned(), manifest.digest);
    }
    digests
}

/// Fails with the names of what differs.
#[track_caller]
pub(crate) fn assert_same(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let different: Vec<&String> = names.into_iter().filter(|n| found.get(*n) != expected.get(*n)).collect();
    assert!(different.is_empty(), "these differ: {different:?}");
}

pub(crate) fn undisturbed(manifests: &[Value]) -> BTreeMap<String, String> {
    let place = Place::new(manifests);
    let _ = place.run().well();
    digests(&place)
}

/// Ids in a journal, without a line that a kill cut.
pub(crate) fn journal(place: &Place) -> Vec<String> {
    let Some(run) = place.find_run(DATA.0, DATA.1) else { return Vec::new() };
    let text = fs::read_to_string(run.join(REPLIES)).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let entries = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}
