//! What the inputs of a resource resolve to on this machine. Talks to the file system only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use plumbline_crds::Kind;
use plumbline_crds::artifact::ArtifactError;
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::remote::Remote;
use plumbline_crds::run::ResolvedInput;
use plumbline_crds::status::InputRef;

use super::digests::Digests;
use super::work_dir::{WorkDir, WorkDirError};
use crate::inputs::{self, From};
use crate::plan::Inputs;
use crate::uri;
use crate::validate::Manifest;

/// Why inputs cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The work folder.
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// An input's content.
    #[error("{id}: spec.{role}: {source}")]
    Content {
        /// Resource.
        id: String,
        /// The input.
        role: String,
        /// Why.
        source: Box<ArtifactError>,
    },
}

/// Every input with path and digest, or what is missing. Resources in `pending` are about to be made anew: what lies
/// there now does not count. That a reference leads somewhere was validated.
pub fn resolve(
    manifest: &Manifest,
    work_dir: &WorkDir,
    digests: &mut Digests,
    pending: &BTreeSet<(Kind, String)>,
) -> Result<(Inputs, Vec<ResolvedInput>), ResolveError> {
    let (mut found, mut waiting) = (Vec::new(), Vec::new());
    for wanted in inputs::wanted(&manifest.resource.spec) {
        let (name, path) = match &wanted.from {
            From::Uri(uri) if Remote::of(uri).is_some() => {
                let path = text(&work_dir.fetched(uri));
                let (role, name) = (wanted.role.clone(), uri.clone());
                found.push(ResolvedInput { role, source: Some(name.clone()), name, path, digest: String::new() });
                continue;
            }
            From::Uri(text) => {
                // Validation refused everything else.
                let Ok(path) = uri::local_path(text, &manifest.folder) else { continue };
                (text.clone(), path)
            }
            From::Resource { kind, name } => {
                let made =
                    if pending.contains(&(*kind, name.clone())) { None } else { work_dir.resource(*kind, name)? };
                let status = made.and_then(|r| r.status).filter(|s| s.is_true(ConditionType::Ready));
                let Some(artifact) = status.and_then(|s| s.artifact) else {
                    waiting.push(format!("{kind}/{name}"));
                    continue;
                };
                (name.clone(), PathBuf::from(artifact.uri.strip_prefix("file://").unwrap_or(&artifact.uri)))
            }
            // Validation refused it: there are no ConfigMaps here.
            From::ConfigMap { .. } => continue,
        };
        let digest = digests.digest(&path).map_err(|source| ResolveError::Content {
            id: manifest.resource.id(),
            role: wanted.role.clone(),
            source: Box::new(source),
        })?;
        found.push(ResolvedInput { role: wanted.role, name, path: text(&path), digest, source: None });
    }
    let inputs =
        if waiting.is_empty() { Inputs::Ready(found.iter().map(lineage).collect()) } else { Inputs::NotReady(waiting) };
    Ok((inputs, found))
}

fn lineage(input: &ResolvedInput) -> InputRef {
    InputRef { role: input.role.clone(), name: input.name.clone(), digest: input.digest.clone() }
}

/// A path as the run document holds it.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
