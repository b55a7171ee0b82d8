//! What lies in `tests/fixtures`: the tiny model and its prompts (made by `make fixture`), and a word list of our own.

use std::path::{Path, PathBuf};

/// A file or folder of the fixtures.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// The same as a manifest names it.
pub fn uri(name: &str) -> String {
    format!("file://{}", path(name).display())
}

/// The tiny model.
pub fn tiny() -> PathBuf {
    path("tiny")
}
