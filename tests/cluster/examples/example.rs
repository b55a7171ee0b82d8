//! What is in a folder of `examples/`. Reads files.

use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::API_VERSION;
use serde::Deserialize;
use serde_json::Value;

/// All of them.
pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
/// Examples that use a resource of another one.
const NEEDS: [(&str, &str); 1] = [("quickstart-dpo", "quickstart/dataset.yaml")];
/// Examples for one machine, whose paths start from the manifest.
const LAPTOP: [&str; 2] = ["quickstart", "quickstart-dpo"];

/// A folder with manifests of ours.
pub(crate) struct Example {
    /// Its name.
    pub(crate) name: String,
    /// The files with manifests of ours.
    pub(crate) files: Vec<PathBuf>,
    /// The manifests in them.
    pub(crate) manifests: Vec<Value>,
}

impl Example {
    /// Every folder with manifests of ours, in order of name.
    pub(crate) fn all() -> Vec<Self> {
        let mut names: Vec<_> = fs::read_dir(EXAMPLES).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let examples = names.into_iter().filter_map(|name| Self::read(name.to_str().unwrap()));
        examples.collect()
    }

    fn read(name: &str) -> Option<Self> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(Path::new(EXAMPLES).join(name)).ok()?.map(|e| e.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "yaml") && documents(file).iter().all(is_ours));
        files.sort();
        let manifests: Vec<Value> = files.iter().flat_map(|file| documents(file)).collect();
        (!manifests.is_empty()).then(|| Self { name: name.to_owned(), files, manifests })
    }

    /// Files of other examples that have to be given with it.
    pub(crate) fn needs(&self) -> Vec<PathBuf> {
        let needed = NEEDS.iter().filter(|(name, _)| *name == self.name);
        needed.map(|(_, file)| Path::new(EXAMPLES).join(file)).collect()
    }

    /// Its manifests, and those that it needs.
    pub(crate) fn with_needs(&self) -> Vec<Value> {
        self.needs().iter().flat_map(|file| documents(file)).chain(self.manifests.clone()).collect()
    }

    /// Whether it is for a cluster.
    pub(crate) fn of_a_cluster(&self) -> bool {
        !LAPTOP.contains(&self.name.as_str())
    }
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn is_ours(manifest: &Value) -> bool {
    manifest["apiVersion"] == API_VERSION
}
