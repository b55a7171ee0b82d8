//! A simulated GPU for programs under test: a library in place of libtorch's CUDA half, whose device is separate memory
//! on which the CPU computes. As on a GPU, an operator whose tensors are on both devices fails. Talks to the compiler.
//!
//! It verifies that tensors that are combined are on one device, and that states are saved from it and restored to it.
//! It does not verify a GPU's kernels, their speed or their rounding.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::programs::text;

/// The directory with the library. With `LD_LIBRARY_PATH` a program finds it before the real one.
pub fn folder() -> &'static Path {
    static BUILT: OnceLock<tempfile::TempDir> = OnceLock::new();
    BUILT.get_or_init(build).path()
}

/// Environment variables that make a program use the simulated GPU.
pub fn environment() -> [(&'static str, String); 1] {
    [("LD_LIBRARY_PATH", folder().display().to_string())]
}

fn build() -> tempfile::TempDir {
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // Resolves links: libtorch finds the CUDA runtime relative to its own location.
    let torch: PathBuf = repository.join(".cache/packages/torch").canonicalize().unwrap();
    let (include, lib, folder) = (torch.join("include"), torch.join("lib"), tempfile::tempdir().unwrap());
    let output = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=1"])
        .arg("-I")
        .arg(&include)
        .arg("-I")
        .arg(include.join("torch/csrc/api/include"))
        .arg(repository.join("tests/cuda/stand_in.cpp"))
        .arg("-o")
        .arg(folder.path().join("libtorch_cuda.so"))
        .arg(format!("-L{}", lib.display()))
        .args(["-ltorch_cpu", "-lc10"])
        .output()
        .unwrap();
    assert!(output.status.success(), "the stand-in cannot be built: {}", text(&output.stderr));
    folder
}
