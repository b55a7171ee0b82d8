//! How the pods that train together find each other: a headless Service (Kubernetes, "DNS for Services and Pods"), and what
//! each pod is told of it. Computes only.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Service, ServicePort, ServiceSpec};

use super::{Request, labels, metadata, shared_name};

/// Port that rank 0 is met at, `torchrun`'s default.
const PORT: u16 = 29_500;
/// The label by which a pod knows the UID of its Job (Kubernetes, "Well-Known Labels").
const JOB_UID: &str = "metadata.labels['batch.kubernetes.io/controller-uid']";

/// Whether several pods train together.
pub(super) fn has_several_pods(request: &Request) -> bool {
    request.resource.spec.compute().nodes > 1
}

/// The Service of a resource's pods; none where one pod is alone.
pub(super) fn service(request: &Request) -> Option<Service> {
    let resource = request.resource;
    has_several_pods(request).then(|| Service {
        metadata: metadata(request, shared_name(resource.kind, &resource.metadata.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            // Pods are ready when they have met, and meet by their names.
            publish_not_ready_addresses: Some(true),
            selector: Some(labels(resource.kind, &resource.metadata.name)),
            ports: Some(vec![ServicePort {
                name: Some("ranks".into()),
                port: PORT.into(),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The domain of the pods, by which they have names of their own; none where one pod is alone.
pub(super) fn subdomain(request: &Request) -> Option<String> {
    let resource = request.resource;
    has_several_pods(request).then(|| shared_name(resource.kind, &resource.metadata.name))
}

/// What a pod has to know to meet the others, under `torchrun`'s names. Its rank it knows from the Job controller, as
/// `JOB_COMPLETION_INDEX`.
pub(super) fn variables(request: &Request) -> Vec<EnvVar> {
    let Some(domain) = subdomain(request) else { return Vec::new() };
    let variable = |name: &str, value: String| EnvVar { name: name.into(), value: Some(value), value_from: None };
    vec![
        // The pod of index 0 of an Indexed Job has the host name `<job>-0`.
        variable("MASTER_ADDR", format!("{}-0.{domain}", request.job.name)),
        variable("MASTER_PORT", PORT.to_string()),
        variable("WORLD_SIZE", request.resource.spec.compute().nodes.to_string()),
        // The name of an attempt: a name of a pod is used again, and its address may be that of another run's pod meanwhile.
        EnvVar {
            name: "TORCHELASTIC_RUN_ID".into(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { api_version: None, field_path: JOB_UID.into() }),
                ..EnvVarSource::default()
            }),
        },
    ]
}
