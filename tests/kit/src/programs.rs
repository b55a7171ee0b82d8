//! The real programs, built before their first use. Talks to cargo and to processes.
//!
//! Tests run programs of other packages, which cargo does not build for them: `cargo test --package
//! plumbline-tests-cluster` alone would run outdated ones, or none. So the first use in a test process builds them with
//! cargo, in the same profile and directory; if they are up to date, as after `cargo test --workspace`, that takes a
//! moment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Path of `plumbline`, with the trainer next to it.
pub fn plumbline() -> PathBuf {
    built().join("plumbline")
}

/// Path of `plumbline-trainer`.
pub fn trainer() -> PathBuf {
    built().join("plumbline-trainer")
}

/// Path of `cluster_keeper`, which kills a test's cluster when the test ends.
pub fn cluster_keeper() -> PathBuf {
    built().join("cluster_keeper")
}

/// Path of `local_cluster`, which runs a cluster with a node until it is stopped.
pub fn local_cluster() -> PathBuf {
    built().join("local_cluster")
}

/// Directory with the images of these programs, `operator.tar` and `trainer.tar`.
pub fn images() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = built().join("images");
        let output = Command::new("python3")
            .args(["images/build.py".as_ref(), built(), ".cache".as_ref(), &folder])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(REPOSITORY)
            .output()
            .unwrap();
        assert!(output.status.success(), "the images cannot be built: {}", text(&output.stderr));
        folder
    })
}

/// Directory of the programs.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The path of a test is target/<profile>/deps/<name>-<hash>, that of a program target/<profile>/<name>.
        let mut folder = std::env::current_exe().unwrap();
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let output = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--workspace", "--bins", "--profile", profile, "--target-dir"])
            .arg(folder.parent().unwrap())
            .current_dir(REPOSITORY)
            .output()
            .unwrap();
        assert!(output.status.success(), "the programs cannot be built: {}", text(&output.stderr));
        folder
    })
}

/// The exit code; -1 after a signal.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// Bytes as text; invalid UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
