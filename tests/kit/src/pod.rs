//! A stage in a directory that is deleted with it, as in a pod; its state is in a store. Talks to files and processes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::Resource;
use plumbline_crds::run::{RESULT_FILE, RunDocument, StageResult};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::programs::{text, trainer};

/// Timeout for operations that normally take a second: the machine may be busy with a build.
const PATIENCE: Duration = Duration::from_mins(2);

/// A run that is executed by successive pods.
pub struct Run {
    /// The manifest.
    pub manifest: Value,
    /// Paths of its inputs, by role.
    pub inputs: Vec<(&'static str, PathBuf)>,
    /// URI of its artifact: `s3://bucket/key`.
    pub artifact: String,
    /// URI of its work directory.
    pub work: String,
    /// Environment variables for access to the store.
    pub environment: Vec<(&'static str, String)>,
}

/// One pod of a run.
pub struct Pod {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Run {
    /// Starts the next pod.
    pub fn start(&self) -> Pod {
        let folder = tempfile::tempdir().unwrap();
        let resource: Resource = serde_json::from_value(self.manifest.clone()).unwrap();
        let stage = resource.kind.stage();
        let input = |(role, path): &(&str, PathBuf)| json!({"role": role, "name": role, "path": path, "digest": ""});
        let document: RunDocument = serde_json::from_value(json!({
            "resource": resource, "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
            "output": folder.path().join("artifact"), "work": folder.path().join("work"),
            "store": {"artifact": self.artifact, "work": self.work},
        }))
        .unwrap();
        let file = folder.path().join("run.yaml");
        fs::write(&file, serde_yaml::to_string(&document).unwrap()).unwrap();
        let mut command = Command::new(trainer());
        command.args([stage, "--run"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.envs([("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")]).env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Pod { folder, child: Some(command.spawn().unwrap()) }
    }
}

impl Pod {
    /// A path in the pod: `work/...`, `artifact/...`.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Number of lines of a file in the work directory.
    pub fn lines(&self, file: &str) -> usize {
        fs::read(self.path("work").join(file)).unwrap_or_default().split(|b| *b == b'\n').count().saturating_sub(1)
    }

    /// Waits until `holds` returns true; panics if the stage ends first.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                let said = text(&self.child.take().unwrap().wait_with_output().unwrap().stderr);
                panic!("the stage ended before this held: {what}\n{said}");
            }
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the stage is running.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Suspends the stage with SIGSTOP, as on a machine that is presumed lost.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes a suspended stage.
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    /// Simulates the loss of the machine: kills the stage and deletes its directory.
    pub fn lose(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "it ended before it was lost");
    }

    /// Asks the stage to stop, as the kubelet does, and waits for its end.
    pub fn stop(mut self) -> Output {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// Waits for the end. Returns the result and the output.
    pub fn end(mut self) -> (StageResult, Output) {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        let result =
            fs::read(self.path("work").join(RESULT_FILE)).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
        (serde_json::from_slice(&result).unwrap(), output)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }
}

impl Drop for Pod {
    /// Ensures that no process outlives a failed test.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
