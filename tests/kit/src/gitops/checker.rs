//! Runs the GitOps tools' checks. Talks to a process.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::rules::Verdict;
use crate::programs::text;

/// Path of the program built by `make setup-tests` from `tests/go/gitops`.
const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin/gitops-checker");
/// Flux's Kustomization in the examples.
const FLUX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/flux/kustomization.yaml");
/// Argo CD's health script in the examples.
pub const ARGO_HEALTH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/argocd/health.lua");

/// The tools' verdicts on objects, which are in the form that the API server returns.
pub fn verdicts(objects: &[Value]) -> Vec<Verdict> {
    let mut child = Command::new(CHECKER)
        .args(["-flux", FLUX, "-argo", ARGO_HEALTH])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{CHECKER}: {error}; run `make setup-tests`"));
    let mut questions = child.stdin.take().unwrap();
    let lines: Vec<String> = objects.iter().map(|object| json!({"object": object}).to_string()).collect();
    let lines = lines.join("\n");
    // Written on a thread of its own: the data is larger than the pipes' buffers.
    let asking = std::thread::spawn(move || questions.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let asked = asking.join().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    asked.unwrap();
    let verdicts: Vec<Verdict> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), objects.len(), "one verdict an object");
    verdicts
}
