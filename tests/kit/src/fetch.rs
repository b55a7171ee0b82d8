//! Runs `plumbline-trainer fetch` alone, as the init container of a pod: fetches one input, into directories that are
//! deleted with it. Talks to the file system and to processes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::chain;
use crate::programs::{text, trainer};

/// Timeout for operations that normally take a second: the machine may be busy with a build.
const PATIENCE: Duration = Duration::from_mins(2);

/// A pod of a run.
pub struct Fetch {
    folder: tempfile::TempDir,
    /// Environment variables with the addresses of servers.
    pub environment: Vec<(&'static str, String)>,
    /// The work directory, if it is not the pod's own.
    pub work: Option<PathBuf>,
    /// URIs for artifact and work directory (`artifact` and `work`), or null.
    pub store: Value,
    child: Option<Child>,
}

impl Fetch {
    /// A pod that has not started.
    pub fn new(environment: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, environment, work: None, store: Value::Null, child: None }
    }

    /// A path in the pod: `input`, the fetched input; `work/...` in its own work directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Starts fetching a URI.
    pub fn start(&mut self, uri: &str) {
        let work = self.work.clone().unwrap_or_else(|| self.path("work"));
        let document = json!({
            "resource": chain::reward("reward", "data"), "output": self.path("out"), "work": work, "store": self.store,
            "inputs": [{"role": "baseModel", "name": "m", "path": self.path("input"), "source": uri}],
        });
        fs::write(self.path("run.yaml"), serde_yaml::to_string(&document).unwrap()).unwrap();
        let mut command = Command::new(trainer());
        command.args(["fetch", "--run"]).arg(self.path("run.yaml")).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.path("log")).unwrap());
        self.child = Some(command.spawn().unwrap());
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        text(&fs::read(self.path("log")).unwrap())
    }

    /// Waits until `holds` returns true; panics if the fetch ends first.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end. Returns whether it succeeded.
    pub fn ends_well(&mut self) -> bool {
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// Waits for its end, and returns the digest of the input. Panics if it failed.
    pub fn digest(&mut self) -> String {
        assert!(self.ends_well(), "{}", self.log());
        artifact::digest_path(&self.path("input")).unwrap()
    }

    /// Fetches a URI, and returns its digest. Panics if it fails.
    pub fn fetch(&mut self, uri: &str) -> String {
        self.start(uri);
        self.digest()
    }

    /// Asks it to stop, and waits for its end. Returns the exit code, and the time it took.
    pub fn terminate(&mut self) -> (i32, Duration) {
        let (mut child, asked) = (self.child.take().unwrap(), Instant::now());
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        (child.wait().unwrap().code().unwrap_or(-1), asked.elapsed())
    }

    /// Simulates the loss of the pod: kills the process; volumes are kept.
    pub fn lose(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "it ended before it was lost");
    }
}

impl Drop for Fetch {
    /// Ensures that no process outlives a failed test.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
