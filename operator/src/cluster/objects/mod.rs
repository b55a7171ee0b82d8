//! The objects that a run consists of, from what was decided about it. Computes only; the same input gives the same
//! objects.

mod config_map;
pub mod job;
mod names;
pub mod pod;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use plumbline_crds::status::JobRef;
use plumbline_crds::{API_VERSION, Kind, Resource};

pub use config_map::{MAX_DOCUMENT, run_document};
pub use names::{base_name, shared_name};
pub use pod::{AUDIENCE, fetches};

use super::settings::Settings;
use crate::location::Location;

/// Label with the kind of the resource that an object belongs to.
pub const KIND_LABEL: &str = "plumbline.dev/kind";
/// Label with the name of the resource that an object belongs to.
pub const NAME_LABEL: &str = "plumbline.dev/name";
/// Label of everything that the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "plumbline";

/// An input and where the pod finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The spec field that names it.
    pub role: String,
    /// The name or URI as written.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Its digest; empty where only the pod can take it.
    pub digest: String,
}

/// A run to build.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// Its UID.
    pub uid: &'a str,
    /// The run, with what earlier Jobs of it have counted.
    pub job: &'a JobRef,
    /// Accelerator seconds of earlier Jobs of it.
    pub accelerator_seconds: i64,
    /// What it is made from.
    pub inputs: &'a [Input],
    /// Where the artifact goes.
    pub output: &'a Location,
    /// Where fetched inputs are kept for later runs, if they are.
    pub cache: Option<&'a Location>,
    /// Settings of the installation.
    pub settings: &'a Settings,
}

/// The objects of a run, in the order in which they are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// An identity without permissions.
    pub service_account: Option<ServiceAccount>,
    /// The run document.
    pub config_map: ConfigMap,
    /// How several pods find each other.
    pub service: Option<Service>,
    /// The work.
    pub job: Job,
}

/// Builds a run.
pub fn children(request: &Request) -> Children {
    Children {
        service_account: request.resource.spec.compute().service_account_name.is_none().then(|| account(request)),
        config_map: config_map::config_map(request),
        service: service::service(request),
        job: job::job(request),
    }
}

fn account(request: &Request) -> ServiceAccount {
    let name = shared_name(request.resource.kind, &request.resource.metadata.name);
    ServiceAccount {
        metadata: metadata(request, name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn metadata(request: &Request, name: String) -> ObjectMeta {
    let resource = request.resource;
    ObjectMeta {
        name: Some(name),
        namespace: resource.metadata.namespace.clone(),
        labels: Some(labels(resource.kind, &resource.metadata.name)),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.into(),
            kind: resource.kind.to_string(),
            name: resource.metadata.name.clone(),
            uid: request.uid.to_owned(),
            controller: Some(true),
            // To block an owner's deletion takes a permission of its own on some clusters, and helps nobody here.
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn labels(kind: Kind, name: &str) -> BTreeMap<String, String> {
    [
        (MANAGED_BY_LABEL, MANAGED_BY.to_owned()),
        ("app.kubernetes.io/name", "plumbline-trainer".to_owned()),
        (KIND_LABEL, kind.to_string()),
        (NAME_LABEL, name.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests;
