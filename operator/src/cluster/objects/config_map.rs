//! The ConfigMap with the run document. It holds no secret. Computes only.

use k8s_openapi::api::core::v1::ConfigMap;
use plumbline_crds::Resource;
use plumbline_crds::run::{ResolvedInput, RunDocument, ServedJudge, StorePlaces};

use super::{Request, metadata};
use crate::{digest, inputs};

/// Key of the run document.
pub(super) const DOCUMENT: &str = "run.yaml";
/// Port of the first judge that is served.
pub(super) const JUDGE_PORT: u16 = 8461;
/// The longest run document, in bytes: a ConfigMap holds 1 MiB in all.
pub const MAX_DOCUMENT: usize = 1_000_000;

pub(super) fn config_map(request: &Request) -> ConfigMap {
    let document = serde_yaml::to_string(&run_document(request)).unwrap_or_default();
    ConfigMap {
        metadata: metadata(request, request.job.name.clone()),
        data: Some([(DOCUMENT.to_owned(), document)].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// What the trainer is told.
pub fn run_document(request: &Request) -> RunDocument {
    let mut resource = Resource { status: None, ..request.resource.clone() };
    resource.metadata.labels.clear();
    resource.metadata.annotations.clear();
    // A count of changes is no part of what is run.
    resource.metadata.generation = None;
    let inputs = request.inputs.iter().map(|input| ResolvedInput {
        role: input.role.clone(),
        name: input.name.clone(),
        path: input.location.path(),
        digest: input.digest.clone(),
        source: input.location.source().map(str::to_owned),
    });
    let work = request.output.work(digest::work_name(&request.job.name));
    let store = request
        .output
        .store()
        .map(|artifact| StorePlaces { artifact: artifact.to_owned(), work: work.store().map(str::to_owned) });
    RunDocument {
        store,
        inputs: inputs.collect(),
        served_judges: served_judges(request).into_iter().map(|(judge, _)| judge).collect(),
        output: request.output.path(),
        work: work.path(),
        resource,
    }
}

/// The judges that are served beside the trainer, each with the location of its model.
pub(super) fn served_judges<'a>(request: &'a Request) -> Vec<(ServedJudge, &'a super::Input)> {
    let judges = inputs::judges(&request.resource.spec);
    let with_model = judges.into_iter().filter_map(|(role, judge)| {
        let role = format!("{role}.model");
        let input = request.inputs.iter().find(|i| i.role == role)?;
        Some((role, judge, input))
    });
    with_model
        .zip(JUDGE_PORT..)
        .map(|((role, judge, input), port)| {
            let url = format!("http://127.0.0.1:{port}/v1");
            (ServedJudge { role, url, model: judge.name.clone() }, input)
        })
        .collect()
}
