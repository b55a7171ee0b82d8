//! `plumbline-trainer fetch` by itself, as the first container of a pod: one input, into folders that are gone with it. Talks
//! to the file system and to processes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::chain;
use crate::programs::{text, trainer};

/// How long something may take that takes a second: the machine may be busy with a build.
const PATIENCE: Duration = Duration::from_mins(2);

/// A pod of a run.
pub struct Fetch {
    folder: tempfile::TempDir,
    /// How servers are reached.
    pub environment: Vec<(&'static str, String)>,
    /// The work folder, where that is another one than the pod's own.
    pub work: Option<PathBuf>,
    /// Where artifact and work folder are kept: `artifact` and `work`, or nothing.
    pub store: Value,
    child: Option<Child>,
}

impl Fetch {
    /// One that has not started.
    pub fn new(environment: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, environment, work: None, store: Value::Null, child: None }
    }

    /// A path in the pod: `input`, what was fetched; `work/...` of its own work folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Starts to fetch what a URI names.
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

    /// What it has said so far.
    pub fn log(&self) -> String {
        text(&fs::read(self.path("log")).unwrap())
    }

    /// Waits until something holds; ends the test if the fetch ends first.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end, and says whether it went well.
    pub fn ends_well(&mut self) -> bool {
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// Waits for a good end, and gives the digest of what was fetched.
    pub fn digest(&mut self) -> String {
        assert!(self.ends_well(), "{}", self.log());
        artifact::digest_path(&self.path("input")).unwrap()
    }

    /// Fetches what a URI names to a good end, and gives its digest.
    pub fn fetch(&mut self, uri: &str) -> String {
        self.start(uri);
        self.digest()
    }

    /// Asks it to stop, and waits for its end: its exit code, and how long that took.
    pub fn terminate(&mut self) -> (i32, Duration) {
        let (mut child, asked) = (self.child.take().unwrap(), Instant::now());
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        (child.wait().unwrap().code().unwrap_or(-1), asked.elapsed())
    }

    /// The pod is lost in the middle; what it wrote to a volume stays.
    pub fn lose(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "it ended before it was lost");
    }
}

impl Drop for Fetch {
    /// A test that ends early leaves no process behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
