//! Inputs that are not on a file system: a hub, a web server, a store of objects. Computes only.

use crate::hub::{self, HubUri};

/// Schemes of stores of objects.
const STORES: [&str; 3] = ["s3://", "gs://", "az://"];
const WEB: [&str; 2] = ["https://", "http://"];

/// A place that inputs are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A repository of a hub.
    Hub(HubUri),
    /// A file of a web server.
    Web(String),
    /// An object, or all objects below a key: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.
    Store(String),
}

impl Remote {
    /// Reads a URI; nothing where it is no remote one.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub fn of(uri: &str) -> Option<Result<Self, String>> {
        let is = |schemes: &[&str]| schemes.iter().any(|scheme| uri.starts_with(scheme));
        if is(&[hub::SCHEME]) {
            return Some(HubUri::parse(uri).map(Self::Hub));
        }
        let (kind, example): (fn(String) -> Self, &str) = match uri {
            _ if is(&STORES) => (Self::Store, "s3://bucket/folder"),
            _ if is(&WEB) => (Self::Web, "https://host/file.jsonl"),
            _ => return None,
        };
        let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
        // What is after ? or before @ is often a credential, and a URI is written into statuses and artifacts.
        let clean = !rest.contains(['?', '#', '@', '\\', ' ']) && !rest.contains("//");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let tidy = !path.split('/').any(|part| part == "." || part == "..");
        Some(if clean && tidy && !host.is_empty() && !path.trim_matches('/').is_empty() {
            Ok(kind(uri.trim_end_matches('/').to_owned()))
        } else {
            // It is not repeated: what makes it wrong may be a secret.
            Err(format!(
                "expected a URI as {example}, without credentials, query, `.` and `..`, found another; correct it"
            ))
        })
    }

    /// Whether it is one file; nothing where only the store knows.
    pub fn is_file(&self) -> Option<bool> {
        match self {
            Self::Hub(uri) => Some(!uri.is_folder()),
            Self::Web(_) => Some(true),
            Self::Store(_) => None,
        }
    }

    /// The last part of its path, or a repository's name.
    pub fn name(&self) -> &str {
        let path = match self {
            Self::Hub(HubUri::Model { repository, .. }) => repository,
            Self::Hub(HubUri::DatasetFile { path, .. }) => path,
            Self::Web(uri) | Self::Store(uri) => uri,
        };
        path.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_with_their_names() {
        for (uri, name, is_file) in [
            ("hf://org/model@v1", "model", Some(false)),
            ("hf://datasets/org/name/data/a.jsonl", "a.jsonl", Some(true)),
            ("https://host:8443/data/a.jsonl", "a.jsonl", Some(true)),
            ("s3://bucket/models/sft/", "sft", None),
            ("gs://bucket/a.jsonl", "a.jsonl", None),
            ("az://container/folder", "folder", None),
        ] {
            let remote = Remote::of(uri).unwrap().unwrap();
            assert_eq!((remote.name(), remote.is_file()), (name, is_file), "{uri}");
        }
        for uri in ["pvc://claim/path", "file:///path", "../models", "ftp://host/a"] {
            assert_eq!(Remote::of(uri), None);
        }
    }

    #[test]
    fn credentials_and_ways_out_are_refused() {
        for uri in [
            "https://user:key@host/a.jsonl",
            "https://host/a.jsonl?signature=x",
            "https://host",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "s3://bucket/a/../b",
            "gs://bucket/a//b",
        ] {
            let error = Remote::of(uri).unwrap().unwrap_err();
            assert!(error.contains("expected") && !error.contains("key@"), "{uri}: {error}");
        }
    }
}
