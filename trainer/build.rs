//! Lets the binary and the tests find libtorch without LD_LIBRARY_PATH. The tests' package uses it too.
fn main() {
    // The folder behind the symlinks: libtorch finds the CUDA runtime relative to its real place.
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    if let Ok(real) = std::fs::canonicalize(std::path::Path::new(&lib).join("libtorch_cpu.so"))
        && let Some(folder) = real.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
}
