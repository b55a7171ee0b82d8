//! `hf://` URIs: a model or a file of a dataset in a repository of the Hugging Face hub. Computes only.
//!
//! The grammar is that of `huggingface_hub`'s HfFileSystem: `hf://[datasets/]<repository>[@<revision>][/<path>]`.

use std::fmt;

use crate::relative;

/// What an `hf://` URI begins with.
pub const SCHEME: &str = "hf://";
const DATASETS: &str = "datasets/";
/// The revision where none is given.
const MAIN: &str = "main";

/// A place in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubUri {
    /// A model: the repository as a folder.
    Model {
        /// `organisation/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// A file of a dataset.
    DatasetFile {
        /// `organisation/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// Path of the file in the repository.
        path: String,
    },
}

impl HubUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let wrong = |expected: &str| Err(format!("expected {expected}, found \"{uri}\"; write such a URI"));
        let Some(rest) = uri.strip_prefix(SCHEME) else { return wrong("an hf:// URI") };
        let (rest, is_dataset) = rest.strip_prefix(DATASETS).map_or((rest, false), |rest| (rest, true));
        let mut parts = rest.splitn(3, '/');
        let (organisation, name, path) = (parts.next(), parts.next(), parts.next());
        let (Some(organisation), Some(name)) = (organisation, name) else {
            return wrong("hf://organisation/model or hf://datasets/organisation/name/file.jsonl");
        };
        let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
        if !is_name(organisation) || !is_name(name) || !is_revision(revision) {
            return wrong("names of letters, digits, '-', '_' and '.' as hf://organisation/name");
        }
        let (repository, revision) = (format!("{organisation}/{name}"), revision.to_owned());
        match (is_dataset, path) {
            (false, None) => Ok(Self::Model { repository, revision }),
            (true, Some(path)) if relative::check(path).is_ok() => {
                Ok(Self::DatasetFile { repository, revision, path: path.to_owned() })
            }
            (false, Some(_)) => wrong("a model repository as a whole, as hf://organisation/model"),
            (true, _) => wrong("a file of the dataset, as hf://datasets/organisation/name/file.jsonl"),
        }
    }

    /// The repository: `organisation/name`.
    pub fn repository(&self) -> &str {
        match self {
            Self::Model { repository, .. } | Self::DatasetFile { repository, .. } => repository,
        }
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Model { .. })
    }
}

impl fmt::Display for HubUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { repository, revision } => write!(f, "{SCHEME}{repository}@{revision}"),
            Self::DatasetFile { repository, revision, path } => {
                write!(f, "{SCHEME}{DATASETS}{repository}@{revision}/{path}")
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A git reference; slashes are written `%2F`.
fn is_revision(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.%".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_read_with_their_revision_and_read_back() {
        for (uri, canonical) in [
            ("hf://org/model", "hf://org/model@main"),
            ("hf://org/model-7b.v1@refs%2Fpr%2F1", "hf://org/model-7b.v1@refs%2Fpr%2F1"),
            ("hf://datasets/org/name@v2/data/train.jsonl", "hf://datasets/org/name@v2/data/train.jsonl"),
        ] {
            let read = HubUri::parse(uri).unwrap();
            assert_eq!(read.to_string(), canonical);
            assert_eq!(HubUri::parse(canonical).unwrap(), read);
            assert_eq!(read.is_folder(), !uri.contains("datasets"));
        }
    }

    #[test]
    fn what_is_no_place_in_a_repository_is_refused() {
        for uri in [
            "hf://",
            "hf://model",
            "hf://org/",
            "hf:///model",
            "hf://org/model/file",
            "hf://org/model@",
            "hf://org/mo del",
            "hf://../model",
            "hf://datasets/org/name",
            "hf://datasets/org/name/",
            "hf://datasets/org/name/a/../b",
            "s3://org/model",
        ] {
            let error = HubUri::parse(uri).unwrap_err();
            assert!(error.contains("expected") && error.contains(uri), "{error}");
        }
    }
}
