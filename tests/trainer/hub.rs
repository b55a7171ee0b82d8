//! Models and prompts that lie on a hub: a run fetches them first, whatever happens on the way, and nothing that is not what
//! the hub holds becomes an input.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plumbline_crds::Kind;
use plumbline_crds::artifact;
use plumbline_crds::conditions::Reason;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fetch::Fetch;
use plumbline_testkit::fixture;
use plumbline_testkit::hub::{COMMIT, Hub};
use plumbline_testkit::place::Place;
use plumbline_testkit::ports;
use plumbline_testkit::store::Store;
use serde_json::{Value, json};

const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");

fn tiny() -> [(&'static str, std::path::PathBuf); 2] {
    [("models/org/tiny", fixture::tiny()), ("datasets/org/texts", fixture::path(""))]
}

/// A reward model of the pairs of the fixtures, from a model on the hub.
fn reward(model: &Value) -> Value {
    let change = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "baseModel": model,
        "training": {"maxSteps": 1},
    });
    with(chain::reward(REWARD.1, ""), &change)
}

fn place(hub: &Hub, manifest: Value) -> Place {
    let mut place = Place::new(&[manifest]);
    place.set_env("HF_ENDPOINT", hub.address());
    place
}

#[test]
fn a_model_on_a_hub_is_fetched_once_and_is_the_one_that_is_there() {
    let hub = Hub::start(&tiny(), Some("hf_secret"));
    // Long enough for the screen to tell of it.
    hub.state().pause = Duration::from_secs(2);
    let mut place = place(&hub, reward(&json!({"uri": "hf://org/tiny", "revision": "v1"})));
    place.set_env("HF_TOKEN", "hf_secret");
    let said = place.run().well().said();
    assert!(said.contains("Fetching") && !said.contains("hf_secret"), "{said}");
    let status = place.status(REWARD.0, REWARD.1);
    let input = status.inputs.iter().find(|i| i.role == "baseModel").unwrap();
    assert_eq!(input.name, "hf://org/tiny@v1");

    let local = Place::new(&[reward(&json!({"uri": fixture::uri("tiny")}))]);
    let _ = local.run().well();
    let digest = |place: &Place| place.status(REWARD.0, REWARD.1).artifact.unwrap().digest;
    assert_eq!(digest(&place), digest(&local), "it learnt from the same model");

    let asked = hub.state().asked.len();
    let again = reward(&json!({"uri": "hf://org/tiny", "revision": "v1"}));
    place.write(&[with(again, &json!({"training": {"maxSteps": 2}}))]);
    let _ = place.run().well();
    assert_eq!(hub.state().asked.len(), asked, "what is here is not fetched again");
}

#[test]
fn prompts_on_a_hub_are_one_file() {
    let hub = Hub::start(&tiny(), None);
    let prompts = json!({"prompts": {"uri": "hf://datasets/org/texts/prompts.txt"}, "generator": {"model": {"uri": "hf://org/tiny"}}});
    let place = place(&hub, with(chain::dataset(DATA.1, &chain::words()), &prompts));
    let _ = place.run().well();
    let local = Place::new(&[chain::dataset(DATA.1, &chain::words())]);
    let _ = local.run().well();
    let digest = |place: &Place| place.status(DATA.0, DATA.1).artifact.unwrap().digest;
    assert_eq!(digest(&place), digest(&local));
}

#[test]
fn a_broken_line_is_taken_up_where_it_broke() {
    let hub = Hub::start(&tiny(), None);
    hub.state().breaks = 3;
    hub.state().unavailable = 2;
    let place = place(&hub, reward(&json!({"uri": "hf://org/tiny"})));
    let _ = place.run().well();
    let state = hub.state();
    assert!(state.asked.iter().filter(|path| path.contains(" from ")).count() >= 3, "{:?}", state.asked);
    assert_eq!((state.breaks, state.unavailable), (0, 0));
}

/// Runs to a failure, and gives its message.
fn failure(place: &Place, code: i32, reason: Reason) -> String {
    let ended = place.run();
    assert_eq!(ended.code(), code, "{}", ended.said());
    let status = place.status(REWARD.0, REWARD.1);
    assert_eq!(status.leading_reason(), reason);
    let inputs = place.path("work/inputs");
    let whole = fs::read_dir(&inputs)
        .map_or(0, |entries| entries.filter(|e| e.as_ref().unwrap().path().extension().is_none()).count());
    assert_eq!(whole, 0, "nothing that failed is an input");
    status.condition(plumbline_crds::conditions::ConditionType::Ready).unwrap().message.clone()
}

#[test]
fn what_the_hub_refuses_or_does_not_have_is_named_with_the_field() {
    let hub = Hub::start(&tiny(), Some("hf_secret"));
    let gated = place(&hub, reward(&json!({"uri": "hf://org/tiny"})));
    let message = failure(&gated, 3, Reason::DataInvalid);
    assert!(message.starts_with("spec.baseModel: hf://org/tiny: ") && message.contains("HF_TOKEN"), "{message}");

    let mut missing = place(&hub, reward(&json!({"uri": "hf://org/other"})));
    missing.set_env("HF_TOKEN", "hf_secret");
    let message = failure(&missing, 3, Reason::DataInvalid);
    assert!(message.contains("hf://org/other") && message.contains("404"), "{message}");
}

#[test]
fn weights_that_are_not_those_of_the_repository_become_nothing() {
    let hub = Hub::start(&tiny(), None);
    let size = fs::metadata(fixture::tiny().join("model.safetensors")).unwrap().len();
    hub.state().altered = Some(vec![0; usize::try_from(size).unwrap()]);
    let place = place(&hub, reward(&json!({"uri": "hf://org/tiny"})));
    let message = failure(&place, 3, Reason::DataInvalid);
    assert!(message.contains("model.safetensors") && message.contains("expected sha256:"), "{message}");
    hub.state().altered = None;
    let _ = place.run().well();
    let fetched = fs::read_dir(place.path("work/inputs")).unwrap().next().unwrap().unwrap().path();
    let weights = |folder: &std::path::Path| artifact::digest_path(&folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&fetched), weights(&fixture::tiny()));
}

#[test]
fn a_run_that_lost_its_inputs_goes_on_with_the_commit_that_it_began_with() {
    let hub = Hub::start(&tiny(), None);
    let work = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        fetch(&hub, work.path(), None, &[]);
        // The branch moves on.
        hub.state().moved = true;
    }
    assert_eq!(revisions(&hub), ["main", COMMIT]);
}

#[test]
fn a_rank_that_lost_its_inputs_goes_on_with_the_commit_that_rank_0_began_with() {
    let store = Store::start();
    for places in [None, Some(json!({"artifact": "s3://align/it", "work": "s3://align/.it.work"}))] {
        let hub = Hub::start(&tiny(), None);
        let shared = tempfile::tempdir().unwrap();
        for rank in ["0", "1"] {
            // Without a store all pods have the same work folder; with one each has its own.
            let own = tempfile::tempdir().unwrap();
            let work = if places.is_none() { &shared } else { &own };
            let variables = [("WORLD_SIZE", "2"), ("RANK", rank), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")];
            let variables = variables.map(|(name, value)| (name, value.to_owned()));
            fetch(&hub, work.path(), places.as_ref(), &[&variables[..], &store.environment()].concat());
            hub.state().moved = true;
        }
        assert_eq!(revisions(&hub), ["main", COMMIT]);
    }
}

/// Fetches the model of a run into a volume that is gone afterwards.
fn fetch(hub: &Hub, work: &Path, store: Option<&Value>, environment: &[(&'static str, String)]) {
    let reached = ("HF_ENDPOINT", hub.address().to_owned());
    let mut pod = Fetch::new(environment.iter().cloned().chain([reached]).collect());
    (pod.work, pod.store) = (Some(work.to_owned()), json!(store));
    pod.fetch("hf://org/tiny");
}

/// The revisions that a hub was asked for.
fn revisions(hub: &Hub) -> Vec<String> {
    let asked = hub.state().asked.clone();
    asked.iter().filter_map(|what| Some(what.strip_prefix("revision ")?.to_owned())).collect()
}

#[test]
fn a_hub_that_does_not_answer_is_no_fault_of_the_data() {
    let mut place = Place::new(&[reward(&json!({"uri": "hf://org/tiny"}))]);
    place.set_env("HF_ENDPOINT", &format!("http://127.0.0.1:{}", ports::claim()));
    let message = failure(&place, 5, Reason::ArtifactUploadFailed);
    assert!(message.contains("giving up after 6 attempts"), "{message}");
}
