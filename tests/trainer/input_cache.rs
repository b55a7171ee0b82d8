//! Inputs that are kept on a volume: fetched once for all runs, and never mixed, whoever is ended in the middle.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plumbline_crds::artifact;
use plumbline_testkit::fetch::Fetch;
use plumbline_testkit::fixture;
use plumbline_testkit::hub::Hub;
use plumbline_testkit::store::Store;

/// Longer than a test takes.
const LONG: Duration = Duration::from_mins(10);

fn hub() -> Hub {
    Hub::start(&[("models/org/tiny", fixture::tiny()), ("datasets/org/texts", fixture::path(""))], None)
}

/// A pod with a cache.
fn pod(cache: &Path, environment: &[(&'static str, String)]) -> Fetch {
    let cache = ("PLUMBLINE_INPUT_CACHE", cache.to_str().unwrap().to_owned());
    Fetch::new(environment.iter().cloned().chain([cache]).collect())
}

fn of_hub(cache: &Path, hub: &Hub) -> Fetch {
    pod(cache, &[("HF_ENDPOINT", hub.address().to_owned())])
}

/// Names of the entries, complete or not.
fn entries(cache: &Path) -> Vec<String> {
    let names = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".locks").collect()
}

/// The files that were asked for, as often as they were.
fn files(hub: &Hub) -> Vec<String> {
    let mut asked: Vec<String> = hub.state().asked.iter().filter(|a| !a.starts_with("revision")).cloned().collect();
    asked.sort();
    asked
}

#[test]
fn what_one_run_has_fetched_the_next_one_finds_under_any_name_of_its_commit() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let cache = cache.path().join("made/when/needed");
    let first = of_hub(&cache, &hub).fetch("hf://org/tiny");
    let asked = files(&hub);
    assert!(asked.contains(&"model.safetensors".into()), "{asked:?}");
    let mut next = of_hub(&cache, &hub);
    assert_eq!(next.fetch("hf://org/tiny@v1"), first);
    assert_eq!(files(&hub), asked, "what is in the cache is not fetched again");
    assert_eq!(hub.state().asked.iter().filter(|a| a.starts_with("revision")).count(), 2, "but asked for");
    assert!(next.path("input").is_symlink() && next.log().contains("taken from the cache"), "{}", next.log());

    let texts = of_hub(&cache, &hub).fetch("hf://datasets/org/texts/prompts.txt");
    assert_eq!(texts, artifact::digest_path(&fixture::path("prompts.txt")).unwrap(), "a file is an entry too");
    assert_eq!(entries(&cache).len(), 2, "{:?}", entries(&cache));
}

#[test]
fn a_branch_that_moved_on_and_an_object_that_was_overwritten_are_other_entries() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    of_hub(cache.path(), &hub).fetch("hf://org/tiny");
    hub.state().moved = true;
    let mut late = of_hub(cache.path(), &hub);
    late.start("hf://org/tiny");
    assert!(!late.ends_well(), "no file of that commit can be had");
    assert!(!late.path("input").exists(), "and another commit's are not taken for it");

    let store = Store::start();
    store.put(&fixture::tiny(), "models/tiny");
    let in_store = || pod(cache.path(), &store.environment());
    let before = in_store().fetch("s3://align/models/tiny");
    assert_eq!(in_store().fetch("s3://align/models/tiny"), before);
    let complete = |cache: &Path| entries(cache).iter().filter(|name| !name.contains('.')).count();
    assert_eq!(complete(cache.path()), 2, "{:?}", entries(cache.path()));
    store.put(&fixture::path("prompts.txt"), "models/tiny/added.txt");
    fs::remove_file(store.path("models/tiny/manifest.json")).unwrap();
    let mut after = in_store();
    assert_ne!(after.fetch("s3://align/models/tiny"), before);
    assert!(after.path("input/added.txt").is_file());
    assert_eq!(complete(cache.path()), 3, "{:?}", entries(cache.path()));
}

#[test]
fn of_several_that_need_the_same_one_fetches_it() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    hub.state().pause = Duration::from_secs(1);
    let mut pods = [0; 3].map(|_| of_hub(cache.path(), &hub));
    for pod in &mut pods {
        pod.start("hf://org/tiny");
    }
    let digests = pods.each_mut().map(Fetch::digest);
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let mut once = files(&hub);
    once.dedup();
    assert_eq!(files(&hub), once, "no file was fetched twice");
}

#[test]
fn whoever_waits_goes_on_where_the_one_that_was_killed_had_come_to() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    hub.state().pause = LONG;
    let mut lost = of_hub(cache.path(), &hub);
    lost.start("hf://org/tiny");
    let begun = || {
        let aside = entries(cache.path()).iter().find(|name| name.contains('.')).map(|name| cache.path().join(name));
        aside.and_then(|a| Some(fs::metadata(a.join("model.safetensors.part")).ok()?.len())).unwrap_or(0)
    };
    lost.until("half of the weights are there", |_| begun() > 0);
    let mut next = of_hub(cache.path(), &hub);
    next.start("hf://org/tiny");
    next.until("it waits", |next| next.log().contains("waits for it"));
    hub.state().pause = Duration::ZERO;
    lost.lose();
    let whole = of_hub(&cache.path().join("other"), &hub).fetch("hf://org/tiny");
    assert_eq!(next.digest(), whole);
    assert!(files(&hub).iter().any(|file| file.starts_with("model.safetensors from ")), "{:?}", files(&hub));
    let complete = entries(cache.path()).into_iter().filter(|name| name != "other");
    assert_eq!(complete.collect::<Vec<_>>().len(), 1, "nothing is left aside: {:?}", entries(cache.path()));
}

#[test]
fn an_entry_that_somebody_removed_is_fetched_again() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let mut pod = of_hub(cache.path(), &hub);
    let digest = pod.fetch("hf://org/tiny");
    for entry in entries(cache.path()) {
        fs::remove_dir_all(cache.path().join(entry)).unwrap();
    }
    assert!(!pod.path("input").exists());
    assert_eq!(pod.fetch("hf://org/tiny"), digest);
}

#[test]
fn a_cache_that_cannot_be_used_costs_a_warning_and_not_the_run() {
    let (hub, folder) = (hub(), tempfile::tempdir().unwrap());
    let file = folder.path().join("no-folder");
    fs::write(&file, "").unwrap();
    let mut pod = of_hub(&file, &hub);
    pod.fetch("hf://org/tiny");
    assert!(pod.log().contains("without the cache"), "{}", pod.log());
    assert!(!pod.path("input").is_symlink());
}
