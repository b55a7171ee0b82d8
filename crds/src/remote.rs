//! Inputs that are not on a file system: a hub, a web server, a store of objects. Computes only.

use std::net::IpAddr;

use crate::hub::{self, HubUri};

/// Schemes of stores of objects.
const STORES: [&str; 3] = ["s3://", "gs://", "az://"];
const WEB: [&str; 2] = ["https://", PLAIN];
/// Anybody on the way can read and change what comes so.
const PLAIN: &str = "http://";

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
        if uri.starts_with(PLAIN) && !is_loopback(host) {
            return Some(Err(
                "expected https://, found http://, which anybody on the way can change; http:// is for this machine alone".into()
            ));
        }
        let tidy = !path.split('/').any(|part| part == "." || part == "..");
        Some(if clean && tidy && !host.is_empty() && !path.trim_matches('/').is_empty() {
            Ok(kind(uri.trim_end_matches('/').to_owned()))
        } else {
            // It is not repeated: what makes it wrong may be a secret.
            Err(format!("expected a URI as {example}, without credentials, query, `.` and `..`; write such a URI"))
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

/// Whether a host, with or without its port, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
    fn what_anybody_on_the_way_can_change_comes_from_this_machine_alone() {
        for uri in ["http://127.0.0.1:1/a", "http://localhost/a", "http://[::1]:80/a", "https://host/a"] {
            assert!(Remote::of(uri).unwrap().is_ok(), "{uri}");
        }
        for uri in [
            "http://host/a.jsonl",
            "http://10.0.0.1/a",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1.example.com/a",
            "http://localhost.example.com/a",
            "http://[::2]/a",
        ] {
            assert!(Remote::of(uri).unwrap().unwrap_err().contains("expected https://"), "{uri}");
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
