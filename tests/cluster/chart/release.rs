//! Releases on a real API server: what Helm installs is what the operator needs, an upgrade changes it, and uninstalling it
//! harms no resource. The operator runs with the arguments of the installed Deployment and as the account that it names; only
//! its addresses differ, for no container runs here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use plumbline_crds::Kind::RewardModel;
use plumbline_crds::conditions::Reason;
use plumbline_testkit::cluster::{AuditLine, Cluster, until};
use plumbline_testkit::operator::{Operator, Scene, alone, resource};
use plumbline_testkit::programs::{code, plumbline, text};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::helm::{CHART, Helm, RELEASE, Version, arguments, only, render, values};

/// An operator of the whole cluster would work in the namespaces of the other tests too, and a release changes the CRDs.
static OF_RELEASES: LazyLock<Cluster> = LazyLock::new(Cluster::start);

/// Who has that cluster.
static ONE_OPERATOR: Mutex<()> = Mutex::const_new(());

/// The most that etcd takes of a release (the Secret's limit is 1 MiB).
const ROOMY: usize = 512 * 1024;

/// A release in the namespace of a scene.
struct Release<'a> {
    scene: &'a Scene,
    helm: Helm,
    file: String,
}

impl<'a> Release<'a> {
    fn new(scene: &'a Scene, more: &Value) -> Self {
        Self::by(Version::V3, scene, more)
    }

    fn by(version: Version, scene: &'a Scene, more: &Value) -> Self {
        let helm = Helm::on(&scene.cluster.kubeconfig(), version);
        let file = helm.file(&values(more));
        Self { scene, helm, file }
    }

    /// `helm COMMAND plumbline CHART`, with the values of this release and further arguments.
    fn apply(&self, command: &str, chart: &str, arguments: &[&str]) -> String {
        let all = [command, RELEASE, chart, "--namespace", self.scene.namespace.name(), "--values", &self.file];
        self.helm.says(&[&all, arguments].concat())
    }

    fn uninstall(&self) -> String {
        self.helm.says(&["uninstall", RELEASE, "--namespace", self.scene.namespace.name()])
    }

    async fn deployment(&self) -> Value {
        let deployments: Api<Deployment> = self.scene.namespace.api().await;
        serde_json::to_value(deployments.get(RELEASE).await.unwrap()).unwrap()
    }

    /// An operator as the Deployment has it.
    async fn operator(&self) -> Operator {
        let deployment = self.deployment().await;
        let account = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap();
        let kubeconfig = self.scene.namespace.kubeconfig_for(account).await;
        let here = |argument: String| match argument.split_once('=') {
            Some((name @ ("--metrics-address" | "--progress-address"), _)) => format!("{name}=127.0.0.1:0"),
            _ => argument,
        };
        let arguments: Vec<String> = arguments(&deployment).into_iter().map(here).collect();
        Operator::run(&kubeconfig, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What the operator asked of the API server and was refused.
    fn refused(&self) -> Vec<Arc<AuditLine>> {
        let account = format!("system:serviceaccount:{}:{RELEASE}", self.scene.namespace.name());
        let mut lines = self.scene.namespace.audit();
        assert!(lines.iter().any(|l| l.user.username == account), "{account} asked for nothing");
        lines.retain(|l| l.user.username == account && l.response_status.code == 403);
        lines
    }
}

/// The path of a probe of the operator.
fn probe(deployment: &Value, name: &str) -> String {
    let probe = &deployment["spec"]["template"]["spec"]["containers"][0][name]["httpGet"];
    assert_eq!(probe["port"], "metrics");
    probe["path"].as_str().unwrap().to_owned()
}

/// Whether an operator says that it leads.
async fn leads(operator: &Operator) -> bool {
    operator.get("/metrics").await.1.contains("\nplumbline_leader 1\n")
}

async fn description(crds: &Api<CustomResourceDefinition>) -> String {
    let crd = serde_json::to_value(crds.get("rewardmodels.plumbline.dev").await.unwrap()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["description"].as_str().unwrap().to_owned()
}

/// A chart as it could have been before, with another text in a CRD.
fn earlier_chart(folder: &Path) -> String {
    let copied = Command::new("cp").arg("-r").arg(CHART).arg(folder).status().unwrap();
    assert!(copied.success());
    let chart = folder.join("plumbline");
    let file = chart.join("files/crds/rewardmodels.yaml");
    let crd = fs::read_to_string(&file).unwrap();
    let earlier = crd.replace(
        "description: A RewardModel is a scalar reward model trained on preference data.",
        "description: Earlier.",
    );
    assert_ne!(crd, earlier);
    fs::write(&file, earlier).unwrap();
    chart.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_release_is_installed_works_is_upgraded_and_leaves_every_resource_behind() {
    installed_upgraded_and_uninstalled_by(Version::V3).await;
}

#[tokio::test]
async fn by_helm_4_it_is_the_same() {
    installed_upgraded_and_uninstalled_by(Version::V4).await;
}

async fn installed_upgraded_and_uninstalled_by(version: Version) {
    let _alone = ONE_OPERATOR.lock().await;
    let scene = Scene::on(&OF_RELEASES, "release").await;
    let elsewhere = Scene::on(&OF_RELEASES, "release-runs").await;
    let space = scene.namespace.name();
    let crds: Api<CustomResourceDefinition> = Api::all(scene.client.clone());
    let release = Release::by(version, &scene, &json!({}));

    // The cluster of the tests has the CRDs already, from nobody's release.
    let folder = tempfile::tempdir().unwrap();
    let notes = release.apply("install", &earlier_chart(folder.path()), &["--take-ownership"]);
    assert!(notes.contains(&format!("kubectl -n {space} rollout status deployment/{RELEASE}")), "{notes}");
    assert!(notes.contains("kubectl get rlaif -A") && notes.contains("artifactRoot is not set"), "{notes}");
    assert_eq!(description(&crds).await, "Earlier.");
    let stored: Api<Secret> = scene.namespace.api().await;
    let stored = stored.get(&format!("sh.helm.release.v1.{RELEASE}.v1")).await.unwrap();
    let size: usize = stored.data.unwrap().values().map(|bytes| bytes.0.len()).sum();
    println!("the release takes {size} bytes");
    assert!(size < ROOMY, "{size} bytes");

    // Two operators, as there are replicas: both pass their probes, one leads.
    let deployment = release.deployment().await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let operators = [release.operator().await, release.operator().await];
    let leader = until("one of two operators leads", async || {
        let [first, second] = [leads(&operators[0]).await, leads(&operators[1]).await];
        assert!(!(first && second), "both lead");
        if first { Some(&operators[0]) } else { second.then_some(&operators[1]) }
    })
    .await;
    for operator in &operators {
        for name in ["livenessProbe", "readinessProbe"] {
            let answer = operator.get(&probe(&deployment, name)).await;
            assert_eq!(answer.0, 200, "an operator that waits would hold up every rollout: {answer:?}");
        }
    }
    let ready = async |operator: &Operator| {
        let address = operator.address("metrics").await;
        Command::new(plumbline())
            .args(["wait-for-leader", "--timeout-seconds", "1", "--address", &address])
            .output()
            .unwrap()
    };
    let asked = only(&render(space, &values(&json!({}))), "Pod")["spec"]["containers"][0]["args"].clone();
    assert_eq!(asked, json!(["wait-for-leader", "--address", format!("{RELEASE}.{space}.svc:8080")]));
    assert_eq!(code(&ready(leader).await), 0);
    let waits = operators.iter().find(|o| o.pid() != leader.pid()).unwrap();
    let answer = ready(waits).await;
    assert_eq!((code(&answer), text(&answer.stderr).contains("503")), (1, true), "{}", text(&answer.stderr));

    // In another namespace a resource gets its Job, whose pods find the way back.
    elsewhere.apply(&resource(RewardModel, "r", &alone(RewardModel))).await;
    let job = elsewhere.job(RewardModel, "r").await;
    let pod = serde_json::to_value(elsewhere.pod(RewardModel, "r").await).unwrap();
    let trainer = &pod["spec"]["containers"][0];
    assert_eq!(trainer["image"], "registry.test/plumbline-trainer:0.1.0");
    let variables = trainer["env"].as_array().unwrap();
    let url = &variables.iter().find(|v| v["name"] == "PLUMBLINE_PROGRESS_URL").unwrap()["value"];
    let services: Api<Service> = scene.namespace.api().await;
    let service = serde_json::to_value(services.get(RELEASE).await.unwrap()).unwrap();
    let port = &service["spec"]["ports"].as_array().unwrap().iter().find(|p| p["name"] == "progress").unwrap()["port"];
    assert_eq!(*url, format!("http://{RELEASE}.{space}.svc:{port}"));
    elsewhere.succeed(RewardModel, "r", "sha256:r").await;
    elsewhere.until_reason(RewardModel, "r", Reason::Completed).await;
    let refused = release.refused();
    assert!(refused.is_empty(), "{refused:?}");
    drop(operators);

    release.apply("upgrade", CHART, &["--set", "stallTimeoutSeconds=60", "--set", "replicas=1"]);
    let upgraded = release.deployment().await;
    assert_eq!(upgraded["spec"]["replicas"], 1);
    assert!(arguments(&upgraded).contains(&"--stall-timeout-seconds=60".to_owned()));
    assert!(
        description(&crds).await.starts_with("A RewardModel is a scalar reward model"),
        "the CRDs are upgraded with the release"
    );
    let operator = release.operator().await;
    until("the upgraded operator leads", async || leads(&operator).await.then_some(())).await;
    drop(operator);

    release.helm.says(&["rollback", RELEASE, "--namespace", space]);
    assert_eq!(description(&crds).await, "Earlier.", "so are they taken back");
    release.apply("upgrade", CHART, &["--set", "replicas=1"]);

    let said = release.uninstall();
    assert!(said.contains("CustomResourceDefinition"), "it says what is kept: {said}");
    for name in ["preferencedatasets", "rewardmodels", "policytunings"] {
        let crd = crds.get(&format!("{name}.plumbline.dev")).await.unwrap();
        assert!(crd.metadata.deletion_timestamp.is_none(), "{name}");
    }
    let status = elsewhere.status(RewardModel, "r").await;
    assert_eq!(status.artifact.unwrap().digest, "sha256:r");
    let jobs = elsewhere.jobs().await;
    assert!(jobs.iter().any(|j| j.name_any() == job && j.metadata.deletion_timestamp.is_none()), "{jobs:?}");
    assert_eq!(left(&scene).await, Vec::<String>::new());

    // What was kept is this release's still, when it comes back.
    release.apply("install", CHART, &[]);
    release.uninstall();
}

/// What of a release is still there, but for what it keeps.
async fn left(scene: &Scene) -> Vec<String> {
    let space = scene.namespace.name();
    let mut names = in_namespace::<Deployment>(scene).await;
    names.extend(in_namespace::<Service>(scene).await);
    names.extend(in_namespace::<ServiceAccount>(scene).await);
    names.extend(in_namespace::<Role>(scene).await);
    names.extend(in_namespace::<RoleBinding>(scene).await);
    names.extend(in_namespace::<Pod>(scene).await);
    // Those of the whole cluster have the namespace in their names.
    let roles: Api<ClusterRole> = Api::all(scene.client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(scene.client.clone());
    let roles = roles.list(&ours()).await.unwrap().items.into_iter().map(|o| o.name_any());
    let bindings = bindings.list(&ours()).await.unwrap().items.into_iter().map(|o| o.name_any());
    names.extend(roles.chain(bindings).filter(|name| name.contains(&format!(":{space}"))));
    names
}

fn ours() -> ListParams {
    ListParams::default().labels(&format!("app.kubernetes.io/instance={RELEASE}"))
}

async fn in_namespace<K>(scene: &Scene) -> Vec<String>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let found = scene.namespace.api::<K>().await.list(&ours()).await.unwrap();
    found.items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn a_release_for_one_namespace_works_there_and_nowhere_else() {
    let scene = Scene::new("team").await;
    let watched = Scene::new("team-runs").await;
    let modest = json!({
        "watchNamespace": watched.namespace.name(), "crds": {"enabled": false},
        "rbac": {"aggregateClusterRoles": false}, "artifactRoot": "pvc://results/artifacts",
    });
    let release = Release::new(&scene, &modest);
    let notes = release.apply("install", CHART, &[]);
    assert!(notes.contains(&format!("watches {}", watched.namespace.name())), "{notes}");
    let operator = release.operator().await;
    for space in [&scene, &watched] {
        let mut own = alone(RewardModel);
        // Where it goes is what the release says.
        own["output"] = Value::Null;
        space.apply(&resource(RewardModel, "r", &own)).await;
    }
    watched.succeed(RewardModel, "r", "sha256:r").await;
    let done = watched.until_reason(RewardModel, "r", Reason::Completed).await;
    let uri = format!("pvc://results/artifacts/{}/rewardmodels/r", watched.namespace.name());
    assert_eq!(done.artifact.unwrap().uri, uri);
    assert_eq!(scene.status(RewardModel, "r").await.observed_generation, -1, "nobody works where nobody watches");
    let refused = release.refused();
    assert!(refused.is_empty(), "{refused:?}");
    drop(operator);
    release.uninstall();
    assert_eq!(left(&scene).await, Vec::<String>::new());
}

#[tokio::test]
async fn people_who_may_edit_or_view_a_namespace_may_do_so_with_its_resources() {
    let scene = Scene::new("people").await;
    let space = scene.namespace.name();
    let release = Release::new(&scene, &json!({"crds": {"enabled": false}}));
    release.apply("install", CHART, &[]);
    for role in ["view", "edit"] {
        scene.kubectl(&["create", "serviceaccount", role]);
        let account = format!("--serviceaccount={space}:{role}");
        // Nobody merges what is aggregated here: the controller that does is not among those of this cluster.
        let of_release = format!("--clusterrole={RELEASE}:{space}:{role}");
        scene.kubectl(&["create", "rolebinding", role, &of_release, &account]);
    }
    let may = |who: &str, verb: &str, what: &str| {
        let account = format!("system:serviceaccount:{space}:{who}");
        let asked: Vec<&str> = what.split(' ').collect();
        let asked = [&["auth", "can-i", verb, "-n", space, "--as", &account], &asked[..]].concat();
        let asked = scene.cluster.kubectl(&asked);
        text(&asked.stdout).trim() == "yes"
    };
    until("the roles are known", async || may("view", "list", "policytunings.plumbline.dev").then_some(())).await;
    until("the roles are known", async || may("edit", "create", "rewardmodels.plumbline.dev").then_some(())).await;
    assert!(may("edit", "delete", "preferencedatasets.plumbline.dev"));
    assert!(!may("view", "create", "rewardmodels.plumbline.dev"));
    assert!(may("edit", "patch", "rewardmodels.plumbline.dev"));
    assert!(!may("edit", "patch", "rewardmodels.plumbline.dev --subresource=status"), "statuses are the operator's");
    release.uninstall();
}
