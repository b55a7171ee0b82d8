//! Asks the tools. Talks to a process.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::rules::Verdict;
use crate::programs::text;

/// What `make setup-tests` builds from `tests/go/gitops`.
const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin/gitops-checker");
/// The Kustomization of Flux as it is shipped.
const FLUX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/flux/kustomization.yaml");
/// The script of Argo CD as it is shipped.
pub const ARGO_HEALTH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/argocd/health.lua");

/// What the tools say of each of these objects, which are as the API server serves them.
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
    // Beside the answers: both pipes are smaller than what goes through them.
    let asking = std::thread::spawn(move || questions.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let asked = asking.join().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    asked.unwrap();
    let verdicts: Vec<Verdict> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), objects.len(), "one verdict an object");
    verdicts
}
