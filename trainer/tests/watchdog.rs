//! A stage that stands still ends itself and says why, whatever it is that does not answer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use plumbline_crds::conditions::Reason;
use plumbline_crds::run::{RESULT_FILE, StageResult};
use serde_json::json;

/// A file on a storage that does not answer: nothing is ever at the other end of the pipe.
fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Runs a stage that cannot write the file `unanswered` into its work folder: the storage does not answer.
fn run(folder: &Path, unanswered: &str, seconds: &str) -> (ExitStatus, PathBuf) {
    let (data, told) = (folder.join("pairs.jsonl"), folder.join("told"));
    fs::write(&data, "{}").unwrap();
    fs::create_dir(folder.join("work")).unwrap();
    pipe(&folder.join("work").join(format!("{unanswered}.new")));
    let document = json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel", "metadata": {"name": "r"},
            "spec": {"dataset": {"uri": "pairs.jsonl"}, "baseModel": {"uri": "model"}}},
        "inputs": [{"role": "dataset", "name": "pairs.jsonl", "path": data, "digest": ""}],
        "output": folder.join("out"), "work": folder.join("work"),
    });
    let run = folder.join("run.yaml");
    fs::write(&run, serde_yaml::to_string(&document).unwrap()).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_plumbline-trainer"))
        .args(["reward", "--run"])
        .arg(&run)
        .env("PLUMBLINE_STALL_TIMEOUT_SECONDS", seconds)
        .env("PLUMBLINE_TERMINATION_LOG", &told)
        .status()
        .unwrap();
    (status, told)
}

#[track_caller]
fn assert_says_so(file: &Path) {
    let result: StageResult = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(result.reason, Reason::NoProgress);
    assert!(result.message.starts_with("nothing was read, received or computed for 2 s"), "{}", result.message);
}

#[test]
fn a_stage_that_stands_still_ends_itself_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (status, told) = run(folder.path(), "inputs.json", "2");
    assert_eq!(status.code(), Some(11));
    assert_says_so(&told);
    assert_says_so(&folder.path().join("work").join(RESULT_FILE));
}

#[test]
fn it_ends_also_where_its_result_cannot_be_left() {
    let folder = tempfile::tempdir().unwrap();
    let (status, told) = run(folder.path(), RESULT_FILE, "2");
    assert!(!status.success());
    assert_says_so(&told);
}

#[test]
fn a_limit_that_is_no_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (status, told) = run(folder.path(), "inputs.json", "2m");
    assert_eq!(status.code(), Some(2));
    assert!(fs::read_to_string(told).unwrap().contains("PLUMBLINE_STALL_TIMEOUT_SECONDS: expected whole seconds"));
}
