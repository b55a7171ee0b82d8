//! The hub's description of a repository, and the files of it that are needed. Computes only.
//!
//! Source: the hub's API, `GET /api/models/<repository>/revision/<revision>?blobs=true` (huggingface_hub, `HfApi.repo_info`
//! with `files_metadata`).

use std::collections::HashSet;

use plumbline_crds::{artifact, relative};
use serde::Deserialize;

use crate::{Error, Result};

/// Suffixes of the files that a model consists of: configuration, weights, tokenizer, chat template.
const MODEL_FILES: [&str; 5] = [".json", ".safetensors", ".txt", ".model", ".jinja"];
const WEIGHTS: &str = ".safetensors";
/// Prefix of files that contain the same weights in a vendor's own format.
const CONSOLIDATED: &str = "consolidated";

/// A repository at a commit.
#[derive(Clone, Debug, Deserialize)]
pub struct Listing {
    /// The commit.
    pub sha: String,
    /// Its files.
    pub siblings: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path within the repository.
    #[serde(rename = "rfilename")]
    pub path: String,
    /// Size in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Present for a large file.
    #[serde(default)]
    pub lfs: Option<Lfs>,
}

/// A file in large-file storage.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Lfs {
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Listing {
    /// Parses a hub's reply.
    ///
    /// # Errors
    /// `Data` for an invalid listing, a duplicate file, or a path that is not possible in a directory.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::Data(format!("expected the hub's description of a repository, found {what}"));
        let listing: Self = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let is_commit = (1..=64).contains(&listing.sha.len()) && listing.sha.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_commit {
            return Err(wrong(format!("a commit with characters other than letters and digits: {:?}", listing.sha)));
        }
        let mut paths = HashSet::new();
        for file in &listing.siblings {
            relative::check(&file.path).map_err(wrong)?;
            if !paths.insert(&file.path) {
                return Err(wrong(format!("{} twice", file.path)));
            }
        }
        Ok(listing)
    }

    /// The files of a model. A published artifact of ours is a model like any other: its manifest lists reports, which
    /// are not needed, and a README that may have been edited since.
    ///
    /// # Errors
    /// `Data` if there are no weights that can be loaded.
    pub fn model(&self) -> Result<Vec<RemoteFile>> {
        let wanted = |path: &str| {
            let is_of_model = MODEL_FILES.iter().any(|end| path.ends_with(end));
            is_of_model && !path.contains('/') && !path.starts_with(CONSOLIDATED) && path != artifact::MANIFEST
        };
        let files: Vec<RemoteFile> = self.siblings.iter().filter(|f| wanted(&f.path)).cloned().collect();
        let has = |end: &str| files.iter().any(|f| f.path.ends_with(end));
        if !has(WEIGHTS) || !has("config.json") {
            let found: Vec<&str> = self.siblings.iter().map(|f| f.path.as_str()).take(8).collect();
            return Err(Error::Data(format!(
                "expected a repository with config.json and *.safetensors, found {}; convert the model, or use another",
                found.join(", ")
            )));
        }
        Ok(files)
    }

    /// The entry of one file.
    ///
    /// # Errors
    /// `Data` if it does not exist.
    pub fn file(&self, path: &str) -> Result<RemoteFile> {
        let found = self.siblings.iter().find(|f| f.path == path).cloned();
        found.ok_or_else(|| {
            Error::Data(format!("expected the file {path} in the repository, found none; correct the path"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listing(paths: &[&str]) -> Listing {
        let files: Vec<_> = paths.iter().map(|p| json!({"rfilename": p, "size": 3})).collect();
        serde_json::from_value(json!({"sha": "c0ffee", "siblings": files, "likes": 7})).unwrap()
    }

    #[test]
    fn a_model_is_configuration_weights_and_tokenizer_without_duplicates() {
        let all = listing(&[
            ".gitattributes",
            "README.md",
            "manifest.json",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "merges.txt",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/params.json",
            "chat_template.jinja",
        ]);
        let paths: Vec<String> = all.model().unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["config.json", "model.safetensors", "tokenizer.json", "merges.txt", "chat_template.jinja"]);
    }

    #[test]
    fn an_impossible_listing_is_a_data_error() {
        let of = |sha: &str, paths: &[&str]| {
            let files: Vec<_> = paths.iter().map(|p| json!({"rfilename": p})).collect();
            Listing::parse(&json!({"sha": sha, "siblings": files}).to_string())
        };
        assert!(of("c0ffee", &["a/b.json", "a/c.json"]).is_ok());
        let long = "n".repeat(305);
        for (paths, what) in [
            (&["a\0b"][..], "control character"),
            (&["../a"], "not a path below"),
            (&["/a"], "absolute"),
            (&["a", "b", "a"], "a twice"),
            (&[&long], "305 bytes"),
        ] {
            let error = of("c0ffee", paths).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.contains(what)), "{error}");
        }
        for sha in ["", "../../x", "a/b", &"a".repeat(65)] {
            assert!(matches!(of(sha, &["a"]), Err(Error::Data(_))), "{sha}");
        }
        assert!(matches!(Listing::parse("<html>"), Err(Error::Data(_))));
    }

    #[test]
    fn a_repository_without_loadable_weights_is_rejected() {
        let error = listing(&["config.json", "pytorch_model.bin"]).model().unwrap_err().to_string();
        assert!(error.contains("safetensors") && error.contains("pytorch_model.bin"), "{error}");
        assert!(listing(&["a.jsonl"]).file("b.jsonl").unwrap_err().to_string().contains("b.jsonl"));
    }
}
