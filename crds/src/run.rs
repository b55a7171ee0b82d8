//! The run document that a stage is started with, and what the stage says while it runs and when it ends. The local
//! executor passes these as files; the operator as a ConfigMap and a termination message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::conditions::Reason;
use crate::resource::Resource;
use crate::status::{ArtifactRef, Cost, InputRef, Metric, Progress};

/// Everything a stage needs: the resource, and what its references resolved to.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunDocument {
    /// The resource. Its `status` is not read.
    pub resource: Resource,
    /// Every model, dataset and file that the spec names, resolved to a local path.
    pub inputs: Vec<ResolvedInput>,
    /// Where each judge with a `model` is served.
    #[serde(default)]
    pub served_judges: Vec<ServedJudge>,
    /// Folder to write the artifact to.
    pub output: String,
    /// Folder that survives a restart: journal, checkpoints, progress, result.
    pub work: String,
    /// Where the two are kept if not on a file system that outlives the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StorePlaces>,
}

impl RunDocument {
    /// The resolved input of a spec field (`baseModel`, `evaluation.judge.model`).
    pub fn input(&self, role: &str) -> Option<&ResolvedInput> {
        self.inputs.iter().find(|i| i.role == role)
    }

    /// The lineage that goes into the artifact's manifest.
    pub fn lineage(&self) -> Vec<InputRef> {
        self.inputs
            .iter()
            .map(|i| InputRef { role: i.role.clone(), name: i.name.clone(), digest: i.digest.clone() })
            .collect()
    }
}

/// Places in a store of objects: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorePlaces {
    /// Where the artifact is written to when it is complete.
    pub artifact: String,
    /// Where the work folder is kept while the stage runs, and continued from. Absent where it survives by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<String>,
}

/// An input, resolved.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedInput {
    /// The spec field that names it: `datasetRef`, `baseModel`, `prompts`, `judges[0].model`, `evaluation.lexicons[0]`.
    pub role: String,
    /// The name or URI as written.
    pub name: String,
    /// Absolute path of a folder or file.
    pub path: String,
    /// `sha256:` and the digest of its content. Empty where the caller cannot read the input: the stage
    /// takes the digest itself.
    #[serde(default)]
    pub digest: String,
    /// Where `plumbline-trainer fetch` brings it from, if it is not on a file system: as `hf://org/model@revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A judge's model, served.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServedJudge {
    /// The spec field that holds the model: `judges[0].model`, `evaluation.judge.model`.
    pub role: String,
    /// Base URL including the version: `http://127.0.0.1:8461/v1`.
    pub url: String,
    /// Model name to send.
    pub model: String,
}

/// Name of the file under `work` that holds a [`ProgressReport`], replaced atomically.
pub const PROGRESS_FILE: &str = "progress.json";
/// Name of the file under `work` that holds a [`StageResult`], written once at the end.
pub const RESULT_FILE: &str = "result.json";

/// What a running stage says.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    /// How far it is.
    pub progress: Progress,
    /// Latest metrics.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// What judges cost so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What a stage leaves behind. Its JSON fits a termination message (4 KiB).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StageResult {
    /// `Completed`, or why not.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    /// What was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// What it was made from, with the digests that the stage found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputRef>,
    /// Last metrics.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// See `Status::counts`.
    #[serde(default)]
    pub counts: BTreeMap<String, i64>,
    /// See `Status::bias`.
    #[serde(default)]
    pub bias: BTreeMap<String, String>,
    /// See `Status::agreement`.
    #[serde(default)]
    pub agreement: BTreeMap<String, String>,
    /// See `Status::evaluation`.
    #[serde(default)]
    pub evaluation: BTreeMap<String, String>,
    /// What judges cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Seconds of work by part (`label`, `reward`, `tune`, `evaluate`), summed over restarts.
    #[serde(default)]
    pub seconds: BTreeMap<String, f64>,
}

impl StageResult {
    /// A result that says why, and nothing else yet.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            artifact: None,
            inputs: Vec::new(),
            metrics: Vec::new(),
            counts: BTreeMap::new(),
            bias: BTreeMap::new(),
            agreement: BTreeMap::new(),
            evaluation: BTreeMap::new(),
            cost: None,
            seconds: BTreeMap::new(),
        }
    }
}
