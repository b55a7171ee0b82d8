//! URIs of models, data and artifacts outside a cluster. Computes only.

use std::path::{Component, Path, PathBuf};

use plumbline_crds::artifact::hex;
use plumbline_crds::remote::Remote;
use sha2::{Digest, Sha256};

/// What an input of a local run is named by.
const INPUT: &str = "a path relative to the manifest, file:///absolute/path, hf://, s3://, gs://, az:// or https://";
/// What an output of a local run is named by.
const OUTPUT: &str = "a path relative to the manifest, file:///absolute/path, s3://, gs:// or az://";

/// The absolute path of an input's URI: `file:///absolute/path`, or a path relative to `folder`, the manifest's own.
///
/// # Errors
/// What was expected and found, and what to do, for a URI that is neither.
pub fn local_path(uri: &str, folder: &Path) -> Result<PathBuf, String> {
    path(uri, folder, INPUT)
}

/// The same of an output's URI.
///
/// # Errors
/// As [`local_path`].
pub fn local_output(uri: &str, folder: &Path) -> Result<PathBuf, String> {
    path(uri, folder, OUTPUT)
}

fn path(uri: &str, folder: &Path, accepted: &str) -> Result<PathBuf, String> {
    if let Some(path) = uri.strip_prefix("file://") {
        if !path.starts_with('/') {
            return Err(format!(
                "expected file:///absolute/path, found \"{uri}\"; write three slashes and the whole path"
            ));
        }
        return Ok(tidy(Path::new(path)));
    }
    match uri.split_once("://") {
        Some(("pvc", _)) => Err(format!(
            "found pvc://, which exists only on a cluster; check this manifest with `validate --cluster`, or use {accepted}"
        )),
        Some((scheme, _)) => Err(format!("expected {accepted}, found the scheme {scheme}://; use one of these")),
        None if uri.starts_with('/') => Err(format!(
            "expected file:///absolute/path or a path relative to the manifest, found \"{uri}\"; write file://{uri}"
        )),
        None => Ok(tidy(&folder.join(uri))),
    }
}

/// Whether artifacts are written to a store of objects there.
pub fn is_store(uri: &str) -> bool {
    matches!(Remote::of(uri), Some(Ok(Remote::Store(_))))
}

/// The name of the file or folder that an input is fetched to. It keeps its own name: an ending says what a file holds.
pub fn fetched_name(uri: &str) -> String {
    let digest = hex(&Sha256::digest(uri.as_bytes())[..8]);
    match Remote::of(uri) {
        Some(Ok(remote)) => format!("{digest}-{}", remote.name()),
        _ => digest,
    }
}

/// A path without `.` and `..`, by its text alone: the digest of a run must not depend on how a path is written.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop();
            }
            part => tidy.push(part),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_absolute_or_beside_the_manifest() {
        let path = |uri| local_path(uri, Path::new("/runs/one"));
        assert_eq!(path("file:///data/m"), Ok(PathBuf::from("/data/m")));
        assert_eq!(path("./models/../m"), Ok(PathBuf::from("/runs/one/m")));
        assert_eq!(path("../m"), Ok(PathBuf::from("/runs/m")));
    }

    #[test]
    fn stores_are_told_from_other_places() {
        assert!(["s3://bucket/key", "gs://bucket/key/", "az://container/a/b"].into_iter().all(is_store));
        assert!(!["s3://bucket", "hf://org/model", "https://host/a", "file:///a", "a"].into_iter().any(is_store));
    }

    #[test]
    fn what_is_no_path_is_refused_by_name() {
        let error = |uri| local_path(uri, Path::new("/")).unwrap_err();
        assert!(error("ftp://host").contains("hf://") && error("ftp://host").contains("found the scheme ftp://"));
        assert!(error("pvc://claim/a").contains("`validate --cluster`"));
        let output = local_output("hf://org/model", Path::new("/")).unwrap_err();
        assert!(output.contains("s3://") && output.ends_with("found the scheme hf://; use one of these"), "{output}");
        assert!(local_path("file://data", Path::new("/")).unwrap_err().contains("three slashes"));
        assert!(local_path("/data", Path::new("/")).unwrap_err().contains("write file:///data"));
    }
}
