//! Results and work folders in a store of objects, on a real S3 server: a pod that is lost is continued on another machine,
//! ends with the same artifact, and pays for nothing twice; a store that is away delays and spoils nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use plumbline_crds::conditions::Reason;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::StageResult;
use plumbline_crds::{Kind, artifact};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fetch::Fetch;
use plumbline_testkit::flaky_proxy::FlakyProxy;
use plumbline_testkit::hub::Hub;
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use plumbline_testkit::place::Place;
use plumbline_testkit::pod::{Pod, Run};
use plumbline_testkit::programs::{code, text};
use plumbline_testkit::store::{SECRET_KEY, Store};
use plumbline_testkit::{fixture, stage};
use serde_json::{Value, json};

const METRICS: &str = "metrics.jsonl";
const REPLIES: &str = "journal/replies.jsonl";

/// A reward model of the pairs of the fixtures, long enough to be disturbed.
fn reward() -> Value {
    let change = json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")},
        "training": {"epochs": 12, "checkpoint": {"everySteps": 2}}});
    with(chain::reward("reward", ""), &change)
}

fn inputs() -> Vec<(&'static str, PathBuf)> {
    vec![("dataset", fixture::path("pairs.jsonl")), ("baseModel", fixture::tiny())]
}

fn run(store: &Store, manifest: Value, inputs: Vec<(&'static str, PathBuf)>) -> Run {
    Run {
        manifest,
        inputs,
        artifact: "s3://align/results/it".into(),
        work: "s3://align/results/.it.work/run-1".into(),
        environment: store.environment().into(),
    }
}

fn reward_run(store: &Store) -> Run {
    run(store, reward(), inputs())
}

/// The digest of a run that was left alone, and is in a folder.
fn undisturbed() -> String {
    let folder = tempfile::tempdir().unwrap();
    let made = stage::run(&reward(), &inputs(), folder.path());
    artifact::verify(&made.artifact).unwrap().digest
}

/// The digest of the artifact in the store, every file of which is as its manifest says.
fn stored(store: &Store) -> String {
    artifact::verify(&store.path("results/it")).unwrap().digest
}

/// The number of pieces that the store holds of a work folder.
fn pieces(store: &Store) -> usize {
    fs::read_dir(store.path("results/.it.work/run-1/pieces")).map_or(0, Iterator::count)
}

/// What the store holds of a work folder: `files` by path, each with its `pieces`.
fn index(store: &Store) -> Value {
    let text = fs::read(store.path("results/.it.work/run-1/index.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Whether a checkpoint is in the store.
fn checkpoint_kept(store: &Store) -> bool {
    index(store)["files"]
        .as_object()
        .is_some_and(|files| files.keys().any(|path| path.starts_with("checkpoints/step-")))
}

/// The number of steps that the store holds the metrics of.
fn steps_kept(store: &Store) -> usize {
    let pieces = index(store)["files"][METRICS]["pieces"].clone();
    let read = |piece: &Value| {
        let piece = format!("results/.it.work/run-1/pieces/{}", piece.as_str().unwrap());
        fs::read_to_string(store.path(&piece)).unwrap()
    };
    pieces.as_array().unwrap().iter().map(read).collect::<String>().lines().count()
}

/// The number of steps that a pod has the metrics of when it begins to have any: they come in one step from the store, and
/// one by one otherwise.
fn begins_with(pod: &mut Pod) -> usize {
    let mut steps = 0;
    pod.until("it has metrics", |pod| {
        steps = pod.lines(METRICS);
        steps > 0
    });
    steps
}

fn well((result, output): (StageResult, Output)) -> String {
    let said = text(&output.stderr);
    assert_eq!((code(&output), result.reason), (0, Reason::Completed), "{said}");
    assert!(!said.contains(SECRET_KEY), "{said}");
    said
}

#[test]
fn a_pod_that_is_lost_is_continued_on_another_machine_and_ends_with_the_same_artifact() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut pod = run.start();
    pod.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    pod.lose();
    let kept = steps_kept(&store);
    let mut next = run.start();
    assert_eq!((begins_with(&mut next), kept >= 2), (kept, true), "{kept} steps were kept");
    well(next.end());
    assert_eq!(stored(&store), undisturbed());
    let index = index(&store);
    let needed: BTreeSet<&str> = index["files"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|file| file["pieces"].as_array().unwrap())
        .map(|piece| piece.as_str().unwrap())
        .collect();
    assert_eq!(pieces(&store), needed.len(), "what nothing needs any more is gone");
}

#[test]
fn a_pod_that_is_asked_to_stop_keeps_what_it_has_and_the_next_one_goes_on_there() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut pod = run.start();
    pod.until("some steps are done", |pod| pod.lines(METRICS) >= 5);
    let done = pod.lines(METRICS);
    let output = pod.stop();
    assert_eq!(code(&output), i32::from(ExitCode::Interrupted.number()), "{}", text(&output.stderr));
    assert!(steps_kept(&store) >= done, "{} of {done} steps were kept", steps_kept(&store));
    let mut next = run.start();
    assert_eq!(begins_with(&mut next), steps_kept(&store));
    well(next.end());
    assert_eq!(stored(&store), undisturbed());
}

#[test]
fn answers_that_were_kept_are_not_paid_for_again() {
    let store = Store::start();
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(20), ..Config::default() });
    let judge = json!({
        "name": "sim", "endpoint": {"url": sim.url(), "model": "planted"}, "mode": "Pointwise",
        "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}", "limits": {"concurrency": 2},
    });
    let manifest = with(chain::dataset("data", &judge), &json!({"prompts": {"limit": 24}}));
    let inputs = vec![("prompts", fixture::path("prompts.txt")), ("generator.model", fixture::tiny())];
    let run = run(&store, manifest, inputs);
    let mut pod = run.start();
    pod.until("some answers are there", |pod| pod.lines(REPLIES) >= 20);
    let output = pod.stop();
    assert_eq!(code(&output), i32::from(ExitCode::Interrupted.number()), "{}", text(&output.stderr));
    well(run.start().end());
    let lines = fs::read_to_string(store.path("results/it").join(REPLIES)).unwrap();
    assert_eq!(sim.answered(), lines.lines().count(), "as many questions were asked as there are answers");
}

#[test]
fn a_store_that_is_away_for_a_minute_in_the_middle_of_an_upload_delays_it_and_nothing_else() {
    let store = Store::start();
    let line = FlakyProxy::to(&store.address());
    let mut run = reward_run(&store);
    run.environment = store.environment_over(line.address()).into();
    line.break_at("PUT /align/results/it/model.safetensors");
    let mut pod = run.start();
    pod.until("the line breaks", |_| line.is_broken());
    assert!(!store.path("results/it").join(artifact::MANIFEST).exists(), "what is there in part is no artifact");
    std::thread::sleep(Duration::from_mins(1));
    assert!(pod.is_running(), "it waits for the store");
    line.mend();
    well(pod.end());
    assert_eq!(stored(&store), undisturbed());
}

#[test]
fn training_goes_on_while_the_store_is_away() {
    let mut store = Store::start();
    let run = reward_run(&store);
    let mut pod = run.start();
    pod.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    store.down();
    let before = pod.lines(METRICS);
    pod.until("more steps are done", |pod| pod.lines(METRICS) >= before + 10);
    store.up();
    well(pod.end());
    assert_eq!(stored(&store), undisturbed());
}

#[test]
fn a_pod_that_was_taken_for_lost_undoes_nothing_of_what_its_successor_has_done() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut lost = run.start();
    lost.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    lost.pause();
    well(run.start().end());
    let (digest, left) = (stored(&store), index(&store));
    superseded(lost);
    assert_eq!(stored(&store), digest);
    assert_eq!(index(&store), left);
}

/// Wakes a pod that another one has taken the run over from. It ends, and says so.
fn superseded(pod: Pod) {
    pod.wake();
    let (result, output) = pod.end();
    assert_eq!(code(&output), i32::from(ExitCode::Failed.number()), "{}", text(&output.stderr));
    assert!(result.message.contains("has taken the work directory over; this process stops"), "{}", result.message);
}

#[test]
fn a_pod_whose_run_goes_on_elsewhere_stops_before_its_successor_has_kept_anything() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut lost = run.start();
    lost.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    lost.pause();
    let mut next = run.start();
    begins_with(&mut next);
    next.pause();
    superseded(lost);
    next.wake();
    well(next.end());
    assert_eq!(stored(&store), undisturbed());
}

#[test]
fn a_replacement_that_was_cut_short_leaves_nothing_of_the_old_artifact_behind() {
    let store = Store::start();
    let line = FlakyProxy::to(&store.address());
    let short = |steps: i64| with(reward(), &json!({"training": {"maxSteps": steps}}));
    let mut run = reward_run(&store);
    run.manifest = short(1);
    well(run.start().end());
    let old = store.path("results/it/of-an-earlier-version.txt");
    list_too(&store, &old);
    run.manifest = short(2);
    run.work = "s3://align/results/.it.work/run-2".into();
    run.environment = store.environment_over(line.address()).into();
    line.break_at("PUT /align/results/it/model.safetensors");
    let mut pod = run.start();
    pod.until("the line breaks", |_| line.is_broken());
    pod.lose();
    assert!(old.exists() && !store.path("results/it/manifest.json").exists(), "it was cut short");

    // Whoever needs it meanwhile is not given what is there in part.
    let mut reader = Fetch::new(store.environment().into());
    reader.start("s3://align/results/it");
    reader.until("it waits", |reader| reader.log().contains("is still being written"));

    run.environment = store.environment().into();
    well(run.start().end());
    assert!(!old.exists(), "what the first artifact had more is gone");
    assert!(!store.path("results/it/manifest.partial.json").exists());
    assert_eq!(reader.digest(), stored(&store));
}

#[test]
fn what_is_fetched_before_a_run_is_kept_apart_and_leaves_what_the_run_has_done() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut pod = run.start();
    pod.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    pod.lose();
    let before = index(&store);
    let hub = Hub::start(&[("models/org/tiny", fixture::tiny())], None);
    let reached = ("HF_ENDPOINT", hub.address().to_owned());
    let mut fetch = Fetch::new(store.environment().into_iter().chain([reached]).collect());
    fetch.store = json!({"artifact": run.artifact, "work": run.work});
    fetch.fetch("hf://org/tiny");
    assert!(!fetch.path("work/checkpoints").exists(), "it needs no checkpoint, and waits for none");
    assert_eq!(index(&store), before);
    let kept = fs::read_to_string(store.path("results/.it.work/run-1/fetch/index.json")).unwrap();
    assert!(kept.contains("commits.json"), "{kept}");
    well(run.start().end());
    assert_eq!(stored(&store), undisturbed());
}

/// Makes a file part of the artifact in the store, as an earlier version might have written it.
fn list_too(store: &Store, file: &Path) {
    fs::write(file, "x").unwrap();
    let manifest = store.path("results/it/manifest.json");
    let mut listed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let entry = json!({"path": file.file_name().unwrap().to_str().unwrap(), "size": 1, "sha256": "0"});
    listed["files"].as_array_mut().unwrap().push(entry);
    fs::write(&manifest, listed.to_string()).unwrap();
}

#[test]
fn a_new_artifact_takes_the_place_of_the_old_one_of_the_same_resource_and_of_no_other() {
    let store = Store::start();
    let mut run = reward_run(&store);
    let short = |steps: i64| with(reward(), &json!({"training": {"maxSteps": steps}}));
    run.manifest = short(1);
    well(run.start().end());
    let (first, old) = (stored(&store), store.path("results/it/of-an-earlier-version.txt"));
    list_too(&store, &old);
    let notes = store.path("results/it/notes.txt");
    fs::write(&notes, "of a person").unwrap();
    run.manifest = short(2);
    run.work = "s3://align/results/.it.work/run-2".into();
    well(run.start().end());
    assert!(!old.exists() && notes.exists(), "what is listed goes, what somebody put there stays");
    // A fetch from a store brings what the manifest names; a folder is verified as a whole.
    fs::remove_file(&notes).unwrap();
    assert_ne!(stored(&store), first);

    run.manifest["metadata"]["name"] = json!("another");
    let (result, output) = run.start().end();
    assert_eq!(code(&output), i32::from(ExitCode::Config.number()));
    assert!(result.message.starts_with("spec.output.uri: s3://align/results/it: expected"), "{}", result.message);
    assert!(result.message.contains("RewardModel/another"), "{}", result.message);
}

/// Ends before anything is computed, and gives its message.
fn refusal(pod: Pod) -> String {
    let (result, output) = pod.end();
    assert_eq!(code(&output), i32::from(ExitCode::Config.number()), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("stage=\"Training\""), "{}", text(&output.stderr));
    result.message
}

#[test]
fn a_store_that_takes_nothing_is_told_before_anything_is_computed() {
    let store = Store::start();
    let mut run = reward_run(&store);
    run.artifact = "s3://elsewhere/it".into();
    let message = refusal(run.start());
    assert!(message.starts_with("spec.output.uri: s3://elsewhere/it: ") && message.contains("bucket"), "{message}");
    let mut run = reward_run(&store);
    run.environment.push(("AWS_SECRET_ACCESS_KEY", "another".into()));
    let message = refusal(run.start());
    assert!(message.contains("access denied writing") && message.contains("credentials"), "{message}");
    assert!(!message.contains("another"), "{message}");
}

#[test]
fn the_report_of_a_run_that_does_not_meet_a_gate_is_where_its_message_says() {
    let dataset = with(chain::dataset("data", &chain::words()), &json!({"gates": {"minPairs": 1152}}));
    let of_dataset = vec![
        ("prompts", fixture::path("prompts.txt")),
        ("generator.model", fixture::tiny()),
        ("judges[0].lexicon", fixture::path("words.tsv")),
    ];
    let model = with(reward(), &json!({"training": {"maxSteps": 1}, "gates": {"minAccuracy": 1.0}}));
    for (manifest, inputs) in [(dataset, of_dataset), (model, inputs())] {
        let store = Store::start();
        let kind = manifest["kind"].clone();
        let (result, output) = run(&store, manifest, inputs).start().end();
        assert_eq!(code(&output), i32::from(ExitCode::GateFailed.number()), "{}", text(&output.stderr));
        let said = &result.message;
        assert!(said.ends_with("its report is in s3://align/results/.it.work/run-1/report"), "{said}");
        let report = store.path("results/.it.work/run-1/report");
        let data: Value = serde_json::from_slice(&fs::read(report.join("report.json")).unwrap()).unwrap();
        assert_eq!(data["kind"], kind);
        assert!(report.join("report.html").exists());
        assert!(!store.path("results/it").exists(), "what failed is no artifact");
    }
}

#[test]
fn a_work_folder_that_was_damaged_is_refused_by_name() {
    let store = Store::start();
    let run = reward_run(&store);
    let mut pod = run.start();
    pod.until("a checkpoint is kept", |_| checkpoint_kept(&store));
    pod.lose();
    for entry in fs::read_dir(store.path("results/.it.work/run-1/pieces")).unwrap() {
        fs::write(entry.unwrap().path(), "nonsense").unwrap();
    }
    let (result, output) = run.start().end();
    assert_eq!(code(&output), i32::from(ExitCode::Data.number()), "{}", text(&output.stderr));
    assert!(
        result.message.contains("does not match its checksum; delete it to start the run from scratch"),
        "{}",
        result.message
    );
}

#[test]
fn a_chain_on_a_laptop_brings_its_artifacts_to_the_store_too() {
    let store = Store::start();
    let output = |key: &str| json!({"output": {"uri": format!("s3://align/{key}")}});
    let few = json!({"prompts": {"limit": 16}});
    let manifests = [
        with(with(chain::dataset("data", &chain::words()), &few), &output("team/data")),
        with(chain::reward("reward", "data"), &output("team/reward/")),
    ];
    let mut place = Place::new(&manifests);
    for (name, value) in store.environment() {
        place.set_env(name, &value);
    }
    let _ = place.run().well();
    for (kind, name) in [(Kind::PreferenceDataset, "data"), (Kind::RewardModel, "reward")] {
        let there = artifact::verify(&store.path(&format!("team/{name}"))).unwrap();
        assert_eq!(there, artifact::verify(&place.artifact(kind, name)).unwrap());
    }
    assert!(!Path::new(&store.path("team/.data.work")).exists(), "a laptop keeps its work folder itself");
}
