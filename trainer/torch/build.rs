//! Compiles the C++ shim against the libtorch that torch-sys links, and lets tests find it.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    // The folder behind the symlinks: libtorch finds the CUDA runtime relative to its real place.
    let Ok(real) = std::fs::canonicalize(Path::new(&lib).join("libtorch_cpu.so")) else {
        println!("cargo:warning=libtorch_cpu.so was not found in '{lib}': run `make setup` first");
        std::process::exit(1);
    };
    let folder = real.parent().map(PathBuf::from).unwrap_or_default();
    let root = folder.parent().map(PathBuf::from).unwrap_or_default();
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .std("c++17")
        .opt_level(2)
        .include("csrc/stub")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // What the wheel was built with: c10d's classes have other members without it.
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("csrc/shim.cpp")
        .file("csrc/group.cpp")
        .compile("plumbline_shim");
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
}
