//! Inputs in a store of objects and on a web server: fetched before a run from a real S3 server, whole or not at all.

use std::fs;
use std::time::Duration;

use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fixture;
use plumbline_testkit::hub::{COMMIT, Hub};
use plumbline_testkit::place::Place;
use plumbline_testkit::store::{SECRET_KEY, Store};
use serde_json::{Value, json};

const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");
const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");

fn place(store: &Store, manifest: Value) -> Place {
    let mut place = Place::new(&[manifest]);
    for (name, value) in store.environment() {
        place.set_env(name, &value);
    }
    place
}

/// A reward model of the pairs of the fixtures, from a model in the store.
fn reward(uri: &str) -> Value {
    let change = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "baseModel": {"uri": uri},
        "training": {"maxSteps": 1},
    });
    with(chain::reward(REWARD.1, ""), &change)
}

#[test]
fn a_model_and_prompts_in_a_bucket_make_the_same_data_as_on_the_disk() {
    let store = Store::start();
    store.put(&fixture::tiny(), "models/tiny");
    store.put(&fixture::path("prompts.txt"), "prompts.txt");
    // What somebody put beside the files of an artifact is no part of it.
    store.put(&fixture::path("prompts.txt"), "models/tiny/notes.txt");
    let from_store = json!({
        "prompts": {"uri": "s3://align/prompts.txt"}, "generator": {"model": {"uri": "s3://align/models/tiny/"}},
    });
    let remote = place(&store, with(chain::dataset(DATA.1, &chain::words()), &from_store));
    let said = remote.run().well().said();
    assert!(!said.contains(SECRET_KEY), "{said}");
    let local = Place::new(&[chain::dataset(DATA.1, &chain::words())]);
    let _ = local.run().well();
    let status = |place: &Place| place.status(DATA.0, DATA.1);
    assert_eq!(status(&remote).artifact.unwrap().digest, status(&local).artifact.unwrap().digest);
    let digest = |place: &Place| status(place).inputs.into_iter().find(|i| i.role == "generator.model").unwrap().digest;
    assert_eq!(digest(&remote), digest(&local), "an artifact is the same one wherever it lies");
    let fetched = fs::read_dir(remote.path("work/inputs")).unwrap().map(|entry| entry.unwrap().path());
    assert!(fetched.filter(|path| path.is_dir()).all(|model| !model.join("notes.txt").exists()));
}

#[test]
fn prompts_on_a_web_server_are_fetched() {
    let web = Hub::start(&[("models/org/files", fixture::path(""))], None);
    let uri = format!("{}/org/files/resolve/{COMMIT}/prompts.txt", web.address());
    let remote = Place::new(&[with(chain::dataset(DATA.1, &chain::words()), &json!({"prompts": {"uri": uri}}))]);
    web.state().breaks = 1;
    let _ = remote.run().well();
    assert!(remote.status(DATA.0, DATA.1).counts["prompts"] > 0);
    let asked = web.state().asked.clone();
    assert_eq!(asked, ["prompts.txt"; 2], "without a tag, nothing says that the rest is of the same file");
}

#[test]
fn a_store_that_is_away_for_a_while_delays_a_run_and_nothing_else() {
    let mut store = Store::new();
    store.put(&fixture::tiny(), "models/tiny");
    let place = place(&store, reward("s3://align/models/tiny"));
    let run = place.start();
    std::thread::sleep(Duration::from_secs(3));
    store.up();
    let _ = run.end().well();
}

/// Runs to a failure of the data, and gives its message.
fn refusal(place: &Place) -> String {
    let ended = place.run();
    assert_eq!(ended.code(), 3, "{}", ended.said());
    assert!(!ended.said().contains(SECRET_KEY), "{}", ended.said());
    let status = place.status(REWARD.0, REWARD.1);
    assert_eq!(status.leading_reason(), Reason::DataInvalid);
    status.condition(ConditionType::Ready).unwrap().message.clone()
}

#[test]
fn what_is_not_there_not_whole_or_not_allowed_is_named_with_the_field() {
    let store = Store::start();
    let message = refusal(&place(&store, reward("s3://align/models/tiny")));
    assert!(
        message.starts_with("spec.baseModel: s3://align/models/tiny: ") && message.contains("found none"),
        "{message}"
    );

    store.put(&fixture::tiny(), "models/tiny");
    let tokenizer = store.path("models/tiny/tokenizer.json");
    let whole = fs::read(&tokenizer).unwrap();
    fs::write(&tokenizer, &whole[1..]).unwrap();
    let broken = place(&store, reward("s3://align/models/tiny"));
    let message = refusal(&broken);
    assert!(message.contains("tokenizer.json"), "{message}");
    fs::write(&tokenizer, whole).unwrap();
    let _ = broken.run().well();

    let mut stranger = place(&store, reward("s3://align/models/tiny"));
    stranger.set_env("AWS_SECRET_ACCESS_KEY", "another");
    let message = refusal(&stranger);
    assert!(message.contains("access denied reading") && message.contains("credentials"), "{message}");
}
