//! A small disk: a tmpfs in a mount namespace of its own, which exists only while commands run on it. Talks to
//! processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::programs::{plumbline, text, trainer};

/// The mount point of a small disk, and a directory next to it that is not on it.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Creates the directories; nothing is mounted yet.
    pub fn new() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(disk.mounted()).unwrap();
        disk
    }

    /// The mount point while commands run.
    pub fn mounted(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A path that is not on the disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs bash commands with a disk of a given size in the format of tmpfs (`64k`, `1m`). They have its path as
    /// `$DISK`, the directory next to it as `$BESIDE`, the programs as `$PLUMBLINE` and `$TRAINER`, and `resize SIZE`.
    pub fn bash(&self, size: &str, commands: &str) -> Output {
        const ENTER: [&str; 3] = ["--user", "--map-root-user", "--mount"];
        let mount = format!(
            "set -euo pipefail\nmount --no-mtab -t tmpfs -o size={size} tmpfs \"$DISK\"\n\
             resize() {{ mount --no-mtab -o remount,size=\"$1\" \"$DISK\"; }}\ncd \"$BESIDE\"\n"
        );
        let mut command = Command::new("unshare");
        // Root does not need a user namespace, which some machines do not support.
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

/// Reads a file as text.
pub fn read(path: &Path) -> String {
    text(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}
