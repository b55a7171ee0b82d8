//! Runs a single stage: `plumbline-trainer` on a run document. Talks to the file system and to processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plumbline_crds::{Resource, run::RunDocument};
use serde_json::{Value, json};

use crate::programs::{code, text, trainer};

/// The results of a stage.
pub struct Made {
    /// Its artifact.
    pub artifact: PathBuf,
    /// Its metrics, one object per step.
    pub metrics: Vec<Value>,
}

/// Runs the stage of a manifest in a directory. `inputs`: paths by role. Panics if it fails.
pub fn run(manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Made {
    let output = run_to_any_end(manifest, inputs, root, &[]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    Made::read(root)
}

/// The same with additional environment variables, and without a panic if it fails.
pub fn run_to_any_end(
    manifest: &Value,
    inputs: &[(&str, PathBuf)],
    root: &Path,
    environment: &[(&str, String)],
) -> Output {
    let variables = environment.iter().map(|(name, value)| (name, value));
    command(manifest, inputs, root).envs(variables).output().unwrap()
}

/// The command that runs a stage.
pub fn command(manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Command {
    let resource: Resource = serde_json::from_value(manifest.clone()).unwrap();
    let stage = resource.kind.stage();
    let input = |(role, path): &(&str, PathBuf)| json!({"role": role, "name": role, "path": path, "digest": ""});
    let (artifact, work) = (root.join("artifact"), root.join("work"));
    let document: RunDocument = serde_json::from_value(json!({
        "resource": resource, "inputs": inputs.iter().map(input).collect::<Vec<_>>(), "output": artifact, "work": work,
    }))
    .unwrap();
    fs::create_dir_all(root).unwrap();
    let file = root.join("run.yaml");
    fs::write(&file, serde_yaml::to_string(&document).unwrap()).unwrap();
    let mut command = Command::new(trainer());
    command.args([stage, "--run"]).arg(&file).envs([("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")]);
    command
}

impl Made {
    /// Reads the results of a stage from its directory.
    pub fn read(root: &Path) -> Self {
        let lines = fs::read_to_string(root.join("work/metrics.jsonl")).unwrap();
        let metrics = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { artifact: root.join("artifact"), metrics }
    }
}
