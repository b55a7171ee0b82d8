//! A stage in a folder that is gone with it, as in a pod: what it keeps is in a store. Talks to files and processes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::Resource;
use plumbline_crds::run::{RESULT_FILE, RunDocument, StageResult};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::programs::{text, trainer};

/// How long something may take that takes a second: the machine may be busy with a build.
const PATIENCE: Duration = Duration::from_mins(2);

/// A run whose pods come and go.
pub struct Run {
    /// The manifest.
    pub manifest: Value,
    /// What it is made from, by role.
    pub inputs: Vec<(&'static str, PathBuf)>,
    /// Where its artifact goes: `s3://bucket/key`.
    pub artifact: String,
    /// Where its work folder is kept.
    pub work: String,
    /// How the store is reached.
    pub environment: Vec<(&'static str, String)>,
}

/// One pod of it.
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

    /// The number of lines of a file of the work folder.
    pub fn lines(&self, file: &str) -> usize {
        fs::read(self.path("work").join(file)).unwrap_or_default().split(|b| *b == b'\n').count().saturating_sub(1)
    }

    /// Waits until something holds; ends the test if the stage ends first.
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

    /// Whether the stage has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// The stage stands still, as on a machine that is not heard of.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    /// The machine is gone.
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

    /// Waits for its end. Gives what it left to say and what it printed.
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
    /// A test that ends early leaves no process behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
