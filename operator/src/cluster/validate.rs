//! What is wrong with the spec of a resource on a cluster, beyond what the API server checks itself. Computes only.

use std::path::Path;

use plumbline_crds::Resource;
use plumbline_crds::unsupported::Target;

use super::settings::Settings;
use super::snapshot::{ObservedResource, Validated};
use crate::location::Location;
use crate::validate::document::locations;
use crate::validate::rules;

/// Validates the spec of a resource under the settings of the installation.
pub fn validate(observed: &ObservedResource, settings: &Settings) -> Validated {
    let resource = &observed.resource;
    Validated { problems: problems(resource, settings), output: output(resource, settings) }
}

fn problems(resource: &Resource, settings: &Settings) -> Vec<String> {
    let spec = &resource.spec;
    let mut found: Vec<String> = rules::check(spec, Target::Cluster)
        .into_iter()
        .chain(locations(spec, Path::new("/"), Target::Cluster))
        .map(|finding| format!("{}: {}", finding.path, finding.message))
        .collect();
    if settings.image(spec.compute()).is_none() {
        found.push(
            "spec.compute.image: expected the trainer's image, found none here and none in the operator's settings; set it, or \
             `trainer.image.repository` in the values of the chart (--trainer-image)"
                .into(),
        );
    }
    if spec.output().uri.is_none() && settings.artifact_root.is_none() {
        found.push(
            "spec.output.uri: expected where the artifact goes, found nothing here or in the operator's settings; set it, as \
             pvc://claim/directory, or `artifactRoot` in the values of the chart (--artifact-root)"
                .into(),
        );
    }
    found
}

fn output(resource: &Resource, settings: &Settings) -> Option<Location> {
    let uri = match (&resource.spec.output().uri, &settings.artifact_root) {
        (Some(uri), _) => uri.clone(),
        (None, Some(root)) => {
            let (plural, name) = (resource.kind.plural(), &resource.metadata.name);
            let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
            format!("{root}/{namespace}/{plural}/{name}")
        }
        (None, None) => return None,
    };
    Location::of_output(&uri).ok()
}
