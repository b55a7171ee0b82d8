//! A child process that is found again, and ended, by whoever comes after a crash. Talks to the operating system only.
//!
//! Every child gets a locked file as its standard input. The lock lasts as long as the child does, whatever happens to
//! the parent, and the file holds the child's process id. So a held lock proves that the id is still that child's,
//! which an id and a start time alone only make likely.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::work_dir::WorkDirError;
use crate::plan::Exit;

/// How long a stage may take to make its progress safe after SIGTERM.
pub const STAGE_PATIENCE: Duration = Duration::from_mins(1);
/// How long a server may take to end after SIGTERM.
pub const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// A child process, leader of its own process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Option<Pid>,
    program: PathBuf,
}

/// Starts a program. Its output is added to the file `log`; `lock` is the file that it holds while it lives.
///
/// # Errors
/// With the path that cannot be written or started.
pub fn spawn(program: &Path, arguments: &[OsString], log: &Path, lock: &Path) -> Result<Process, WorkDirError> {
    let at = WorkDirError::at;
    let output = File::options().create(true).append(true).open(log).map_err(at(log))?;
    let held = open_lock(lock).map_err(at(lock))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        Errno::WOULDBLOCK => still_running(lock),
        other => at(lock)(other.into()),
    })?;
    let mut command = Command::new(std::env::current_exe().map_err(WorkDirError::process(program))?);
    command
        .args(["run-tied-to-parent", "--parent", &std::process::id().to_string(), "--"])
        .arg(program)
        .args(arguments);
    // A group of its own: Ctrl-C at the terminal reaches us alone, and we pass it on once.
    command.process_group(0).stdin(held).stdout(output.try_clone().map_err(at(log))?).stderr(output).kill_on_drop(true);
    // Stages and judges share the cores: threads that wait for work by spinning would slow all of them many times.
    command.env("OMP_WAIT_POLICY", "PASSIVE");
    let child = command.spawn().map_err(WorkDirError::process(program))?;
    let id = child.id();
    fs::write(lock, id.map(|id| id.to_string()).unwrap_or_default()).map_err(at(lock))?;
    let group = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok(Process { child, group, program: program.to_owned() })
}

impl Process {
    /// Waits for its end.
    pub async fn wait(&mut self) -> Result<Exit, WorkDirError> {
        self.child.wait().await.map(exit).map_err(WorkDirError::process(&self.program))
    }

    /// Its end, if it has ended.
    pub fn ended(&mut self) -> Result<Option<Exit>, WorkDirError> {
        Ok(self.child.try_wait().map_err(WorkDirError::process(&self.program))?.map(exit))
    }

    /// Asks it to stop, waits, and kills it and its children when it does not.
    pub async fn stop(&mut self, patience: Duration) -> Result<Exit, WorkDirError> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(patience, self.child.wait()).await {
            return ended.map(exit).map_err(WorkDirError::process(&self.program));
        }
        tracing::warn!("it did not stop within {} s and is killed", patience.as_secs());
        self.signal(Signal::KILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may have ended in the meantime.
            let _ = kill_process_group(group, signal);
        }
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or_default()),
    }
}

/// Ends the process that an earlier run left behind, if there is one.
///
/// # Errors
/// When it cannot be ended: two of a kind must not write to one folder.
pub async fn end_leftover(lock: &Path, patience: Duration) -> Result<(), WorkDirError> {
    let at = WorkDirError::at;
    let is_free = || is_free(lock).map_err(at(lock));
    if !lock.exists() || is_free()? {
        return Ok(());
    }
    let path = PathBuf::from(lock);
    let group = fs::read_to_string(lock).map_err(at(lock))?.trim().parse().ok().and_then(Pid::from_raw);
    tracing::info!("a process of an earlier run is still alive and is asked to stop ({})", path.display());
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, SERVER_PATIENCE)] {
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if is_free()? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Err(still_running(lock))
}

fn still_running(lock: &Path) -> WorkDirError {
    let process = fs::read_to_string(lock).unwrap_or_default().trim().to_owned();
    WorkDirError::StillRunning { path: lock.to_owned(), process }
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

fn is_free(lock: &Path) -> io::Result<bool> {
    match flock(&open_lock(lock)?, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::exit_code::ExitCode;

    /// What does not lie at the storage must not send anybody to look for free space.
    fn is_no_fault_of_the_storage(error: &WorkDirError, advice: &str) {
        let said = error.to_string();
        assert!(said.contains(advice) && !said.contains("free space") && !said.contains("owner"), "{said}");
        assert_eq!(error.exit_code(), ExitCode::Failed, "{said}");
    }

    #[tokio::test]
    async fn a_lock_that_an_earlier_process_holds_is_said_to_be_held() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let held = open_lock(&at("lock")).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        fs::write(at("lock"), "4194305").unwrap();
        let error = spawn(Path::new("/bin/true"), &[], &at("log"), &at("lock")).unwrap_err();
        is_no_fault_of_the_storage(&error, "end process 4194305");
    }

    #[test]
    fn a_process_that_cannot_be_made_is_told_from_a_file_that_cannot_be_written() {
        for (number, advice) in
            [(Errno::AGAIN, "ulimit -u"), (Errno::NOMEM, "memory"), (Errno::ACCESS, "may be executed")]
        {
            let source = io::Error::from_raw_os_error(number.raw_os_error());
            is_no_fault_of_the_storage(&WorkDirError::process(Path::new("/bin/true"))(source), advice);
        }
    }
}
