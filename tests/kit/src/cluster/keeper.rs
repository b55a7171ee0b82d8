//! The processes of a cluster, which end with the process that started them. Talks to processes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::cluster_keeper;

/// A running `cluster_keeper`, which kills its processes when the pipe to it closes.
#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    process: Mutex<(Child, BufReader<ChildStdout>)>,
}

/// A process that a keeper started. Dropping this value does not stop it.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    log: PathBuf,
}

impl Keeper {
    /// Starts a keeper with a new directory below `parent` for the files of its processes.
    pub(super) fn start_in(parent: &Path) -> Self {
        let program = cluster_keeper();
        let folder = tempfile::Builder::new().prefix("plumbline-cluster-").tempdir_in(parent).unwrap().keep();
        // In a process group of its own, so that Ctrl-C only ends the test, and the keeper can clean up.
        let mut child = Command::new(program)
            .arg(&folder)
            // Trades memory for time: an API server spent a quarter of its time on garbage collection.
            .env("GOGC", "400")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { folder, process: Mutex::new((child, answers)) }
    }

    /// The directory that is removed at the end.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program; its output is written to `<name>.log`.
    pub(super) fn run(&self, name: &str, program: &Path, args: &[String]) -> Process {
        assert!(program.exists(), "{} is missing; `make setup-tests` builds it", program.display());
        let log = self.folder.join(format!("{name}.log"));
        let mut command = vec![log.to_str().unwrap(), program.to_str().unwrap()];
        command.extend(args.iter().map(String::as_str));
        let line = serde_json::to_string(&command).unwrap();
        let mut answer = String::new();
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let (child, answers) = &mut *process;
        writeln!(child.stdin.as_ref().unwrap(), "{line}").unwrap();
        answers.read_line(&mut answer).unwrap();
        let pid = answer.trim().parse().unwrap_or_else(|_| panic!("{name} was not started: {answer:?}"));
        Process { pid: Pid::from_raw(pid).unwrap(), log }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // `wait` closes the pipe first.
        let _ = self.process.get_mut().unwrap_or_else(PoisonError::into_inner).0.wait();
    }
}

impl Process {
    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Panics with the end of its log if it has exited.
    pub(super) fn assert_alive(&self) {
        if !is_alive(self.pid()) {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            panic!("{} says why the process ended:\n{end}", self.log.display());
        }
    }

    /// Kills it. Its keeper has not reaped it, so its process id has not been reused.
    pub(super) fn kill(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

/// Whether a process is running; a zombie is not.
pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which is in brackets and may contain any character.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}
