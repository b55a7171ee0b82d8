//! One document: the envelope that Kubernetes gives every object, and the spec in it. Computes only.

use plumbline_crds::remote::Remote;
use plumbline_crds::unsupported::Target;
use plumbline_crds::{API_VERSION, Kind, Metadata, Resource, Spec};
use serde_json::{Value as Json, json};

use super::problem::Finding;
use super::rules;
use super::schema::{self, Located};
use crate::crds;
use crate::inputs::{self, Shape};
use crate::location::Location;
use crate::manifest::yaml::{Node, Value};
use crate::uri;

/// What a document is, as far as it can be told.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Kind, if it is one of ours.
    pub kind: Option<Kind>,
    /// Name, if there is one.
    pub name: Option<String>,
    /// Namespace as written.
    pub namespace: Option<String>,
    /// The resource, with the parts that are wrong left out; nothing if too little is left.
    pub resource: Option<Resource>,
    /// All that is wrong.
    pub findings: Vec<Located>,
}

impl Checked {
    /// `Kind/name`, or the kind where there is no name. Empty where the kind is not known: a name alone could be anything's.
    pub fn subject(&self) -> String {
        match (self.kind, &self.name) {
            (None, _) => String::new(),
            (Some(kind), None) => kind.to_string(),
            (Some(kind), Some(name)) => format!("{kind}/{name}"),
        }
    }

    /// A part that does not become a type: said only when the schema has not said better what is wrong with it.
    fn refused(&mut self, node: &Node, path: &str, error: &serde_json::Error) {
        if self.findings.is_empty() {
            let finding =
                Finding::new(path, format!("expected what the schema allows, found {error}; see the kind's reference"));
            self.findings.push(Located { line: node.line_of(path), finding });
        }
    }
}

/// Checks one document that is to be run somewhere. `folder` is the one that relative paths start from.
pub fn check(node: &Node, folder: &std::path::Path, target: Target) -> Checked {
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let metadata = node.get("metadata");
    let mut checked = Checked {
        kind: node.get("kind").and_then(Node::text).and_then(Kind::parse),
        name: text(metadata.and_then(|m| m.get("name"))),
        namespace: text(metadata.and_then(|m| m.get("namespace"))),
        resource: None,
        findings: Vec::new(),
    };
    if let Some(foreign) = foreign(node, checked.kind) {
        checked.findings.push(Located { line: node.line_of("apiVersion"), finding: foreign });
        return checked;
    }
    let kept = schema::check(&envelope(checked.kind), node, "", &mut checked.findings);
    let Some((kind, mut kept)) = checked.kind.zip(kept) else { return checked };
    match Spec::from_json(kind, kept["spec"].take()) {
        Ok(spec) => {
            for finding in rules::check(&spec, target).into_iter().chain(locations(&spec, folder, target)) {
                // A rule over fields of which one is wrong already would say the same thing twice.
                if !checked.findings.iter().any(|f| related(&f.finding.path, &finding.path)) {
                    checked.findings.push(Located { line: node.line_of(&finding.path), finding });
                }
            }
            match serde_json::from_value::<Metadata>(kept["metadata"].take()) {
                Ok(metadata) => {
                    checked.resource =
                        Some(Resource { api_version: API_VERSION.into(), kind, metadata, spec, status: None });
                }
                Err(error) => checked.refused(node, "metadata", &error),
            }
        }
        Err(error) => checked.refused(node, "spec", &error),
    }
    checked
}

/// An object of another API: everything else that could be said of it would be noise.
fn foreign(node: &Node, kind: Option<Kind>) -> Option<Finding> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(Finding::new(
            "",
            "expected a mapping with apiVersion, kind, metadata and spec, found something else; start with `apiVersion: plumbline.dev/v1alpha1`",
        ));
    }
    let version = node.get("apiVersion")?.text()?;
    (version != API_VERSION && kind.is_none()).then(|| {
        Finding::new(
            "apiVersion",
            format!("expected {API_VERSION}, found \"{version}\"; keep objects of other APIs in files of their own"),
        )
    })
}

fn envelope(kind: Option<Kind>) -> Json {
    // A CRD that cannot be printed is found by the tests of `crds`; here it would mean that any spec passes to serde.
    let spec = kind.and_then(|k| crds::spec_schema(k).ok()).unwrap_or(json!({}));
    let kinds: Vec<String> = Kind::ALL.iter().map(ToString::to_string).collect();
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "enum": [API_VERSION]},
            "kind": {"type": "string", "enum": kinds},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": crds::name_schema(),
                    "namespace": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": crds::name_schema()["pattern"]},
                    "labels": texts,
                    "annotations": texts,
                    "generation": {"type": "integer"},
                    // What an API server adds, so that `kubectl get -o yaml` can be checked too.
                    "creationTimestamp": {}, "resourceVersion": {}, "uid": {}, "managedFields": {},
                    "ownerReferences": {}, "finalizers": {},
                },
            },
            "spec": spec,
            "status": {},
        },
    })
}

/// URIs that cannot be read or written where the resource is to be run.
pub fn locations(spec: &Spec, folder: &std::path::Path, target: Target) -> Vec<Finding> {
    let input = |uri: &str, shape: Shape| match target {
        _ if Remote::of(uri).is_some() => remote_input(uri, shape).err(),
        Target::Local => uri::local_path(uri, folder).err(),
        Target::Cluster => Location::of_input(uri).err(),
    };
    let output = |uri: &str| match (Remote::of(uri), target) {
        (Some(Ok(Remote::Store(_))), _) => None,
        (Some(Err(why)), _) => Some(why),
        (_, Target::Local) => uri::local_output(uri, folder).err(),
        (_, Target::Cluster) => Location::of_output(uri).err(),
    };
    let inputs = inputs::wanted(spec).into_iter().filter_map(|wanted| match &wanted.from {
        inputs::From::Uri(uri) => Some(Finding::new(wanted.path(), input(uri, wanted.shape)?)),
        inputs::From::Resource { .. } | inputs::From::ConfigMap { .. } => None,
    });
    let outputs = spec.output().uri.iter().filter_map(|uri| Some(Finding::new("spec.output.uri", output(uri)?)));
    inputs.chain(outputs).collect()
}

/// What a URI to fetch from has to be where something of this shape is expected.
fn remote_input(uri: &str, shape: Shape) -> Result<(), String> {
    let Some(remote) = Remote::of(uri).transpose()? else { return Ok(()) };
    match (remote.is_file(), shape) {
        (Some(false), Shape::File | Shape::FileOrFolder) => Err(format!(
            "expected a file, as hf://datasets/organisation/name/file.jsonl, found \"{uri}\"; name a file of the repository"
        )),
        (Some(true), Shape::Folder) => {
            Err(format!("expected a model, as hf://organisation/model, found \"{uri}\"; name the repository alone"))
        }
        _ => Ok(()),
    }
}

/// Whether one path is the other or lies below it.
fn related(a: &str, b: &str) -> bool {
    let below =
        |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    // `spec` is above everything: it relates to nothing in particular.
    a == b || (b != "spec" && below(a, b)) || (a != "spec" && below(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml::documents;

    fn faults(text: &str) -> Vec<String> {
        let checked = check(&documents(text).remove(0).unwrap(), std::path::Path::new("/m"), Target::Local);
        checked.findings.into_iter().map(|f| format!("{}: {}: {}", f.line, f.finding.path, f.finding.message)).collect()
    }

    #[test]
    fn an_object_of_another_api_is_one_problem() {
        let found = faults("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A}\ndata: {}\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("1: apiVersion: expected plumbline.dev/v1alpha1, found \"v1\""), "{}", found[0]);
    }

    #[test]
    fn the_envelope_is_checked_with_the_spec() {
        let found = faults(
            "apiVersion: plumbline.dev/v1\nkind: RewardModel\nmetadata: {Name: r}\nspec:\n  datasetRef: {name: d}\n  baseModel: {uri: s3://o}\n",
        );
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[1].contains("metadata.Name: expected a known field"), "{}", found[1]);
        assert!(found[2].contains("spec.baseModel.uri: expected a URI as s3://"), "{}", found[2]);
    }

    #[test]
    fn a_document_of_no_known_kind_is_named_by_its_line_alone() {
        let found = faults("apiVersion: plumbline.dev/v1alpha1\nkind: Reward\nmetadata: {name: r}\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found.contains(&"1: spec: expected a value, found nothing; add `spec`".to_owned()), "{found:#?}");
        let document = documents("kind: Reward\nmetadata: {name: r}\n").remove(0).unwrap();
        assert_eq!(check(&document, std::path::Path::new("/m"), Target::Local).subject(), "");
    }

    #[test]
    fn a_fault_that_follows_from_another_is_not_reported() {
        let head =
            |kind: &str| format!("apiVersion: plumbline.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n");
        let dataset =
            "  generator: {model: {uri: m}}\n  prompts: {inline: [a]}\n  judgez: [{name: j, lexicon: {uri: l}}]\n";
        let reward = "  baseModel: {uri: m}\n  datasetReff: {name: d}\n";
        let tuning = "  method: BestOfN\n  policyModel: {uri: m}\n  ppo: {}\n";
        for (kind, spec, expected) in [
            (
                "PreferenceDataset",
                dataset,
                "spec.judgez: expected a known field, found `judgez`; did you mean `judges`?",
            ),
            ("RewardModel", reward, "spec.datasetReff: expected a known field"),
            ("PolicyTuning", tuning, "spec.method: found BestOfN, which is not supported yet"),
        ] {
            let found = faults(&(head(kind) + spec));
            assert!(found.len() == 1 && found[0].contains(expected), "{found:#?}");
        }
    }

    #[test]
    fn a_rule_does_not_repeat_what_the_schema_said_of_the_same_field() {
        let found = faults(
            "apiVersion: plumbline.dev/v1alpha1\nkind: PolicyTuning\nmetadata: {name: p}\nspec:\n  method: PPO\n  policyModel: {uri: m}\n  rewardModelRef: {name: r}\n  prompts: {inlin: [a]}\n",
        );
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("did you mean `inline`?"), "{}", found[0]);
    }
}
