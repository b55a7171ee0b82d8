//! A disk that is small: a tmpfs in a mount namespace of its own, which is gone with the commands that run on it. Talks to
//! processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::programs::{plumbline, text, trainer};

/// A place for a small disk, and a folder beside it that is not on it.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// One that nothing is mounted at yet.
    pub fn new() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(disk.mounted()).unwrap();
        disk
    }

    /// Where it is mounted while commands run.
    pub fn mounted(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A path that is not on it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs commands of bash with a disk of a size as tmpfs takes it (`64k`, `1m`). They have its folder as `$DISK`, the one
    /// beside it as `$BESIDE`, the programs as `$PLUMBLINE` and `$TRAINER`, and `resize SIZE`.
    pub fn bash(&self, size: &str, commands: &str) -> Output {
        const ENTER: [&str; 3] = ["--user", "--map-root-user", "--mount"];
        let mount = format!(
            "set -euo pipefail\nmount --no-mtab -t tmpfs -o size={size} tmpfs \"$DISK\"\n\
             resize() {{ mount --no-mtab -o remount,size=\"$1\" \"$DISK\"; }}\ncd \"$BESIDE\"\n"
        );
        let mut command = Command::new("unshare");
        // Root needs no namespace of users, and some machines have none.
        let is_root = rustix::process::geteuid().is_root();
        command.args(if is_root { &ENTER[2..] } else { &ENTER[..] });
        command.args(["bash", "-c", &(mount + commands)]).env("OMP_NUM_THREADS", "1").env_remove("RUST_LOG");
        command.env("DISK", self.mounted()).env("BESIDE", self.folder.path());
        command.env("PLUMBLINE", plumbline()).env("TRAINER", trainer());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}(without root, the kernel has to allow namespaces of users)",
            text(&output.stderr)
        );
        output
    }
}

impl Default for SmallDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// The content of a file as text.
pub fn read(path: &Path) -> String {
    text(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}
