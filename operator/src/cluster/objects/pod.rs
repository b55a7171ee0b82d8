//! The pod of a run: the trainer, and beside it each judge that it serves itself. It meets the Pod Security Standard
//! `restricted`, writes to its volumes only, and holds no credential of the cluster but a token that is good for telling
//! the operator of its own progress. Computes only.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar,
    EnvVarSource, HTTPGetAction, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretEnvSource, SecretKeySelector,
    SecurityContext, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plumbline_crds::artifact::hex;
use plumbline_crds::source::{KeyRef, SecretRef};
use plumbline_crds::{Resource, compute};
use sha2::{Digest, Sha256};

use super::config_map::{DOCUMENT, JUDGE_PORT, served_judges};
use super::{Input, Request, service, shared_name};
use crate::inputs;
use crate::location::Location;

/// Name of the container that does the work.
pub const TRAINER: &str = "trainer";
/// What the name of a judge's container begins with.
pub const JUDGE: &str = "judge-";
/// Audience of the token that a pod proves itself with to the operator, and to nobody else.
pub const AUDIENCE: &str = "plumbline.dev/progress";

/// Name of the container that fetches inputs, and the trainer's subcommand for it.
pub(super) const FETCH: &str = "fetch";
/// Name of the volume that they are fetched to.
const FETCHED: &str = "fetched";
const RUN_FOLDER: &str = "/etc/plumbline/run";
const TOKEN_FOLDER: &str = "/var/run/secrets/plumbline";
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Nobody's user and group, as in distroless images.
const USER: i64 = 65_532;
/// Seconds to make progress safe in when a pod is asked to stop.
const GRACE_SECONDS: i64 = 120;
/// Seconds that the token is good for; the kubelet renews it in time.
const TOKEN_SECONDS: i64 = 3600;
/// A judge may take this long to load: probes times seconds.
const JUDGE_PROBES: i32 = 240;
const JUDGE_PROBE_SECONDS: i32 = 5;

pub(super) fn spec(request: &Request) -> PodSpec {
    let compute = request.resource.spec.compute();
    let account = compute.service_account_name.clone();
    PodSpec {
        restart_policy: Some("Never".into()),
        service_account_name: Some(
            account.unwrap_or_else(|| shared_name(request.resource.kind, &request.resource.metadata.name)),
        ),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(fetch(request).into_iter().chain(judges(request)).collect::<Vec<_>>())
            .filter(|containers| !containers.is_empty()),
        containers: vec![trainer(request)],
        volumes: Some(volumes(request)),
        node_selector: Some(compute.node_selector.clone()).filter(|s| !s.is_empty()),
        tolerations: Some(compute.tolerations.iter().map(toleration).collect::<Vec<_>>()).filter(|t| !t.is_empty()),
        image_pull_secrets: Some(
            compute
                .image_pull_secrets
                .iter()
                .map(|s| LocalObjectReference { name: s.name.clone() })
                .collect::<Vec<_>>(),
        )
        .filter(|s| !s.is_empty()),
        priority_class_name: compute.priority_class_name.clone(),
        runtime_class_name: compute.runtime_class_name.clone(),
        subdomain: service::subdomain(request),
        ..PodSpec::default()
    }
}

fn trainer(request: &Request) -> Container {
    let mut mounts = mounts(locations(request), Some(request.output));
    mounts.push(mount("run", RUN_FOLDER, true));
    mounts.push(mount("tmp", "/tmp", false));
    if request.settings.progress_url.is_some() {
        mounts.push(mount("token", TOKEN_FOLDER, true));
    }
    Container {
        command: Some(vec!["plumbline-trainer".into()]),
        args: Some(vec![request.resource.kind.stage().into(), "--run".into(), format!("{RUN_FOLDER}/{DOCUMENT}")]),
        env: Some(environment(request)),
        env_from: request.resource.spec.output().credentials_secret_ref.as_ref().map(|secret| vec![all_of(secret)]),
        resources: Some(resources(request, request.resource.spec.compute().accelerators)),
        termination_message_path: Some(TERMINATION_LOG.into()),
        termination_message_policy: Some("File".into()),
        volume_mounts: Some(mounts),
        ..container(TRAINER, request)
    }
}

/// Brings inputs into the pod that are not on a volume: before the judges start, which may need them.
fn fetch(request: &Request) -> Option<Container> {
    fetches(request.inputs).then(|| {
        let trainer = trainer(request);
        let written: Vec<String> = request.cache.and_then(volume_name).into_iter().chain([FETCHED.into()]).collect();
        let writable =
            |m: VolumeMount| if written.contains(&m.name) { VolumeMount { read_only: None, ..m } } else { m };
        Container {
            name: FETCH.into(),
            args: Some(vec![FETCH.into(), "--run".into(), format!("{RUN_FOLDER}/{DOCUMENT}")]),
            resources: Some(resources(request, 0)),
            volume_mounts: trainer.volume_mounts.clone().map(|mounts| mounts.into_iter().map(writable).collect()),
            ..trainer
        }
    })
}

/// Whether something has to be fetched.
pub fn fetches(inputs: &[Input]) -> bool {
    inputs.iter().any(|input| input.location.source().is_some())
}

/// Native sidecars: they start before the trainer, and end when it has.
fn judges(request: &Request) -> Vec<Container> {
    let judge = |(index, (port, (judge, input))): (usize, (u16, (_, &Input)))| {
        let judge: plumbline_crds::run::ServedJudge = judge;
        let cache = request.cache.filter(|_| input.location.source().is_some());
        let mut mounts = mounts([&input.location].into_iter().chain(cache), None);
        mounts.push(mount("tmp", "/tmp", false));
        let arguments = ["serve", "--host", "0.0.0.0", "--model"].map(str::to_owned).into_iter().chain([
            input.location.path(),
            "--port".into(),
            port.to_string(),
            "--name".into(),
            judge.model.clone(),
            "--precision".into(),
            inputs::judge_precision(&request.resource.spec).into(),
        ]);
        Container {
            command: Some(vec!["plumbline-trainer".into()]),
            args: Some(arguments.collect()),
            ports: Some(vec![ContainerPort { container_port: port.into(), ..ContainerPort::default() }]),
            restart_policy: Some("Always".into()),
            startup_probe: Some(Probe {
                http_get: Some(HTTPGetAction {
                    path: Some("/health".into()),
                    port: IntOrString::Int(port.into()),
                    ..HTTPGetAction::default()
                }),
                failure_threshold: Some(JUDGE_PROBES),
                period_seconds: Some(JUDGE_PROBE_SECONDS),
                ..Probe::default()
            }),
            env: Some(vec![plain("OMP_WAIT_POLICY", "PASSIVE"), plain("HOME", "/tmp")]),
            resources: Some(resources(request, 0)),
            volume_mounts: Some(mounts),
            ..container(&format!("{JUDGE}{index}"), request)
        }
    };
    (JUDGE_PORT..).zip(served_judges(request)).enumerate().map(judge).collect()
}

/// What both kinds of container have.
fn container(name: &str, request: &Request) -> Container {
    Container {
        name: name.into(),
        image: request.settings.image(request.resource.spec.compute()).cloned(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn environment(request: &Request) -> Vec<EnvVar> {
    let mut variables = vec![
        // Idle threads of two processes on the same cores would otherwise wait by turning in circles.
        plain("OMP_WAIT_POLICY", "PASSIVE"),
        plain("HOME", "/tmp"),
        plain("PLUMBLINE_TERMINATION_LOG", TERMINATION_LOG),
        plain("PLUMBLINE_STALL_TIMEOUT_SECONDS", &request.settings.stall_timeout_seconds.to_string()),
    ];
    if let Some(url) = &request.settings.progress_url {
        variables.push(plain("PLUMBLINE_PROGRESS_URL", url));
        variables.push(plain("PLUMBLINE_PROGRESS_TOKEN", &format!("{TOKEN_FOLDER}/token")));
    }
    variables.extend(request.cache.map(|cache| plain("PLUMBLINE_INPUT_CACHE", &cache.path())));
    variables.extend(service::variables(request));
    variables.extend(api_keys(request.resource).into_iter().map(|key| from_secret(key.variable(), &key)));
    // What a resource says itself takes the place of what is said for all.
    let own = &request.resource.spec.compute().env;
    variables.retain(|variable| own.iter().all(|v| v.name != variable.name));
    variables.extend(own.iter().map(|v| match &v.secret_key_ref {
        Some(key) => from_secret(v.name.clone(), key),
        None => plain(&v.name, v.value.as_deref().unwrap_or_default()),
    }));
    variables
}

/// The Secret keys that the judges of a resource need, each once.
fn api_keys(resource: &Resource) -> Vec<KeyRef> {
    let judges = inputs::judges(&resource.spec);
    let keys = judges.into_iter().filter_map(|(_, judge)| judge.endpoint.as_ref()?.api_key_secret_ref.clone());
    let mut seen = BTreeSet::new();
    keys.filter(|key| seen.insert((key.name.clone(), key.key.clone()))).collect()
}

/// Every key of a Secret as a variable.
fn all_of(secret: &SecretRef) -> EnvFromSource {
    let source = SecretEnvSource { name: secret.name.clone(), optional: None };
    EnvFromSource { secret_ref: Some(source), ..EnvFromSource::default() }
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn from_secret(name: String, key: &KeyRef) -> EnvVar {
    let selector = SecretKeySelector { name: key.name.clone(), key: key.key.clone(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name, value: None, value_from: Some(source) }
}

fn resources(request: &Request, accelerators: i64) -> ResourceRequirements {
    let own = request.resource.spec.compute().resources.clone().unwrap_or_default();
    let quantities = |given: BTreeMap<String, compute::Quantity>| -> BTreeMap<String, Quantity> {
        given.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect()
    };
    let (requests, mut limits) = (quantities(own.requests), quantities(own.limits));
    if accelerators > 0 {
        // Extended resources are requested by their limit.
        limits.insert(request.settings.accelerator_resource.clone(), Quantity(accelerators.to_string()));
    }
    let some = |map: BTreeMap<String, Quantity>| Some(map).filter(|m| !m.is_empty());
    ResourceRequirements { requests: some(requests), limits: some(limits), claims: None }
}

fn volumes(request: &Request) -> Vec<Volume> {
    let locations: BTreeSet<&Location> = locations(request).collect();
    let mut named: BTreeMap<String, Volume> = BTreeMap::new();
    for location in locations {
        let Some(name) = volume_name(location) else { continue };
        let volume = Volume { name: name.clone(), ..Volume::default() };
        let volume = match location {
            Location::Claim { claim, .. } => Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: None,
                }),
                ..volume
            },
            Location::ConfigMap { name, .. } => Volume { config_map: Some(config_map(name)), ..volume },
            Location::Remote(_) | Location::Store(_) => Volume { empty_dir: Some(scratch(request)), ..volume },
            Location::Image(_) => continue,
        };
        named.insert(name, volume);
    }
    let mut volumes: Vec<Volume> = named.into_values().collect();
    volumes.push(Volume { name: "run".into(), config_map: Some(config_map(&request.job.name)), ..Volume::default() });
    volumes.push(Volume { name: "tmp".into(), empty_dir: Some(scratch(request)), ..Volume::default() });
    if request.settings.progress_url.is_some() {
        volumes.push(token());
    }
    volumes
}

/// Space of the node, of which a pod may not take all: what is fetched may be without end.
fn scratch(request: &Request) -> EmptyDirVolumeSource {
    let size = Some(request.settings.scratch_size.clone()).filter(|size| !size.is_empty());
    EmptyDirVolumeSource { size_limit: size.map(Quantity), medium: None }
}

fn config_map(name: &str) -> ConfigMapVolumeSource {
    ConfigMapVolumeSource { name: name.into(), ..ConfigMapVolumeSource::default() }
}

fn token() -> Volume {
    let projection = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.into()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".into(),
    };
    let source = VolumeProjection { service_account_token: Some(projection), ..VolumeProjection::default() };
    Volume {
        name: "token".into(),
        projected: Some(ProjectedVolumeSource { sources: Some(vec![source]), default_mode: None }),
        ..Volume::default()
    }
}

/// Everything that the trainer reaches.
fn locations<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a Location> {
    request.inputs.iter().map(|i| &i.location).chain([request.output]).chain(request.cache)
}

/// Mounts of the volumes that hold the locations, each once; read-only unless it holds the output.
fn mounts<'a>(locations: impl Iterator<Item = &'a Location>, output: Option<&Location>) -> Vec<VolumeMount> {
    let written = output.and_then(volume_name);
    let mounts: BTreeMap<String, String> = locations.filter_map(|p| Some((volume_name(p)?, p.mount()?))).collect();
    mounts.into_iter().map(|(name, path)| mount(&name, &path, written.as_ref() != Some(&name))).collect()
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Names of volumes are short DNS labels, names of claims and ConfigMaps need not be.
fn volume_name(location: &Location) -> Option<String> {
    let (prefix, name) = match location {
        Location::Claim { claim, .. } => ("claim", claim),
        Location::ConfigMap { name, .. } => ("input", name),
        Location::Remote(_) => return Some(FETCHED.into()),
        Location::Store(_) => return Some("output".into()),
        Location::Image(_) => return None,
    };
    if name.len() <= 50 && !name.contains('.') {
        return Some(format!("{prefix}-{name}"));
    }
    Some(format!("{prefix}-{}", hex(&Sha256::digest(name.as_bytes())[..8])))
}

fn toleration(given: &plumbline_crds::compute::Toleration) -> Toleration {
    Toleration {
        key: given.key.clone(),
        operator: given.operator.clone(),
        value: given.value.clone(),
        effect: given.effect.clone(),
        toleration_seconds: given.toleration_seconds,
    }
}
