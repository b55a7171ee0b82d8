//! A directory with manifests and the `plumbline` runs in it. Talks to the file system and to processes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::run::{RESULT_FILE, StageResult};
use plumbline_crds::status::Status;
use plumbline_crds::{Kind, Resource};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::programs::{code, plumbline, text};

/// Timeout for operations that normally take a second: the machine may be busy with a build.
const PATIENCE: Duration = Duration::from_mins(2);

/// A directory with manifests.
pub struct Place {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    /// Writes manifests to a new directory.
    pub fn new(manifests: &[Value]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), environment: Vec::new() };
        place.write(manifests);
        place
    }

    /// Replaces the manifests.
    pub fn write(&self, manifests: &[Value]) {
        let documents: Vec<String> = manifests.iter().map(|m| serde_yaml::to_string(m).unwrap()).collect();
        fs::write(self.path("run.yaml"), documents.join("---\n")).unwrap();
    }

    /// Sets an environment variable for runs.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A path relative to the directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The same as a URI for manifests.
    pub fn uri(&self, below: &str) -> String {
        format!("file://{}", self.path(below).display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(plumbline());
        command.arg("run").arg("-f").arg(self.path("run.yaml")).arg("--work-dir").arg(self.path("work"));
        command.env("OMP_NUM_THREADS", "1").env_remove("RUST_LOG").process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the manifests, and waits for the end.
    pub fn run(&self) -> Ended {
        let started = Instant::now();
        Ended { output: self.command().output().unwrap(), took: started.elapsed() }
    }

    /// Starts a run without waiting.
    pub fn start(&self) -> Running<'_> {
        Running { place: self, child: Some(self.command().spawn().unwrap()) }
    }

    /// A resource's status.
    pub fn status(&self, kind: Kind, name: &str) -> Status {
        let file = self.path("work").join(kind.plural()).join(name).join("resource.yaml");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        serde_yaml::from_str::<Resource>(&text).unwrap().status.unwrap()
    }

    /// The directory of a resource's last run, if it was started.
    pub fn find_run(&self, kind: Kind, name: &str) -> Option<PathBuf> {
        let folder = self.path("work").join(kind.plural()).join(name);
        let runs = fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir());
        runs.max_by_key(|run| fs::metadata(run).and_then(|about| about.created()).ok())
    }

    /// Number of lines in a file of a resource's run; 0 if there is no such file.
    pub fn lines(&self, kind: Kind, name: &str, file: &str) -> usize {
        let content = self.find_run(kind, name).and_then(|run| fs::read(run.join(file)).ok()).unwrap_or_default();
        content.split(|b| *b == b'\n').count() - 1
    }

    /// Number of run directories of a resource.
    pub fn runs(&self, kind: Kind, name: &str) -> usize {
        entries(&self.path("work").join(kind.plural()).join(name)).iter().filter(|p| p.is_dir()).count()
    }

    /// The result of a resource's last attempt.
    pub fn result(&self, kind: Kind, name: &str) -> Option<StageResult> {
        let run = self.find_run(kind, name)?;
        Some(serde_json::from_slice(&fs::read(run.join(RESULT_FILE)).ok()?).unwrap())
    }

    /// The directory of a resource's artifact.
    pub fn artifact(&self, kind: Kind, name: &str) -> PathBuf {
        self.path("work").join("artifacts").join(kind.plural()).join(name)
    }

    /// Reads a JSON file of a resource's artifact.
    pub fn json(&self, kind: Kind, name: &str, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.artifact(kind, name).join(file)).unwrap()).unwrap()
    }

    /// Reads a JSONL file of a resource's artifact.
    pub fn jsonl(&self, kind: Kind, name: &str, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.artifact(kind, name).join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The process groups of the stage and of its judges, from the runs' lock files.
    fn groups(&self) -> Vec<Pid> {
        let mut groups = Vec::new();
        for kind in Kind::ALL {
            for resource in entries(&self.path("work").join(kind.plural())) {
                for run in entries(&resource).into_iter().filter(|p| p.is_dir()) {
                    let locks = entries(&run).into_iter().filter(|p| p.extension().is_some_and(|e| e == "lock"));
                    groups.extend(locks.filter_map(|lock| Pid::from_raw(read_held(&lock)?)));
                }
            }
        }
        groups
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|all| all.filter_map(|e| Some(e.ok()?.path())).collect()).unwrap_or_default()
}

/// The process id in a lock file, if it is locked.
fn read_held(lock: &Path) -> Option<i32> {
    use rustix::fs::{FlockOperation, flock};
    let file = fs::File::open(lock).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => None,
        Err(_) => fs::read_to_string(lock).ok()?.trim().parse().ok(),
    }
}

/// A finished run.
pub struct Ended {
    output: Output,
    /// Its duration.
    pub took: Duration,
}

impl Ended {
    /// The exit code; -1 if a signal ended it.
    pub fn code(&self) -> i32 {
        code(&self.output)
    }

    /// Its standard error.
    pub fn said(&self) -> String {
        text(&self.output.stderr)
    }

    /// Its standard output.
    pub fn printed(&self) -> String {
        text(&self.output.stdout)
    }

    /// Panics unless the run succeeded.
    #[must_use]
    pub fn well(self) -> Self {
        assert_eq!(self.code(), 0, "{}", self.said());
        self
    }
}

/// The part of a run to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Victim {
    Executor,
    Stage,
    Both,
}

/// The result of a kill.
pub enum Struck {
    /// The run was killed completely.
    Hit,
    /// The run had already ended.
    Missed(Ended),
}

/// A run in progress.
pub struct Running<'a> {
    place: &'a Place,
    child: Option<Child>,
}

impl Running<'_> {
    /// Waits until `holds` returns true; panics if the run ends first.
    #[must_use]
    pub fn until(mut self, what: &str, mut holds: impl FnMut(&Place) -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self.place) {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                let said = text(&self.child.take().unwrap().wait_with_output().unwrap().stderr);
                panic!("the run ended before this held: {what}\n{said}");
            }
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }

    /// Kills a part of the run with SIGKILL after a delay, and waits until all of it has ended. If a stage is to be
    /// killed, waits until there is one.
    pub fn strike(mut self, after: Duration, victim: Victim) -> Struck {
        let (begun, mut child) = (Instant::now(), self.child.take().unwrap());
        let pid = Pid::from_child(&child);
        loop {
            if child.try_wait().unwrap().is_some() {
                return Struck::Missed(Ended { output: child.wait_with_output().unwrap(), took: begun.elapsed() });
            }
            if begun.elapsed() >= after && (victim != Victim::Stage || !self.place.groups().is_empty()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if victim == Victim::Both {
            // Stopped first, so that it cannot see its stage die.
            kill_process(pid, Signal::STOP).unwrap();
        }
        if victim != Victim::Executor {
            for group in self.place.groups() {
                // It may have ended by itself in the meantime.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        if victim != Victim::Stage {
            child.kill().unwrap();
        }
        let _ = child.wait_with_output().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !self.place.groups().is_empty() {
            assert!(Instant::now() < deadline, "a stage outlives its executor");
            std::thread::sleep(Duration::from_millis(5));
        }
        Struck::Hit
    }

    /// Kills all processes with SIGKILL. The executor is stopped first, so that it cannot see its stage die.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::STOP).unwrap();
        for group in self.place.groups() {
            // It may have ended by itself in the meantime.
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "it ended before it was killed");
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let started = Instant::now();
        Ended { output: self.child.take().unwrap().wait_with_output().unwrap(), took: started.elapsed() }
    }

    /// Asks the executor to stop, as `kubectl delete pod` or `kill` would, and waits for the end.
    pub fn terminate(mut self) -> Ended {
        let started = Instant::now();
        let child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        Ended { output: child.wait_with_output().unwrap(), took: started.elapsed() }
    }
}

impl Drop for Running<'_> {
    /// Ensures that no process outlives a failed test.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            for group in self.place.groups() {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
