//! Every folder of `examples/`, as it stands: an API server takes it, `plumbline validate` accepts it, and the chain in it
//! is run to its end, on the tiny model and few prompts. Talks to an API server and to processes.

mod example;
mod tiny;
mod world;

use std::fs;
use std::process::Command;

use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_crds::{Kind, artifact};
use plumbline_testkit::cluster::Cluster;
use plumbline_testkit::place::Place;
use plumbline_testkit::programs::{plumbline, text};
use serde_json::Value;

use example::{EXAMPLES, Example};
use world::World;

/// Folders without a manifest of ours, and the test that has them.
const OTHERS: [(&str, &str); 1] = [("gitops", "tests/cluster/gitops.rs")];

#[test]
fn every_folder_of_examples_has_manifests_and_a_readme_and_is_in_the_list() {
    let list = fs::read_to_string(format!("{EXAMPLES}/README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(EXAMPLES).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let elsewhere = OTHERS.iter().find(|(other, _)| *other == name);
        let has_ours = Example::all().iter().any(|example| example.name == name);
        match elsewhere {
            Some((_, test)) => assert!(fs::exists(format!("{EXAMPLES}/../{test}")).unwrap(), "{name}: {test}"),
            None => assert!(has_ours, "examples/{name}: there is no manifest of ours in it, and no other test has it"),
        }
        assert!(entry.path().join("README.md").is_file(), "examples/{name} has no README.md");
        assert!(list.contains(&format!("]({name}")), "examples/README.md does not lead to {name}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_takes_every_example_without_a_warning() {
    for example in Example::all() {
        let namespace = Cluster::shared().namespace("example").await;
        for file in &example.files {
            let file = file.to_str().unwrap();
            let output = Cluster::shared().kubectl(&["-n", namespace.name(), "apply", "-f", file]);
            assert!(output.status.success() && output.stderr.is_empty(), "{file}: {}", text(&output.stderr));
        }
        let output = Cluster::shared().kubectl(&["-n", namespace.name(), "get", "rlaif", "-o", "name"]);
        assert_eq!(text(&output.stdout).lines().count(), example.manifests.len(), "{}", example.name);
    }
}

#[test]
fn validate_accepts_every_example_where_it_is_to_be_run() {
    for example in Example::all() {
        let mut command = Command::new(plumbline());
        command.arg("validate").args(example.of_a_cluster().then_some("--cluster"));
        for file in example.needs().into_iter().chain(example.files.clone()) {
            command.arg("-f").arg(file);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", example.name, text(&output.stderr));
    }
}

#[test]
fn every_example_runs_to_its_end_on_the_tiny_model() {
    let examples = Example::all();
    // Two at once: a stage of one thread leaves the machine's other processor idle.
    std::thread::scope(|scope| {
        for half in 0..2 {
            let examples = &examples;
            scope.spawn(move || examples.iter().skip(half).step_by(2).for_each(run));
        }
    });
}

fn run(example: &Example) {
    let mut place = Place::new(&[]);
    let world = World::of(example, &place.path("there"));
    let manifests: Vec<Value> = example.with_needs().iter().map(|m| tiny::smaller(world.here(m))).collect();
    place.write(&manifests);
    for (name, value) in world.environment() {
        place.set_env(&name, &value);
    }
    let ended = place.run();
    assert_eq!(ended.code(), 0, "examples/{}: {}", example.name, ended.said());
    eprintln!("examples/{}: {:.1} s", example.name, ended.took.as_secs_f64());
    for manifest in &manifests {
        let kind = Kind::parse(manifest["kind"].as_str().unwrap()).unwrap();
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let status = place.status(kind, name);
        assert!(status.is_true(ConditionType::Ready), "examples/{}: {name}: {status:?}", example.name);
        assert_eq!(status.leading_reason(), Reason::Completed);
        let made = artifact::verify(&place.artifact(kind, name)).unwrap();
        assert_eq!(made.digest, status.artifact.unwrap().digest, "examples/{}: {name}", example.name);
    }
    world.was_used(&manifests);
}
