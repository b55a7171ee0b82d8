//! A stage that stands still ends itself with a result that says so.

use std::fs;
use std::process::Command;

use plumbline_crds::conditions::Reason;
use plumbline_crds::run::{RESULT_FILE, StageResult};
use serde_json::json;

#[test]
fn a_stage_that_stands_still_ends_itself_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    // A storage that does not answer: nobody ever writes into this pipe.
    let (pipe, work, told) =
        (folder.path().join("pairs.jsonl"), folder.path().join("work"), folder.path().join("told"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let document = json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel", "metadata": {"name": "r"},
            "spec": {"dataset": {"uri": "pairs.jsonl"}, "baseModel": {"uri": "model"}}},
        "inputs": [{"role": "dataset", "name": "pairs.jsonl", "path": pipe, "digest": ""}],
        "output": folder.path().join("out"), "work": work,
    });
    let run = folder.path().join("run.yaml");
    fs::write(&run, serde_yaml::to_string(&document).unwrap()).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_plumbline-trainer"))
        .args(["reward", "--run"])
        .arg(&run)
        .env("PLUMBLINE_HUNG_SECONDS", "2")
        .env("PLUMBLINE_TERMINATION_LOG", &told)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(11));
    for file in [work.join(RESULT_FILE), told] {
        let result: StageResult = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(result.reason, Reason::Hung);
        assert!(result.message.starts_with("no progress for 2 s (before its first step)"), "{}", result.message);
    }
}
