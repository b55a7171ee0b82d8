//! What the work folder and the file system say of one resource. Looks, and changes nothing.

use std::collections::BTreeSet;

use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::ResolvedInput;
use plumbline_crds::status::Status;

use super::digests::Digests;
use super::work_dir::WorkDir;
use super::{RUN, RunError, preflight, resolve, stage};
use crate::digest;
use crate::plan::{Artifact, End, Inputs, Run};
use crate::validate::Manifest;

/// One resource as it stands.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Status as last written.
    pub previous: Status,
    /// Generation of the spec: one more than the last one written if the spec differs from it.
    pub generation: i64,
    /// What the spec's references resolve to.
    pub inputs: Inputs,
    /// The same with paths.
    pub resolved: Vec<ResolvedInput>,
    /// What lies where the artifact belongs.
    pub artifact: Artifact,
}

/// Looks at one resource. `pending` as in [`resolve::resolve`].
pub fn observe(
    manifest: &Manifest,
    work_dir: &WorkDir,
    digests: &mut Digests,
    pending: &BTreeSet<(Kind, String)>,
) -> Result<Observation, RunError> {
    let resource = &manifest.resource;
    let stored = work_dir.resource(resource.kind, &resource.metadata.name)?;
    let generation = stored.as_ref().map_or(1, |stored| {
        let last = stored.metadata.generation.unwrap_or(1);
        if stored.spec == resource.spec { last } else { last + 1 }
    });
    let (inputs, resolved) = resolve::resolve(manifest, work_dir, digests, pending)?;
    let artifact = digests.artifact(&preflight::output_folder(manifest, work_dir))?;
    let previous = stored.and_then(|s| s.status).unwrap_or_default();
    Ok(Observation { previous, generation, inputs, resolved, artifact })
}

/// The end of a run that nobody recorded: it completed, but whoever ran it was killed before writing that down.
pub fn unrecorded_end(manifest: &Manifest, work_dir: &WorkDir, previous: &Status) -> Run {
    let succeeded = previous.condition(ConditionType::Succeeded);
    let Some(job) = previous.job.as_ref().filter(|_| succeeded.is_some_and(|c| c.status == ConditionStatus::Unknown))
    else {
        return Run::None;
    };
    let resource = &manifest.resource;
    let work = work_dir.run_folder(resource.kind, &resource.metadata.name, &job.name);
    // The folder is that of other runs as well, and what they left there is not this one's.
    let of_this_run = stage::document(&work)
        .is_some_and(|found| digest::run_name(RUN, &found.resource.spec, &found.lineage()) == job.name);
    match stage::result(&work).filter(|result| of_this_run && result.reason == Reason::Completed) {
        Some(result) => Run::Ended(Box::new(End { exit: ExitCode::Done.into(), result: Some(result), last: false })),
        None => Run::None,
    }
}
