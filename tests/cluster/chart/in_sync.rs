//! What the chart has from the code is what the code says: CRDs, permissions, arguments.

use std::collections::BTreeSet;
use std::fs;

use clap::{CommandFactory, Parser};
use plumbline_crds::Kind;
use plumbline_operator::cluster::rbac;
use plumbline_operator::cluster::settings::Settings;
use plumbline_operator::crds;
use serde_json::{Value, json};

use super::helm::{CHART, arguments, everything, only, render, values};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

#[test]
fn the_crds_are_those_of_the_types_and_are_kept_when_the_release_goes() {
    let mut files = BTreeSet::new();
    for kind in Kind::ALL {
        let file = format!("{CHART}/files/crds/{}", crds::file_name(kind));
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == crds::yaml(kind).unwrap(), "{file} is out of date: run `make generate`");
        files.insert(crds::file_name(kind));
    }
    let there = fs::read_dir(format!("{CHART}/files/crds")).unwrap();
    assert_eq!(there.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>(), files);

    let rendered = render("space", &values(&json!({"commonLabels": {"team": "a"}})));
    let mut rendered: Vec<Value> = rendered.into_iter().filter(|o| o["kind"] == "CustomResourceDefinition").collect();
    assert_eq!(rendered.len(), Kind::ALL.len());
    for crd in &mut rendered {
        let metadata = crd["metadata"].as_object_mut().unwrap();
        assert_eq!(metadata.remove("annotations"), Some(json!({"helm.sh/resource-policy": "keep"})));
        assert_eq!(metadata.remove("labels").unwrap()["team"], "a");
        let kind = Kind::parse(crd["spec"]["names"]["kind"].as_str().unwrap()).unwrap();
        assert_eq!(numbers(crd), numbers(&crds::definition(kind).unwrap()), "{kind}");
    }
    let without = render("space", &values(&json!({"crds": {"enabled": false}})));
    assert!(without.iter().all(|o| o["kind"] != "CustomResourceDefinition"));
}

/// With every number as a float: 1 and 1.0 are the same to an API server.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(numbers).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), numbers(value))).collect(),
        other => other.clone(),
    }
}

/// What a set of manifests allows, whatever its roles are called: account, namespace (none for everywhere), rule.
type Grants = BTreeSet<(String, Option<String>, String)>;

fn grants(objects: &[Value]) -> Grants {
    let mut grants = Grants::new();
    for binding in objects.iter().filter(|o| matches!(o["kind"].as_str(), Some("RoleBinding" | "ClusterRoleBinding"))) {
        let namespace = &binding["metadata"]["namespace"];
        let role = objects.iter().find(|o| {
            let same = o["kind"] == binding["roleRef"]["kind"] && o["metadata"]["name"] == binding["roleRef"]["name"];
            same && (o["kind"] == "ClusterRole" || o["metadata"]["namespace"] == *namespace)
        });
        let role = role.unwrap_or_else(|| panic!("no role of {binding}"));
        for subject in binding["subjects"].as_array().unwrap() {
            let account = format!("{} {}/{}", subject["kind"], subject["namespace"], subject["name"]).replace('"', "");
            for rule in role["rules"].as_array().unwrap() {
                grants.insert((account.clone(), namespace.as_str().map(str::to_owned), canonical(rule)));
            }
        }
    }
    grants
}

/// A rule as text, its lists in order.
fn canonical(rule: &Value) -> String {
    let list = |field: &str| {
        let list: BTreeSet<String> = serde_json::from_value(rule[field].clone()).unwrap();
        list.into_iter().collect::<Vec<_>>().join(",")
    };
    assert_eq!(rule.as_object().unwrap().len(), 3, "{rule}");
    format!("{} of {} in group '{}'", list("verbs"), list("resources"), list("apiGroups"))
}

#[test]
fn the_permissions_are_those_that_the_code_lists_in_both_modes() {
    for (watched, kueue) in [(None, false), (Some("team"), false), (None, true), (Some("team"), true)] {
        let account = json!({"serviceAccount": {"name": rbac::NAME}, "watchNamespace": watched.unwrap_or_default(),
            "kueue": {"enabled": kueue}});
        let rendered = grants(&render("space", &values(&account)));
        let listed = grants(&rbac::manifests("space", watched, kueue));
        let (lacks, more) = (listed.difference(&rendered), rendered.difference(&listed));
        let (lacks, more): (Vec<_>, Vec<_>) = (lacks.collect(), more.collect());
        assert!(lacks.is_empty() && more.is_empty(), "templates/rbac.yaml lacks {lacks:#?} and has too much {more:#?}");
        assert!(listed.len() > 10, "{listed:?}");
    }
}

#[test]
fn a_difference_of_one_verb_is_found() {
    let listed = rbac::manifests("space", None, false);
    let mut other = listed.clone();
    let role = other.iter_mut().find(|o| o["kind"] == "ClusterRole").unwrap();
    role["rules"][0]["verbs"].as_array_mut().unwrap().push(json!("delete"));
    assert_ne!(grants(&listed), grants(&other));
}

#[test]
fn without_progress_crds_and_roles_for_people_nothing_is_of_the_whole_cluster() {
    let modest = json!({
        "watchNamespace": "team", "crds": {"enabled": false}, "rbac": {"aggregateClusterRoles": false},
        "progress": {"enabled": false},
    });
    for object in render("space", &values(&modest)) {
        let namespace = object["metadata"]["namespace"].as_str();
        assert!(matches!(namespace, Some("space" | "team")), "{object}");
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert!(!container.to_string().contains("progress"), "nothing listens for it: {container}");
    }
}

#[test]
fn two_releases_of_one_name_in_two_namespaces_share_no_object() {
    let of = |space: &str| -> BTreeSet<String> {
        let team = json!({"crds": {"enabled": false}, "watchNamespace": format!("{space}-team")});
        let objects = render(space, &values(&team));
        let name = |o: &Value| format!("{} {} {}", o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]);
        objects.iter().map(name).collect()
    };
    assert_eq!(of("a").intersection(&of("b")).count(), 0);
}

#[test]
fn the_operator_takes_its_arguments_and_none_of_its_settings_has_no_value() {
    let rendered = render("space", &everything("team"));
    let given = arguments(only(&rendered, "Deployment"));
    assert_eq!(given[0], "operator");
    let settings = Arguments::try_parse_from(&given).unwrap().settings;
    assert_eq!(settings.watch_namespace.as_deref(), Some("team"));
    let image = format!("registry.test/plumbline-trainer:v2@sha256:{}", "b".repeat(64));
    assert_eq!(settings.trainer_image, Some(image));
    let with_cuda = settings.accelerator_trainer_image.as_deref();
    assert_eq!(with_cuda, Some("registry.test/plumbline-trainer-cuda:v2"));
    assert_eq!(settings.artifact_root.as_deref(), Some("pvc://results/artifacts"));
    assert_eq!(settings.input_cache.unwrap().to_string(), "pvc://inputs/cache");
    assert_eq!(settings.accelerator_resource, "amd.com/gpu");
    assert_eq!(settings.progress_url.as_deref(), Some("http://aligner.space.svc:9090"));
    assert_eq!(
        (settings.stall_timeout_seconds, settings.job_ttl_seconds, settings.resync_seconds),
        (1_000_000, 1_000_001, 1_000_002)
    );
    assert_eq!((settings.lease_namespace.as_deref(), settings.lease_duration_seconds), (Some("space"), 30));
    assert_eq!(settings.lease_name, "aligner", "a release has a lead of its own, beside others in its namespace");
    assert_eq!(settings.addresses.metrics_address.port(), 9080);
    assert_eq!(settings.addresses.progress_address.port(), 9090);

    let elsewhere = json!({"progress": {"url": "https://operator.example.com"}, "crds": {"enabled": false}});
    let rendered = render("space", &values(&elsewhere));
    let settings = Arguments::try_parse_from(arguments(only(&rendered, "Deployment"))).unwrap().settings;
    assert_eq!(settings.progress_url.as_deref(), Some("https://operator.example.com"));

    let command = Arguments::command();
    let all: BTreeSet<&str> = command.get_arguments().filter_map(|a| a.get_long()).filter(|a| *a != "help").collect();
    let set: BTreeSet<&str> = given[1..].iter().map(|a| a[2..].split('=').next().unwrap()).collect();
    assert_eq!(set, all);
}

#[test]
fn the_defaults_are_those_of_the_operator() {
    let rendered = render("space", &values(&json!({})));
    let given = Arguments::try_parse_from(arguments(only(&rendered, "Deployment"))).unwrap().settings;
    let mut own = Arguments::try_parse_from(["operator"]).unwrap().settings;
    // What an operator alone cannot know.
    (own.trainer_image, own.progress_url) = (given.trainer_image.clone(), given.progress_url.clone());
    (own.lease_namespace, own.lease_name) = (given.lease_namespace.clone(), given.lease_name.clone());
    assert_eq!(format!("{given:?}"), format!("{own:?}"));
    assert_eq!(given.trainer_image.as_deref(), Some("registry.test/plumbline-trainer:0.1.0"));
}

#[test]
fn the_version_is_that_of_the_program() {
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap()).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "it is the tag of the images where none is given");
}
