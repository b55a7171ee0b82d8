//! What people write, and what they get back: the three resources of Plumbline, their status, and the run document
//! that carries one of them to the trainer.
//!
//! One vocabulary serves the cluster (the CRDs are printed from these types), the command line (`plumbline validate`
//! checks manifests against the same schemas) and the trainer (which reads the same `spec`). This crate computes; what reads
//! files is `artifact`, `folder` and `regular`, and nothing opens a socket.
//!
//! | question | file |
//! |---|---|
//! | What may I write for a dataset, a reward model, a tuned policy? | `preference_dataset`, `reward_model`, `policy_tuning` |
//! | ... for a judge, the losses of DPO, training, the pod? | `judge`, `dpo`, `training`, `compute` |
//! | What does `status` hold? | `status`, `conditions` |
//! | Which URIs are fetched from elsewhere? | `remote`, `hub` |
//! | What does the trainer read and leave behind? | `run`, `artifact`, `exit_code` |
//! | Which files and paths are accepted from others? | `regular`, `folder`, `relative` |
//! | What does a work folder hold, and what is measured on it? | `work` |
//! | Which fields does nothing act on yet? | `unsupported` |

#![allow(clippy::duplicated_attributes, reason = "kube's `printcolumn` is repeated by design")]

pub mod artifact;
pub mod compute;
pub mod conditions;
pub mod dpo;
pub mod exit_code;
pub mod folder;
pub mod hub;
pub mod judge;
pub mod online;
pub mod policy_tuning;
pub mod preference_dataset;
pub mod regular;
pub mod relative;
pub mod remote;
pub mod resource;
pub mod reward_model;
pub mod run;
pub mod source;
pub mod status;
pub mod training;
pub mod unsupported;
pub mod work;

pub use resource::{Kind, Metadata, Resource, Spec};

/// The API group of all three kinds.
pub const GROUP: &str = "plumbline.dev";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as written in a manifest.
pub const API_VERSION: &str = "plumbline.dev/v1alpha1";
/// The category of the three kinds: `kubectl get rlaif` lists a whole run.
pub const CATEGORY: &str = "rlaif";
