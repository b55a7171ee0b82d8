//! A GPU for programs under test: a library in place of libtorch's CUDA half, whose device is memory of its own that the CPU
//! computes on. It refuses what a GPU would: an operator that is given tensors of both devices. Talks to the compiler.
//!
//! It shows that everything that meets is on one device, and that states are saved from it and restored to it. It says
//! nothing of a GPU's kernels, their speed or their rounding.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::programs::text;

/// The folder with the library. A program finds it before the real one by `LD_LIBRARY_PATH`.
pub fn folder() -> &'static Path {
    static BUILT: OnceLock<tempfile::TempDir> = OnceLock::new();
    BUILT.get_or_init(build).path()
}

/// Environment of a program that is to find the stand-in as its GPU.
pub fn environment() -> [(&'static str, String); 1] {
    [("LD_LIBRARY_PATH", folder().display().to_string())]
}

fn build() -> tempfile::TempDir {
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // The real folder: libtorch finds the CUDA runtime relative to where it lies.
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
