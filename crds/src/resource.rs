//! A resource as it stands in a file: `apiVersion`, `kind`, `metadata`, `spec`, `status`. On a cluster the same spec
//! types stand in kube's envelope.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::policy_tuning::PolicyTuningSpec;
use crate::preference_dataset::PreferenceDatasetSpec;
use crate::reward_model::RewardModelSpec;
use crate::source::Output;
use crate::status::Status;

/// The three kinds, in the order of the chain.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Kind {
    PreferenceDataset,
    RewardModel,
    PolicyTuning,
}

impl Kind {
    /// Every kind, in the order of the chain.
    pub const ALL: [Self; 3] = [Self::PreferenceDataset, Self::RewardModel, Self::PolicyTuning];

    /// The kind of a name as written in a manifest.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.to_string() == name)
    }

    /// Lower-case plural, as in the CRD's name and in folder names.
    pub fn plural(self) -> &'static str {
        match self {
            Self::PreferenceDataset => "preferencedatasets",
            Self::RewardModel => "rewardmodels",
            Self::PolicyTuning => "policytunings",
        }
    }

    /// The trainer's subcommand that makes this kind.
    pub fn stage(self) -> &'static str {
        match self {
            Self::PreferenceDataset => "label",
            Self::RewardModel => "reward",
            Self::PolicyTuning => "tune",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreferenceDataset => "PreferenceDataset",
            Self::RewardModel => "RewardModel",
            Self::PolicyTuning => "PolicyTuning",
        })
    }
}

/// Metadata of a resource in a file.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name, unique for a kind.
    pub name: String,
    /// Namespace. In a local run it only has to be the same for resources that refer to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Counts changes of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// The spec of any kind. It is written without a tag; `Resource::kind` says which one it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Spec {
    PreferenceDataset(Box<PreferenceDatasetSpec>),
    RewardModel(Box<RewardModelSpec>),
    PolicyTuning(Box<PolicyTuningSpec>),
}

impl Spec {
    /// The spec of a kind from JSON.
    pub fn from_json(kind: Kind, value: serde_json::Value) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::PreferenceDataset => Self::PreferenceDataset(Box::new(serde_json::from_value(value)?)),
            Kind::RewardModel => Self::RewardModel(Box::new(serde_json::from_value(value)?)),
            Kind::PolicyTuning => Self::PolicyTuning(Box::new(serde_json::from_value(value)?)),
        })
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::PreferenceDataset(_) => Kind::PreferenceDataset,
            Self::RewardModel(_) => Kind::RewardModel,
            Self::PolicyTuning(_) => Kind::PolicyTuning,
        }
    }

    /// The output, which every kind has.
    pub fn output(&self) -> &Output {
        match self {
            Self::PreferenceDataset(s) => &s.output,
            Self::RewardModel(s) => &s.output,
            Self::PolicyTuning(s) => &s.output,
        }
    }

    /// The pod, which every kind has.
    pub fn compute(&self) -> &Compute {
        match self {
            Self::PreferenceDataset(s) => &s.compute,
            Self::RewardModel(s) => &s.compute,
            Self::PolicyTuning(s) => &s.compute,
        }
    }

    /// Whether the resource is suspended.
    pub fn suspend(&self) -> bool {
        match self {
            Self::PreferenceDataset(s) => s.suspend,
            Self::RewardModel(s) => s.suspend,
            Self::PolicyTuning(s) => s.suspend,
        }
    }
}

/// A resource as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// `plumbline.dev/v1alpha1`.
    pub api_version: String,
    /// Kind.
    pub kind: Kind,
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
    /// What is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Resource {
    /// `Kind/name`, as people write it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.kind, self.metadata.name)
    }
}

impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            api_version: String,
            kind: Kind,
            metadata: Metadata,
            spec: serde_json::Value,
            #[serde(default)]
            status: Option<Status>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let spec = Spec::from_json(raw.kind, raw.spec).map_err(serde::de::Error::custom)?;
        Ok(Self { api_version: raw.api_version, kind: raw.kind, metadata: raw.metadata, spec, status: raw.status })
    }
}
