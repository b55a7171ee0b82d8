//! Commands of `docs/install.md` that `tests/cluster/docs.rs` cannot judge: it runs them as an administrator, and upgrades a
//! chart to itself. Talks to Helm and an API server.

use std::fs;
use std::path::Path;

use plumbline_testkit::cluster::{Cluster, until};
use plumbline_testkit::programs::text;
use serde_json::{Value, json};

use super::helm::{CHART, Helm, RELEASE, Version, values};

/// What stands in the document between two texts.
fn documented(from: &str, to: &str) -> String {
    let file = fs::read_to_string(format!("{CHART}/../../docs/install.md")).unwrap();
    let rest = file.split_once(from).unwrap_or_else(|| panic!("docs/install.md has no {from:?}")).1;
    rest.split_once(to).unwrap().0.to_owned()
}

/// The words of a command that begins so, with the chart where it is, and without its first.
fn command(begins: &str) -> Vec<String> {
    let rest = documented(&format!("\n{begins}"), "```").replace("\\\n", " ");
    let line = format!("{begins}{}", rest.lines().next().unwrap()).replace("REGISTRY", "registry.test");
    let words = line.split_whitespace().skip(1).map(|word| word.replace("charts/plumbline", CHART));
    words.collect()
}

/// A chart as it was before it had some of its values, with one object.
fn older_chart(folder: &Path) -> String {
    let chart = folder.join("plumbline");
    for (file, into) in [
        ("Chart.yaml", ""),
        ("values.yaml", ""),
        ("templates/_helpers.tpl", "templates"),
        ("templates/serviceaccount.yaml", "templates"),
    ] {
        fs::create_dir_all(chart.join(into)).unwrap();
        fs::copy(format!("{CHART}/{file}"), chart.join(file)).unwrap();
    }
    let mut values: Value = serde_yaml::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
    values.as_object_mut().unwrap().remove("kueue").unwrap();
    values["trainer"].as_object_mut().unwrap().remove("acceleratorImage").unwrap();
    fs::write(chart.join("values.yaml"), values.to_string()).unwrap();
    chart.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_documented_upgrade_keeps_what_was_set_and_brings_the_defaults_of_values_that_are_new() {
    for version in [Version::V3, Version::V4] {
        let namespace = Cluster::shared().namespace("upgrade").await;
        let helm = Helm::on(&Cluster::shared().kubeconfig(), version);
        let folder = tempfile::tempdir().unwrap();
        let set = json!({"stallTimeoutSeconds": 60, "crds": {"enabled": false}, "rbac": {"aggregateClusterRoles": false},
            "watchNamespace": namespace.name(), "progress": {"enabled": false}});
        let file = helm.file(&values(&set));
        let there = ["--namespace", namespace.name()];
        let install = ["install", RELEASE, &older_chart(folder.path()), "--values", &file];
        helm.says(&[&install[..], &there].concat());

        let old = helm.run(&[&["upgrade", RELEASE, CHART, "--reuse-values"][..], &there].concat());
        assert!(!old.status.success(), "the older chart has every value of this one: the test shows nothing");

        let mut upgrade = command("helm upgrade");
        let at = upgrade.iter().position(|word| word == "--namespace").unwrap();
        namespace.name().clone_into(&mut upgrade[at + 1]);
        helm.says(&upgrade.iter().map(String::as_str).collect::<Vec<_>>());
        let all = helm.says(&[&["get", "values", RELEASE, "--all", "--output", "json"][..], &there].concat());
        let all: Value = serde_json::from_str(&all).unwrap();
        assert_eq!((&all["stallTimeoutSeconds"], &all["kueue"]["enabled"]), (&json!(60), &json!(false)), "{version:?}");
        helm.says(&[&["uninstall", RELEASE][..], &there].concat());
    }
}

#[tokio::test]
async fn a_team_without_rights_on_the_cluster_installs_a_release_for_its_namespace_as_documented() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("team-a").await;
    let name = namespace.name();
    let kubectl = |arguments: &[&str]| {
        let output = cluster.kubectl(&[&["--namespace", name], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    };
    // `admin` is these three. The controller that adds them up is not among those of this cluster.
    for role in ["view", "edit", "admin"] {
        let of = format!("--clusterrole=system:aggregate-to-{role}");
        kubectl(&["create", "rolebinding", role, &of, "--group=team-a"]);
    }
    let helm = Helm::on(&cluster.kubeconfig(), Version::V3);
    let mut install: Vec<String> =
        command("helm install team-a-plumbline").into_iter().map(|word| word.replace("team-a", name)).collect();
    install.extend(["--kube-as-user", "somebody", "--kube-as-group", "team-a"].map(str::to_owned));
    let install: Vec<&str> = install.iter().map(String::as_str).collect();

    let refused = helm.run(&install);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("not currently held"), "{said}");
    helm.says(&["uninstall", install[1], "--namespace", name, "--ignore-not-found"]);

    let folder = tempfile::tempdir().unwrap();
    let role = folder.path().join("role.yaml");
    fs::write(&role, documented("<<'ROLE'\n", "ROLE\n")).unwrap();
    kubectl(&["apply", "-f", role.to_str().unwrap()]);
    kubectl(&["create", "rolebinding", "kinds", "--role=plumbline-kinds", "--group=team-a"]);
    let what = ["auth", "can-i", "patch", "policytunings.plumbline.dev", "--subresource=status"];
    let may = [&what[..], &["--namespace", name, "--as=somebody", "--as-group=team-a"]].concat();
    until("the role is known", async || cluster.kubectl(&may).status.success().then_some(())).await;
    helm.says(&install);

    let deployment = cluster.kubectl(&["--namespace", name, "get", "deployment", install[1], "-o", "json"]);
    let deployment: Value = serde_json::from_slice(&deployment.stdout).unwrap();
    let arguments = super::helm::arguments(&deployment);
    assert!(arguments.contains(&format!("--watch-namespace={name}")), "{arguments:?}");
    helm.says(&["uninstall", install[1], "--namespace", name]);
}
