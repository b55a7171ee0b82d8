//! What the operator may do, and nothing else: one list, which the manifests are printed from. Computes only.

use plumbline_crds::{GROUP, Kind};
use serde_json::{Value, json};

/// Name of the roles.
pub const NAME: &str = "plumbline-operator";

/// Verbs on resources of an API group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Resources, subresources after a slash.
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// In every namespace that the operator works in. No Secret is ever read: pods name them, and the kubelet reads them.
pub fn rules() -> Vec<Rule> {
    let kinds = Kind::ALL.map(|k| k.plural().to_owned()).to_vec();
    let status = Kind::ALL.map(|k| format!("{}/status", k.plural())).to_vec();
    let core = |resources: &str, verbs| Rule { group: "", resources: vec![resources.to_owned()], verbs };
    vec![
        Rule { group: GROUP, resources: kinds, verbs: &["get", "list", "watch"] },
        Rule { group: GROUP, resources: status, verbs: &["patch"] },
        Rule {
            group: "batch",
            resources: vec!["jobs".into()],
            verbs: &["get", "list", "watch", "create", "patch", "delete"],
        },
        core("pods", &["get", "list", "watch"]),
        core("pods/log", &["get"]),
        core("configmaps", &["get", "list", "watch", "create", "delete"]),
        core("serviceaccounts", &["get", "create"]),
        core("services", &["get", "create"]),
        core("persistentvolumeclaims", &["get", "list", "watch"]),
        // Why a Job cannot make its pods is told nowhere else.
        core("events", &["list"]),
        Rule { group: "events.k8s.io", resources: vec!["events".into()], verbs: &["create", "patch"] },
    ]
}

/// Where Kueue queues Jobs: what it says of them.
pub fn kueue_rules() -> Vec<Rule> {
    vec![Rule { group: "kueue.x-k8s.io", resources: vec!["workloads".into()], verbs: &["list"] }]
}

/// In the cluster as a whole.
pub fn cluster_rules() -> Vec<Rule> {
    vec![Rule { group: "authentication.k8s.io", resources: vec!["tokenreviews".into()], verbs: &["create"] }]
}

/// In the operator's own namespace: to lead.
pub fn own_rules() -> Vec<Rule> {
    vec![Rule { group: "coordination.k8s.io", resources: vec!["leases".into()], verbs: &["get", "create", "update"] }]
}

/// Everything that an installation needs of RBAC: the operator's account in `namespace`, and its permissions everywhere, or
/// in `watched` alone. `kueue`: whether Jobs are queued by Kueue.
pub fn manifests(namespace: &str, watched: Option<&str>, kueue: bool) -> Vec<Value> {
    let account = (namespace, NAME);
    let rules = if kueue { [rules(), kueue_rules()].concat() } else { rules() };
    let works = role(NAME, watched, &rules);
    let reviews = role(&format!("{NAME}-token-reviews"), None, &cluster_rules());
    let leads = role(&format!("{NAME}-leads"), Some(namespace), &own_rules());
    let bindings = [
        binding(&works, watched, account),
        binding(&reviews, None, account),
        binding(&leads, Some(namespace), account),
    ];
    let metadata = json!({"name": NAME, "namespace": namespace});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    [account, works, reviews, leads].into_iter().chain(bindings).collect()
}

/// The role that holds rules: a ClusterRole, or a Role in a namespace.
pub fn role(name: &str, namespace: Option<&str>, rules: &[Rule]) -> Value {
    let rules: Vec<Value> =
        rules.iter().map(|r| json!({"apiGroups": [r.group], "resources": r.resources, "verbs": r.verbs})).collect();
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules})
}

/// Gives a role to a service account: everywhere, or in a namespace.
pub fn binding(role: &Value, namespace: Option<&str>, account: (&str, &str)) -> Value {
    let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    let mut metadata = json!({"name": role["metadata"]["name"]});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    let (in_namespace, name) = account;
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "namespace": in_namespace, "name": name}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_can_be_read_and_nothing_is_a_wildcard() {
        for rule in rules().into_iter().chain(kueue_rules()).chain(cluster_rules()).chain(own_rules()) {
            for word in rule.resources.iter().map(String::as_str).chain(rule.verbs.iter().copied()).chain([rule.group])
            {
                assert!(word != "*" && word != "secrets", "{rule:?}");
            }
        }
    }
}
