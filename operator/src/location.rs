//! Where inputs and outputs of a run are on a cluster, and where its pod finds them. Computes only.
//!
//! | URI | the pod finds it at |
//! |---|---|
//! | `pvc://claim/path` | `/var/lib/plumbline/claims/<claim>/<path>`: a PersistentVolumeClaim of the same namespace |
//! | `file:///path` | `/path`: part of the trainer's image; for inputs only, as it is gone with the pod |
//! | `hf://`, `s3://`, `gs://`, `az://`, `https://` | `/var/lib/plumbline/inputs/<digest of the URI>-<name>`, fetched before the run |
//! | `s3://`, `gs://`, `az://` as an output | `/var/lib/plumbline/output/<name>`, written to the store by the trainer |
//! | a key of a ConfigMap | `/etc/plumbline/inputs/<name>/<key>` |

use std::fmt;

use plumbline_crds::remote::Remote;

use crate::uri::{fetched_name, is_store};

const CLAIMS: &str = "/var/lib/plumbline/claims";
const CONFIG_MAPS: &str = "/etc/plumbline/inputs";
const FETCHED: &str = "/var/lib/plumbline/inputs";
const OUTPUT: &str = "/var/lib/plumbline/output";

/// Scheme of a path of a claim.
const CLAIM: &str = "pvc://";
/// Scheme of a path of the trainer's image.
const IMAGE: &str = "file://";

/// A location that a pod can reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A path of a PersistentVolumeClaim.
    Claim {
        /// Name of the claim.
        claim: String,
        /// Path in it, without a slash at either end; empty for its root.
        path: String,
    },
    /// A URI that is fetched from.
    Remote(String),
    /// A URI of a store that is written to.
    Store(String),
    /// An absolute path of the trainer's image.
    Image(String),
    /// A key of a ConfigMap.
    ConfigMap {
        /// Name of the ConfigMap.
        name: String,
        /// Key in its data.
        key: String,
    },
}

impl Location {
    /// The location of an input's URI.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub fn of_input(uri: &str) -> Result<Self, String> {
        if let Some(path) = uri.strip_prefix(IMAGE) {
            return match path.starts_with('/') {
                true if tidy(path) => Ok(Self::Image(path.to_owned())),
                true => Err(format!("expected a path without `.` and `..`, found \"{uri}\"; write it out")),
                false => Err(format!(
                    "expected file:///absolute/path, found \"{uri}\"; write three slashes and the whole path"
                )),
            };
        }
        if let Some(remote) = Remote::of(uri) {
            return remote.map(|_| Self::Remote(uri.to_owned()));
        }
        let Some(rest) = uri.strip_prefix(CLAIM) else {
            return Err(format!(
                "expected a URI that pods can read, found {}; copy the file into a claim and write pvc://claim/path, or use \
                 hf://, s3://, gs://, az:// or https://",
                found(uri)
            ));
        };
        let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        if !is_name(claim) || !tidy(path) {
            return Err(format!(
                "expected pvc://claim/path with the name of a PersistentVolumeClaim and a path without `.` and `..`, found \"{uri}\"; write such a URI"
            ));
        }
        Ok(Self::Claim { claim: claim.to_owned(), path: path.to_owned() })
    }

    /// The location of an output's URI: one that outlives the pod.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub fn of_output(uri: &str) -> Result<Self, String> {
        if Remote::of(uri).is_none() && !uri.starts_with(CLAIM) && !uri.starts_with(IMAGE) {
            return Err(format!(
                "expected a URI that pods can write, found {}; write pvc://claim/directory, or use s3://, gs:// or az://",
                found(uri)
            ));
        }
        match Self::of_input(uri)? {
            location @ Self::Claim { .. } if location != location.root() => Ok(location),
            Self::Claim { claim, .. } => {
                Err(format!("expected a directory in the claim, found \"{uri}\"; write pvc://{claim}/directory"))
            }
            Self::Remote(uri) if is_store(&uri) => Ok(Self::Store(uri.trim_end_matches('/').to_owned())),
            _ => Err(format!(
                "expected a location that outlives the pod, found \"{uri}\"; write pvc://claim/directory, or use s3://, gs:// \
                 or az://"
            )),
        }
    }

    /// Where a pod that mounts it finds it.
    pub fn path(&self) -> String {
        match self {
            Self::Claim { claim, path } if path.is_empty() => format!("{CLAIMS}/{claim}"),
            Self::Claim { claim, path } => format!("{CLAIMS}/{claim}/{path}"),
            Self::Remote(uri) => format!("{FETCHED}/{}", fetched_name(uri)),
            Self::Store(uri) => format!("{OUTPUT}/{}", last_part(uri)),
            Self::Image(path) => path.clone(),
            Self::ConfigMap { name, key } => format!("{CONFIG_MAPS}/{name}/{key}"),
        }
    }

    /// Where the volume that holds it is mounted; nothing where it is part of the image.
    pub fn mount(&self) -> Option<String> {
        match self {
            Self::Claim { claim, .. } => Some(format!("{CLAIMS}/{claim}")),
            Self::Remote(_) => Some(FETCHED.to_owned()),
            Self::Store(_) => Some(OUTPUT.to_owned()),
            Self::Image(_) => None,
            Self::ConfigMap { name, .. } => Some(format!("{CONFIG_MAPS}/{name}")),
        }
    }

    /// Where it is fetched from, if it is.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Remote(uri) => Some(uri),
            _ => None,
        }
    }

    /// Where it is written to, if that is a store.
    pub fn store(&self) -> Option<&str> {
        match self {
            Self::Store(uri) => Some(uri),
            _ => None,
        }
    }

    /// The claim that holds it, if one does.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim { claim, .. } => Some(claim),
            _ => None,
        }
    }

    /// The folder of a name beside an output that holds what a run needs to continue after its pod is gone.
    #[must_use]
    pub fn work(&self, name: &str) -> Self {
        let beside = |path: &str| {
            let (parent, last) = path.rsplit_once('/').map_or((String::new(), path), |(p, n)| (format!("{p}/"), n));
            format!("{parent}.{last}.work/{name}")
        };
        match self {
            Self::Claim { claim, path } => Self::Claim { claim: claim.clone(), path: beside(path) },
            Self::Store(uri) => Self::Store(beside(uri)),
            other => other.clone(),
        }
    }

    fn root(&self) -> Self {
        match self {
            Self::Claim { claim, .. } => Self::Claim { claim: claim.clone(), path: String::new() },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::Remote(uri) | Self::Store(uri) => f.write_str(uri),
            Self::Image(path) => write!(f, "file://{path}"),
            Self::ConfigMap { name, key } => write!(f, "ConfigMap/{name} key {key}"),
        }
    }
}

fn last_part(uri: &str) -> &str {
    uri.rsplit('/').next().unwrap_or_default()
}

/// A DNS-1123 subdomain, as names of claims are.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.split('.').all(|part| part.starts_with(inner) && part.ends_with(inner))
        && text.chars().all(|c| inner(c) || "-.".contains(c))
}

/// Nobody must be led out of a claim by a path.
fn tidy(path: &str) -> bool {
    path.split('/').all(|part| part != "." && part != "..")
}

/// What pods cannot reach.
fn found(uri: &str) -> String {
    match uri.split_once("://") {
        Some((scheme, _)) => format!("the scheme {scheme}://"),
        None => format!("the path \"{uri}\", which is not on a cluster"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_where_its_volume_is_mounted_and_reads_back_as_its_uri() {
        let location = Location::of_input("pvc://models/a/b/").unwrap();
        assert_eq!(location.path(), "/var/lib/plumbline/claims/models/a/b");
        assert_eq!(location.mount().unwrap(), "/var/lib/plumbline/claims/models");
        assert_eq!(location.to_string(), "pvc://models/a/b");
        assert_eq!(Location::of_input("pvc://models").unwrap().path(), "/var/lib/plumbline/claims/models");
        let image = Location::of_input("file:///opt/model").unwrap();
        assert_eq!((image.path().as_str(), image.mount()), ("/opt/model", None));
    }

    #[test]
    fn nothing_leads_out_of_a_claim() {
        for uri in
            ["pvc://models/../other", "pvc://../x", "pvc://models/./x", "pvc:///x", "pvc://A/b", "file:///a/../b"]
        {
            assert!(Location::of_input(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn an_output_outlives_its_pod_and_has_its_work_folder_beside_it() {
        for uri in
            ["file:///out", "pvc://claim", "pvc://claim/", "hf://org/model", "https://host/a", "s3://bucket", "out"]
        {
            assert!(Location::of_output(uri).is_err(), "{uri}");
        }
        let work = |uri| Location::of_output(uri).unwrap().work("r-1").to_string();
        assert_eq!(work("pvc://claim/out"), "pvc://claim/.out.work/r-1");
        assert_eq!(work("pvc://claim/a/out"), "pvc://claim/a/.out.work/r-1");
        assert_eq!(work("s3://bucket/a/out/"), "s3://bucket/a/.out.work/r-1");
    }

    #[test]
    fn what_is_fetched_and_what_is_written_to_a_store_have_places_of_their_own() {
        for uri in
            ["hf://org/model", "s3://bucket/models/sft", "gs://bucket/key", "az://container/key", "https://host/a.txt"]
        {
            let location = Location::of_input(uri).unwrap();
            assert_eq!(
                (location.source(), location.mount().as_deref()),
                (Some(uri), Some("/var/lib/plumbline/inputs"))
            );
            assert!(location.path().starts_with("/var/lib/plumbline/inputs/"), "{}", location.path());
            assert!(location.path().ends_with(uri.rsplit('/').next().unwrap()), "{}", location.path());
        }
        let output = Location::of_output("s3://bucket/models/sft/").unwrap();
        assert_eq!((output.to_string().as_str(), output.source()), ("s3://bucket/models/sft", None));
        assert_eq!(
            (output.store(), output.path().as_str()),
            (Some("s3://bucket/models/sft"), "/var/lib/plumbline/output/sft")
        );
        assert_eq!(output.work("r-1").path(), "/var/lib/plumbline/output/r-1");
        assert_eq!(output.work("r-1").mount(), output.mount());
        for (uri, found) in
            [("../models/sft", "found the path \"../models/sft\""), ("ftp://host/a", "the scheme ftp://")]
        {
            let (input, output) = (Location::of_input(uri).unwrap_err(), Location::of_output(uri).unwrap_err());
            assert!(input.contains(found) && input.contains("hf://"), "{input}");
            assert!(output.contains(found) && output.contains("s3://") && !output.contains("hf://"), "{output}");
        }
    }
}
