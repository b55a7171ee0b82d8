//! The inputs of a run: their paths and their digests. Talks to the work directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plumbline_crds::artifact;
use plumbline_crds::run::RunDocument;
use plumbline_crds::work::is_measuring;
use plumbline_feedback::{files, heartbeat};

use crate::{Error, Result};

/// File in `work` with the digests of the inputs that a run started with, by role.
const INPUTS_FILE: &str = "inputs.json";

/// Computes the digest of every input, which verifies artifacts, and rejects an input with another digest than expected, or with
/// another digest than the state in the work directory was computed from: mixing results of two inputs would be wrong. Inputs
/// that are only used to measure may change in between, because results computed from them are stored by their digest.
///
/// Every input is read completely each time a stage starts. Sizes and modification times are not proof: they can be unchanged
/// although the content is not.
pub(super) fn check(document: &mut RunDocument, work: &Path) -> Result<()> {
    let file = work.join(INPUTS_FILE);
    let begun_with: BTreeMap<String, String> = files::kept(&file)?.unwrap_or_default();
    let mut taken = begun_with.clone();
    let kind = document.resource.kind;
    for input in &mut document.inputs {
        let found = artifact::digest_path_telling(Path::new(&input.path), &heartbeat::beat)
            .map_err(|e| Error::Data(format!("spec.{}: {e}", input.role)))?;
        if !input.digest.is_empty() {
            if found != input.digest {
                return Err(Error::Data(format!(
                    "spec.{}: expected the digest {}, found {found} at {}; the input was rebuilt or changed in the \
                     meantime",
                    input.role, input.digest, input.path
                )));
            }
            continue;
        }
        if !is_measuring(kind, &input.role) {
            if let Some(before) = begun_with.get(&input.role).filter(|before| **before != found) {
                return Err(Error::Data(format!(
                    "spec.{}: expected the digest that this run started with, {before}, found {found}; restore the \
                     input, or remove {} to start from scratch",
                    input.role,
                    work.display()
                )));
            }
            taken.insert(input.role.clone(), found.clone());
        }
        input.digest = found;
    }
    if taken == begun_with { Ok(()) } else { files::keep(&file, &taken) }
}

/// The path of an input that the spec requires.
pub(crate) fn input_path(run: &RunDocument, role: &str) -> Result<PathBuf> {
    run.input(role)
        .map(|i| PathBuf::from(&i.path))
        .ok_or_else(|| Error::Config(format!("the run document has no input for spec.{role}")))
}

/// The path of the preference data of `spec.datasetRef` or `spec.dataset`.
pub(crate) fn dataset_path(run: &RunDocument) -> Result<PathBuf> {
    input_path(run, if run.input("datasetRef").is_some() { "datasetRef" } else { "dataset" })
}
