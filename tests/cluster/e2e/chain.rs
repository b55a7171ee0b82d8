//! A chain of all three kinds, left alone: what it makes, and in which pods. Talks to the cluster and files.

use std::fs;
use std::path::{Path, PathBuf};

use plumbline_testkit::programs::text;
use plumbline_testkit::{chain, events, fixture};
use serde_json::{Value, json};

use crate::installation::{Installation, TEAM};
use crate::node;

/// What the chain has made.
pub(crate) struct Made {
    /// The digests of the artifacts.
    pub(crate) digests: [String; 3],
    /// The metrics of the operator that made them; another test may put another one in its place.
    metrics: String,
}

/// In the folder of a dataset's run, a line an answered question.
pub(crate) const REPLIES: &str = "journal/replies.jsonl";

pub(crate) const DATA: &str = "preferencedataset/data";
pub(crate) const REWARD: &str = "rewardmodel/reward";
pub(crate) const PPO: &str = "policytuning/ppo";

/// A judge that is served from the tiny model, beside the trainer. It is asked one question at a time, as the last digits of a
/// probability depend on what it is computed together with, and not too fast: on every machine there is time to disturb it.
fn judge(questions_per_minute: u64) -> Value {
    json!({
        "name": "reader", "model": {"uri": fixture::uri("tiny")}, "mode": "Pointwise", "api": "Completion",
        "template": "{{ prompt }}{{ response }} of the", "answers": [" United", " whale"],
        "limits": {"concurrency": 1, "requestsPerMinute": questions_per_minute},
    })
}

/// The same manifest with what it names of the fixtures elsewhere.
pub(crate) fn at(place: &str, manifest: &Value) -> Value {
    let here = fixture::uri("");
    serde_json::from_str(&manifest.to_string().replace(here.trim_end_matches('/'), place)).unwrap()
}

/// The same manifest with what it names in the claim `models`, where the fixtures are.
pub(crate) fn on_claim(manifest: &Value) -> Value {
    at("pvc://models", manifest)
}

/// The dataset of the chain.
pub(crate) fn dataset() -> Value {
    on_claim(&anywhere()[0])
}

/// Its reward model: long enough to be disturbed.
pub(crate) fn reward() -> Value {
    on_claim(&anywhere()[1])
}

/// Its policy: longer than the 5 s after which a pod first tells of its progress, and with an evaluation to be disturbed.
pub(crate) fn ppo() -> Value {
    on_claim(&anywhere()[2])
}

/// The three, on the fixtures.
pub(crate) fn anywhere() -> [Value; 3] {
    let longer = json!({"rollout": {"promptsPerStep": 16}, "training": {"epochs": 16},
        "evaluation": {"samplesPerPrompt": 8}, "compute": {"maxRetries": 1}});
    [
        chain::with(chain::dataset("data", &judge(2400)), &json!({"prompts": {"limit": 48}})),
        chain::with(chain::reward("reward", "data"), &json!({"training": {"epochs": 6}})),
        chain::with(chain::ppo("ppo", "reward"), &longer),
    ]
}

/// A dataset that depends on nothing and takes some seconds, however fast the machine is.
pub(crate) fn lasting(name: &str, seconds: u64) -> Value {
    let (prompts, responses) = (16, 6);
    let judge = judge(prompts * responses * 60 / seconds);
    on_claim(&chain::with(chain::dataset(name, &judge), &json!({"prompts": {"limit": prompts}})))
}

/// Makes the chain, once for all tests: applied in the order in which it cannot run.
pub(crate) fn made(installed: &Installation) -> &Made {
    installed.chain.get_or_init(|| {
        installed.apply(&[ppo(), reward(), dataset()]);
        let digests = [DATA, REWARD, PPO].map(|resource| {
            let (status, digest) = installed.until_ready(resource);
            let job = status.job.unwrap();
            assert_eq!((job.attempt, job.retries.len()), (1, 0), "{resource} was left alone");
            digest
        });
        Made { digests, metrics: installed.metrics() }
    })
}

/// The folder of an artifact of the chain.
fn artifact(installed: &Installation, resource: &str) -> PathBuf {
    installed.folder(&installed.status(resource).artifact.unwrap().uri)
}

#[test]
fn a_chain_is_made_in_a_namespace_that_takes_restricted_pods_only_and_tells_of_its_progress() {
    let installed = node::shared();
    let loose = ["run", "loose", "--image=plumbline.dev/pause:1", "--namespace", TEAM];
    let output = installed.cluster.try_kubectl(&loose);
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("violates PodSecurity \"restricted"), "{said}");

    let metrics = &made(&installed).metrics;
    let accepted = r#"plumbline_progress_reports_total{outcome="accepted"}"#;
    assert!(metrics.lines().any(|line| line.starts_with(accepted)), "{metrics}");
}

#[test]
fn event_files_for_tensorboard_are_whole_and_hold_what_the_metrics_hold() {
    let installed = node::shared();
    made(&installed);
    for resource in [REWARD, PPO] {
        let folder = artifact(&installed, resource);
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().contains("tfevents");
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).filter(|p| name(p)).collect();
        assert_eq!(files.len(), 1, "{resource}: {files:?}");
        let scalars = events::read(&fs::read(&files[0]).unwrap()).unwrap_or_else(|e| panic!("{resource}: {e}"));

        let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let mut expected = Vec::new();
        for line in metrics.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let step = line["step"].as_i64().unwrap();
            let numbers = line.as_object().unwrap().iter().filter(|(name, _)| *name != "step");
            expected.extend(numbers.filter_map(|(name, v)| Some((step, name.clone(), v.as_f64()? as f32))));
        }
        let found: Vec<_> = scalars.into_iter().map(|s| (s.step, s.tag, s.value)).collect();
        assert!(expected.len() > 20, "{resource}: {expected:?}");
        assert_eq!(found, expected, "{resource}");
    }
}

#[test]
fn a_report_is_one_page_that_loads_nothing() {
    let installed = node::shared();
    made(&installed);
    for resource in [DATA, REWARD, PPO] {
        let page = fs::read_to_string(artifact(&installed, resource).join("report.html")).unwrap();
        let title = resource.split_once('/').unwrap().1;
        assert!(page.trim_end().ends_with("</html>") && page.contains(title), "{resource}");
        let loads = loaded(&page);
        assert!(loads.is_empty(), "{resource}: {loads:?}");
    }
}

/// What a browser would fetch to show a page: elements that do so, and addresses in attributes and styles. A link that a
/// person may follow is none.
fn loaded(page: &str) -> Vec<String> {
    let page = page.to_lowercase();
    let elements =
        ["<script", "<link", "<iframe", "<object", "<embed", "<base", "<video", "<audio", "@import", "http-equiv"];
    let after = |mark: &'static str| page.split(mark).skip(1).map(move |rest| (mark, rest));
    let found = elements.into_iter().filter(|element| page.contains(element)).map(str::to_owned);
    let addresses = [" src=", "srcset=", "xlink:href=", "background=", "poster=", "url("].into_iter().flat_map(after);
    let addresses = addresses.filter_map(|(mark, rest)| {
        let address = rest.trim_start_matches(['"', '\'']);
        let within = address.starts_with('#') || address.starts_with("data:");
        (!within).then(|| format!("{mark}{}", address.chars().take(60).collect::<String>()))
    });
    found.chain(addresses).collect()
}

#[test]
fn what_a_page_would_load_is_found() {
    assert_eq!(
        loaded("<a href=\"https://example.com\">x</a><img src=\"data:image/png;base64,\"><use href=\"#a\"/>"),
        [""; 0]
    );
    for page in [
        "<script>x</script>",
        "<img src='//example.com/x.png'>",
        "<p style=\"background: url(x.png)\">",
        "<LINK rel=x>",
    ] {
        assert_eq!(loaded(page).len(), 1, "{page}");
    }
}
