//! The folder that `plumbline run` keeps everything in. Talks to the file system only.
//!
//! ```text
//! lock                                held while a run uses the folder
//! digests.json                        digests of inputs that have not changed since
//! <plural>/<name>/resource.yaml       the resource with its status
//! <plural>/<name>/run-<digest>/       what the stage reads and leaves behind (`work` of its run document)
//! inputs/<digest of a URI>            an input that was fetched
//! artifacts/<plural>/<name>/          the artifact, unless spec.output.uri says otherwise
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::{Kind, Resource};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::digest;
use crate::printable::cause;
use crate::uri::fetched_name;

/// Bytes that a work folder has to take for anything to be begun in it.
const PROBE: usize = 1 << 16;

/// The work folder.
#[derive(Debug)]
pub struct WorkDir {
    root: PathBuf,
    /// Closed, and with that released, when the process ends, however it ends.
    _lock: Option<File>,
}

/// Why the work folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkDirError {
    /// Another run uses it.
    #[error(
        "{path}: expected a work directory that is not in use, found another `plumbline run` in it; wait for it, or choose another --work-dir"
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A resource that was written there cannot be read.
    #[error(
        "{path}: expected a resource as `plumbline run` writes it, found {source}; restore the file or delete it, and the resource is made again"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_yaml::Error,
    },
    /// A process of an earlier run works in the folder.
    #[error("{path}: expected no process of an earlier run, found one that holds this file; {}", end_it(.process))]
    StillRunning {
        /// The file that it holds.
        path: PathBuf,
        /// Its id, as the file has it.
        process: String,
    },
    /// A program cannot be started.
    #[error("{path}: cannot start this program: {}; {}", cause(source), advice_to_start(source))]
    Process {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system refuses.
    #[error("{path}: {source}; {}", advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What to do when a file of a run cannot be read or written. What is done already stays in any case.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space there, or choose a --work-dir elsewhere, and run it again: it resumes"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "check owner and permissions, and whether the file system is mounted to be written to"
        }
        _ if is_out_of_files(error) => "raise the limit of open files (ulimit -n)",
        _ => "check the directory's owner, permissions and free space",
    }
}

fn end_it(process: &str) -> String {
    match process {
        "" => "end it (`fuser` names it) and run again".into(),
        id => format!("end process {id} and run again"),
    }
}

/// What to do when a process cannot be made. No storage can help.
fn advice_to_start(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::WouldBlock => "raise the limit of processes (ulimit -u, or pids of a container), or end some",
        io::ErrorKind::OutOfMemory => "free memory, and run it again: it resumes",
        io::ErrorKind::PermissionDenied => {
            "check that it may be executed (chmod +x), and that its file system allows it"
        }
        _ if is_out_of_files(error) => "raise the limit of open files (ulimit -n)",
        _ => "check that it is there and may be executed",
    }
}

/// Whether a limit of open files is the cause, which no storage can help.
fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw_os_error).is_some_and(|e| e == Errno::MFILE || e == Errno::NFILE)
}

impl WorkDirError {
    /// The exit code that it ends a run with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { source, .. } if !is_out_of_files(source) => ExitCode::StoreUnavailable,
            _ => ExitCode::Failed,
        }
    }

    /// From an error of the operating system about a process of a program.
    pub fn process(program: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Process { path: program.to_owned(), source }
    }

    /// From an error of the file system at a path.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl WorkDir {
    /// Makes the folder if needed and takes it for this process alone.
    pub fn open(root: &Path) -> Result<Self, WorkDirError> {
        let root = std::path::absolute(root).map_err(WorkDirError::at(root))?;
        fs::create_dir_all(&root).map_err(WorkDirError::at(&root))?;
        let path = root.join("lock");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(WorkDirError::at(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root, _lock: Some(lock) }),
            Err(Errno::WOULDBLOCK) => Err(WorkDirError::Busy { path: root }),
            Err(error) => Err(WorkDirError::Io { path, source: error.into() }),
        }
    }

    /// The folder as it is, to look at; it need not exist.
    pub fn look(root: &Path) -> Result<Self, WorkDirError> {
        let root = std::path::absolute(root).map_err(WorkDirError::at(root))?;
        Ok(Self { root, _lock: None })
    }

    /// Whether anything more can be written: when one stage has failed to, the next would too.
    ///
    /// # Errors
    /// With the folder, why nothing can.
    pub fn probe(&self) -> Result<(), WorkDirError> {
        let path = self.root.join("probe");
        let written = write_atomically(&path, &vec![0; PROBE]);
        written.and_then(|()| fs::remove_file(&path)).map_err(WorkDirError::at(&self.root))
    }

    /// The cache of digests.
    pub fn digests_file(&self) -> PathBuf {
        self.root.join("digests.json")
    }

    /// The folder of a run, which it shares with runs that only measure other things.
    pub fn run_folder(&self, kind: Kind, name: &str, run: &str) -> PathBuf {
        self.root.join(kind.plural()).join(name).join(digest::work_name(run))
    }

    /// Where an artifact goes by default.
    pub fn artifact_folder(&self, kind: Kind, name: &str) -> PathBuf {
        self.root.join("artifacts").join(kind.plural()).join(name)
    }

    /// Where an input is kept that is fetched from elsewhere.
    pub fn fetched(&self, uri: &str) -> PathBuf {
        self.root.join("inputs").join(fetched_name(uri))
    }

    fn resource_file(&self, kind: Kind, name: &str) -> PathBuf {
        self.root.join(kind.plural()).join(name).join("resource.yaml")
    }

    /// A resource as last written.
    pub fn resource(&self, kind: Kind, name: &str) -> Result<Option<Resource>, WorkDirError> {
        let path = self.resource_file(kind, name);
        match fs::read_to_string(&path) {
            Ok(text) => serde_yaml::from_str(&text).map(Some).map_err(|source| WorkDirError::Broken { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WorkDirError::Io { path, source }),
        }
    }

    /// Writes a resource.
    pub fn write_resource(&self, resource: &Resource) -> Result<(), WorkDirError> {
        let path = self.resource_file(resource.kind, &resource.metadata.name);
        let broken = |source| WorkDirError::Broken { path: path.clone(), source };
        let text = serde_yaml::to_string(resource).map_err(broken)?;
        write_atomically(&path, text.as_bytes()).map_err(WorkDirError::at(&path))
    }

    /// Every resource that was ever written here.
    pub fn resources(&self) -> Result<BTreeSet<(Kind, String)>, WorkDirError> {
        let mut found = BTreeSet::new();
        for kind in Kind::ALL {
            let folder = self.root.join(kind.plural());
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(WorkDirError::Io { path: folder, source }),
            };
            for entry in entries {
                let path = entry.map_err(WorkDirError::at(&folder))?.path();
                if let Some(name) = path.file_name().and_then(|n| n.to_str())
                    && path.join("resource.yaml").is_file()
                {
                    found.insert((kind, name.to_owned()));
                }
            }
        }
        Ok(found)
    }
}

/// Replaces a file in one step, folders included: a reader or a crash sees the old content or the new, whole.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let aside = folder.join(name);
    let mut file = File::create(&aside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&aside, path));
    // Half a file takes room that a full disk does not have.
    written.inspect_err(|_| drop(fs::remove_file(&aside)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_run_is_refused_while_the_first_has_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let first = WorkDir::open(root.path()).unwrap();
        let error = WorkDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("another `plumbline run`"), "{error}");
        drop(first);
        WorkDir::open(root.path()).unwrap();
    }

    #[test]
    fn a_resource_comes_back_as_it_was_written_and_a_broken_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = WorkDir::open(root.path()).unwrap();
        assert_eq!(dir.resource(Kind::RewardModel, "r").unwrap(), None);
        let resource: Resource = serde_json::from_value(json!({
            "apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel", "metadata": {"name": "r", "generation": 2},
            "spec": {"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}},
            "status": {"observedGeneration": 2, "job": {"name": "run-1", "attempt": 1}},
        }))
        .unwrap();
        dir.write_resource(&resource).unwrap();
        assert_eq!(dir.resource(Kind::RewardModel, "r").unwrap(), Some(resource));
        assert_eq!(dir.resources().unwrap(), [(Kind::RewardModel, "r".to_owned())].into());
        fs::write(dir.resource_file(Kind::RewardModel, "r"), "kind: [").unwrap();
        assert!(matches!(dir.resource(Kind::RewardModel, "r"), Err(WorkDirError::Broken { .. })));
    }
}
