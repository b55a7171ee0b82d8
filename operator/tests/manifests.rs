//! `plumbline validate` over manifests that are wrong in one way each, and over good ones. Each broken file says on its
//! first line what must be said of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn manifests(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/manifests").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn plumbline(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumbline"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_broken_manifest_is_refused_with_file_line_path_and_remedy_and_nothing_is_written() {
    let files = manifests("broken");
    assert!(files.len() >= 20, "{}", files.len());
    for file in files {
        let name = file.display().to_string();
        let content = fs::read_to_string(&file).unwrap();
        let expected = content.lines().next().and_then(|l| l.strip_prefix("# expect: ")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for command in ["validate", "plan", "run"] {
            let output = plumbline(&[command, "-f", &name], folder.path());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {said}");
            assert!(text(&output.stdout).is_empty(), "{command} {name}");
            let line = said
                .lines()
                .find(|l| l.contains(expected))
                .unwrap_or_else(|| panic!("{command} {name}: expected {expected}, found {said}"));
            let place = line.strip_prefix(&format!("{name}:")).unwrap_or_else(|| panic!("{line}"));
            assert!(place.split(':').next().is_some_and(|n| n.parse::<usize>().is_ok_and(|n| n > 0)), "{line}");
            let refused = ["not supported yet; ", "not available in a local run", "has no effect"];
            let found = line.contains("expected") || refused.iter().any(|words| line.contains(words));
            assert!(line.contains("; ") && found, "{line}");
            assert_eq!(said.lines().count(), 1, "{command} {name}: one fault, one line: {said}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}: something was written");
    }
}

#[test]
fn every_good_manifest_passes_with_a_line_a_resource() {
    let folder = tempfile::tempdir().unwrap();
    for file in manifests("good") {
        let output = plumbline(&["validate", "-f", &file.display().to_string()], folder.path());
        assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), text(&output.stderr));
        assert!(text(&output.stdout).contains(" is valid"), "{}", file.display());
    }
}

#[test]
fn all_problems_of_all_documents_of_a_folder_come_in_one_pass() {
    let folder = tempfile::tempdir().unwrap();
    let head = "apiVersion: plumbline.dev/v1alpha1\nkind: RewardModel\n";
    let one = format!(
        "{head}metadata: {{name: A}}\nspec:\n  baseModel: {{urx: m}}\n  dataset: {{uri: d}}\n  datasetRef: {{name: d}}\n---\na: [\n---\nkind: Nothing\n"
    );
    fs::write(folder.path().join("a.yaml"), one).unwrap();
    fs::write(folder.path().join("b.yml"), format!("{head}metadata: {{}}\nspec: []\n")).unwrap();
    let output = plumbline(&["validate", "-f", "."], folder.path());
    let said = text(&output.stderr);
    for expected in [
        "a.yaml:3: RewardModel/A: metadata.name: ",
        "a.yaml:5: RewardModel/A: spec.baseModel.urx: ",
        "a.yaml:10: expected YAML",
        "a.yaml:11: kind: ",
        "b.yml:3: RewardModel: metadata.name: ",
        "b.yml:4: RewardModel: spec: expected a mapping",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (a, b) = (said.find("a.yaml").unwrap(), said.find("b.yml").unwrap());
    assert!(a < b, "in order of file");
}

#[test]
fn what_follows_from_the_fault_of_one_file_is_not_reported_in_another() {
    let reward = "apiVersion: plumbline.dev/v1alpha1\nkind: RewardModel\nmetadata: {name: r}\nspec:\n  datasetRef: {name: sentiment-1}\n  baseModel: {uri: m}\n";
    let dataset = |kind: &str, name: &str| {
        format!(
            "apiVersion: plumbline.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  prompts: {{inline: [a]}}\n  generator: {{model: {{uri: m}}}}\n  judges: [{{name: j, lexicon: {{uri: l}}}}]\n"
        )
    };
    let faults = [
        ("spec: {\n\tprompts: a}\n".to_owned(), "a tab"),
        (dataset("PreferenceDatasets", "sentiment-1"), "kind: expected"),
        (dataset("PreferenceDataset", "Sentiment_1"), "metadata.name: expected"),
    ];
    for (dataset, expected) in faults {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dataset.yaml"), dataset).unwrap();
        fs::write(folder.path().join("reward.yaml"), reward).unwrap();
        let said = text(&plumbline(&["validate", "-f", "."], folder.path()).stderr);
        assert!(said.lines().count() == 1 && said.contains(expected), "expected {expected}: {said}");
    }
}

#[test]
fn references_that_lead_elsewhere_pass_only_when_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "apiVersion: plumbline.dev/v1alpha1\nkind: RewardModel\nmetadata: {name: r}\nspec:\n  datasetRef: {name: d}\n  baseModel: {uri: m}\n";
    fs::write(folder.path().join("r.yaml"), manifest).unwrap();
    let refused = plumbline(&["validate", "-f", "r.yaml"], folder.path());
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).starts_with("r.yaml:5: RewardModel/r: spec.datasetRef.name: ReferenceNotFound"));
    let allowed = plumbline(&["validate", "-f", "r.yaml", "--allow-missing-references"], folder.path());
    assert_eq!(allowed.status.code(), Some(0), "{}", text(&allowed.stderr));
}

#[test]
fn crds_prints_what_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(plumbline(&["crds", "--out", "out"], folder.path()).status.code(), Some(0));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for name in ["preferencedatasets.yaml", "rewardmodels.yaml", "policytunings.yaml"] {
        let printed = fs::read_to_string(folder.path().join("out").join(name)).unwrap();
        assert!(printed == fs::read_to_string(committed.join(name)).unwrap(), "{name} is out of date");
    }
    let all = text(&plumbline(&["crds"], folder.path()).stdout);
    assert_eq!(all.matches("kind: CustomResourceDefinition").count(), 3);
}
