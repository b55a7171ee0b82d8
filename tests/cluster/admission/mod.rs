//! What the API server itself says of our resources, with no operator running: which manifests it takes, which it
//! refuses and with which words, what may change while a run is under way, and what `kubectl explain` tells. Talks to a
//! real API server.

mod bad;
mod case;
mod explain;
mod manifests;
mod update;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::Kind;
use plumbline_crds::unsupported::Target;
use plumbline_operator::crds;
use plumbline_operator::manifest::read::Source;
use plumbline_operator::validate::references::Elsewhere;
use plumbline_operator::validate::validate;
use plumbline_testkit::cluster::{Cluster, Namespace};
use plumbline_testkit::programs::text;
use serde_json::Value;

use case::Case;

/// Runs kubectl in a namespace: whether it succeeded, what it said, and its errors and warnings.
fn kubectl(namespace: &Namespace, args: &[&str]) -> (bool, String, String) {
    let output = Cluster::shared().kubectl(&[&["-n", namespace.name()], args].concat());
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Applies a file, or all files of a folder, as a user does.
fn apply(namespace: &Namespace, path: &Path) -> (bool, String, String) {
    kubectl(namespace, &["apply", "-f", path.to_str().unwrap()])
}

/// What `plumbline validate` says of a manifest on its own: path and message of each problem.
fn validated(manifest: &Value) -> Vec<(String, String)> {
    let source = Source { name: "m.yaml".into(), folder: "/m".into(), text: manifest.to_string() };
    let elsewhere = Elsewhere { anything: true, ..Elsewhere::default() };
    let problems = validate(&[source], &elsewhere, Target::Local).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.path, problem.message)).collect()
}

/// Whether one path is the other or lies in it. A rule between several fields may name one of them or what holds both.
fn related(a: &str, b: &str) -> bool {
    let within =
        |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    within(a, b) || within(b, a)
}

/// The errors of a list of files, in its order: kubectl names the file in each.
fn errors_of(files: &[PathBuf], said: &str) -> Vec<String> {
    let errors: Vec<&str> = said.split("Error from server").collect();
    let of = |file: &PathBuf| {
        let name = format!("\"{}\"", file.display());
        errors.iter().find(|error| error.contains(&name)).copied().unwrap_or_default().to_owned()
    };
    files.iter().map(of).collect()
}

/// Every rule of a kind that speaks of one state: where it hangs and the field it names, and its message.
fn rules_of(kind: Kind) -> BTreeSet<(String, String)> {
    fn collect(schema: &Value, path: &str, found: &mut BTreeSet<(String, String)>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            if !rule["rule"].as_str().unwrap().contains("oldSelf") {
                let field = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
                found.insert((field, rule["message"].as_str().unwrap().to_owned()));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            collect(property, &format!("{path}.{name}"), found);
        }
        if schema["items"].is_object() {
            collect(&schema["items"], &format!("{path}[]"), found);
        }
    }
    let mut found = BTreeSet::new();
    collect(&crds::spec_schema(kind).unwrap(), "spec", &mut found);
    found
}

/// A path without the numbers of its items.
fn unnumbered(path: &str) -> String {
    path.split('[').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect::<Vec<_>>().join("[")
}

/// What the API server must have said of a case, or what it said instead.
fn check(case: &Case, error: &str) -> Result<(), String> {
    let Case { what, manifest, path, words } = case;
    let fault =
        |why: &str| Err(format!("{what}: {why}\n  expected {path}: ... {words} ...\n  found {error}\n  {manifest}"));
    if error.is_empty() {
        return fault("it was not refused");
    }
    // What is said of one field ends where the next one is named.
    let said = error.split_once(&format!("{path}: ")).and_then(|(_, said)| said.split(", spec.").next());
    let unknown = words == "unknown field" && error.contains(&format!("unknown field \"{path}\""));
    if !unknown && !said.is_some_and(|said| said.contains(words.as_str())) {
        return fault("the field is not named with these words");
    }
    if !validated(manifest).iter().any(|(found, _)| related(found, path)) {
        return fault(&format!("`plumbline validate` says {:?}", validated(manifest)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_by_the_api_server_with_the_field_and_what_to_do() {
    for kind in Kind::ALL {
        let namespace = Cluster::shared().namespace("bad").await;
        let cases = bad::of(kind);
        assert!(cases.len() >= 20, "{kind}: {}", cases.len());
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..cases.len()).map(|i| folder.path().join(format!("{i:03}.json"))).collect();
        for (file, case) in files.iter().zip(&cases) {
            fs::write(file, case.manifest.to_string()).unwrap();
        }
        let (succeeded, made, said) = apply(&namespace, folder.path());
        let errors = errors_of(&files, &said);
        let faults: Vec<String> =
            cases.iter().zip(&errors).filter_map(|(case, error)| check(case, error).err()).collect();
        assert!(faults.is_empty(), "{kind}: {} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
        assert!(!succeeded && made.is_empty(), "{kind}: {made}");
        let (_, stored, _) = kubectl(&namespace, &["get", "rlaif", "-o", "name"]);
        assert_eq!(stored, "", "{kind}: something bad was stored");

        let refused = |(field, message): &&(String, String)| {
            let lines = errors.iter().flat_map(|error| error.lines());
            let lines = lines.filter(|line| line.contains(message.as_str())).map(unnumbered);
            lines.into_iter().any(|line| line.contains(&format!("{field}: ")))
        };
        let rules = rules_of(kind);
        let untried: Vec<_> = rules.iter().filter(|rule| !refused(rule)).collect();
        assert!(rules.len() > 10 && untried.is_empty(), "{kind}: no case is refused by these rules: {untried:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_manifests_and_those_at_the_edge_of_a_rule_are_taken_without_a_warning() {
    for kind in Kind::ALL {
        let namespace = Cluster::shared().namespace("good").await;
        let folder = tempfile::tempdir().unwrap();
        for (i, mut manifest) in manifests::allowed(kind).into_iter().enumerate() {
            if manifest["metadata"]["name"] == "good" {
                manifest["metadata"]["name"] = format!("good-{i}").into();
            }
            fs::write(folder.path().join(format!("{i:03}.json")), manifest.to_string()).unwrap();
            // Where `validate` refuses one of these, it is for what nothing acts on yet, or not in a local run.
            for (path, message) in validated(&manifest) {
                let refused = ["not supported yet", "not available in a local run", "has no effect"];
                let known = refused.iter().any(|words| message.contains(words));
                assert!(known, "{kind}: {path}: {message}\n{manifest}");
            }
        }
        let (succeeded, _, said) = apply(&namespace, folder.path());
        assert!(succeeded && said.is_empty(), "{kind}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_and_the_good_manifests_of_validate_are_taken_without_a_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let namespace = Cluster::shared().namespace("good").await;
    let folders = ["examples/quickstart", "examples/quickstart-dpo", "tests/manifests/good"];
    for folder in folders.map(|folder| root.join(folder)) {
        let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        // One of them carries what only a cluster gives: a uid and a resourceVersion.
        files.retain(|file| !file.ends_with("as-a-cluster-returns-it.yaml"));
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        assert!(!files.is_empty(), "{}", folder.display());
        for file in files {
            let (succeeded, _, said) = apply(&namespace, &file);
            assert!(succeeded && said.is_empty(), "{}: {said}", file.display());
        }
    }
}
