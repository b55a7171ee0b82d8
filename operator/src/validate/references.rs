//! What must hold between the resources of a set: unique names, references that lead somewhere. Computes only.
//!
//! References cannot form a cycle: a kind refers only to kinds before it in the chain.

use std::collections::{BTreeSet, HashMap};

use plumbline_crds::Kind;

use super::problem::{Finding, nearest};
use crate::inputs::{self, From};
use plumbline_crds::Resource;

/// What makes a resource unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Namespace; empty when none is written.
    pub namespace: String,
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: String,
}

/// A document that is not known to be no resource of this kind and name: its kind or name is wrong, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unclear {
    /// Kind, if it is one of ours.
    pub kind: Option<Kind>,
    /// Name as written, if there is one.
    pub name: Option<String>,
}

impl Unclear {
    fn may_be(&self, kind: Kind, name: &str) -> bool {
        let is_near = |own: &String| own == name || nearest(name, [own.as_str()].into_iter()).is_some();
        self.kind.is_none_or(|own| own == kind) && self.name.as_ref().is_none_or(is_near)
    }
}

/// What a reference may lead to besides the resources of the set.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// References that lead nowhere are no problem: the rest is on a cluster.
    pub anything: bool,
    /// That can be asked for with `--allow-missing-references`.
    pub can_be_allowed: bool,
    /// Resources that exist already.
    pub existing: BTreeSet<(Kind, String)>,
}

/// The first of two resources of the same kind and name, for every second one: index and index of the first.
pub fn duplicates(set: &[Identity]) -> Vec<(usize, usize)> {
    let mut first: HashMap<&Identity, usize> = HashMap::new();
    let mut found = Vec::new();
    for (i, identity) in set.iter().enumerate() {
        match first.get(identity) {
            Some(&earlier) => found.push((i, earlier)),
            None => {
                first.insert(identity, i);
            }
        }
    }
    found
}

/// The references of a resource that lead nowhere. One that may lead to an unclear document is not reported: what is wrong with
/// that document is.
pub fn missing(resource: &Resource, set: &[Identity], unclear: &[Unclear], elsewhere: &Elsewhere) -> Vec<Finding> {
    let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for wanted in inputs::wanted(&resource.spec) {
        let path = wanted.path();
        let From::Resource { kind, name } = wanted.from else { continue };
        let known = |i: &&Identity| i.kind == kind && i.name == name;
        if set.iter().filter(known).any(|i| i.namespace == namespace)
            || elsewhere.existing.contains(&(kind, name.clone()))
        {
            continue;
        }
        if let Some(other) = set.iter().find(known) {
            let (here, there) = (shown(namespace), shown(&other.namespace));
            found.push(Finding::new(path, format!(
                "ReferenceNotFound: expected {kind}/{name} in {here}, as references stay in one namespace, found it in {there}; move one of the two"
            )));
        } else if !elsewhere.anything && !unclear.iter().any(|unclear| unclear.may_be(kind, &name)) {
            let allow = if elsewhere.can_be_allowed { ", or pass --allow-missing-references" } else { "" };
            let names = set.iter().filter(|i| i.kind == kind).map(|i| i.name.as_str());
            let advice = nearest(&name, names)
                .map_or_else(|| format!("add its manifest with -f{allow}"), |n| format!("did you mean \"{n}\"?"));
            found.push(Finding::new(
                path,
                format!("ReferenceNotFound: expected a {kind} named \"{name}\", found none; {advice}"),
            ));
        }
    }
    found
}

fn shown(namespace: &str) -> String {
    if namespace.is_empty() { "no namespace".into() } else { format!("namespace {namespace}") }
}

/// The order in which resources can be made, as indices: what is referred to comes first, else as written.
pub fn order(resources: &[&Resource]) -> Vec<usize> {
    fn reconcile(i: usize, resources: &[&Resource], done: &mut [bool], order: &mut Vec<usize>) {
        if std::mem::replace(&mut done[i], true) {
            return;
        }
        for wanted in inputs::wanted(&resources[i].spec) {
            if let From::Resource { kind, name } = wanted.from
                && let Some(target) = resources.iter().position(|r| {
                    r.kind == kind && r.metadata.name == name && r.metadata.namespace == resources[i].metadata.namespace
                })
            {
                reconcile(target, resources, done, order);
            }
        }
        order.push(i);
    }
    let (mut done, mut order) = (vec![false; resources.len()], Vec::new());
    for i in 0..resources.len() {
        reconcile(i, resources, &mut done, &mut order);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::{Metadata, Spec};
    use serde_json::json;

    fn reward(name: &str, dataset: &str, namespace: Option<&str>) -> Resource {
        let spec = json!({"datasetRef": {"name": dataset}, "baseModel": {"uri": "m"}});
        resource(Kind::RewardModel, name, namespace, spec)
    }

    fn dataset(name: &str) -> Resource {
        let spec = json!({"prompts": {"inline": ["a"]}, "judges": [{"name": "j"}]});
        resource(Kind::PreferenceDataset, name, None, spec)
    }

    fn resource(kind: Kind, name: &str, namespace: Option<&str>, spec: serde_json::Value) -> Resource {
        Resource {
            api_version: plumbline_crds::API_VERSION.into(),
            kind,
            metadata: Metadata { name: name.into(), namespace: namespace.map(Into::into), ..Metadata::default() },
            spec: Spec::from_json(kind, spec).unwrap(),
            status: None,
        }
    }

    fn identity(kind: Kind, name: &str, namespace: &str) -> Identity {
        Identity { namespace: namespace.into(), kind, name: name.into() }
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named_with_what_was_probably_meant() {
        let set = [identity(Kind::PreferenceDataset, "helpful", "")];
        let found = |r: &Resource, elsewhere: &Elsewhere| missing(r, &set, &[], elsewhere);
        assert_eq!(found(&reward("r", "helpful", None), &Elsewhere::default()), []);
        let near = found(&reward("r", "helpfull", None), &Elsewhere::default());
        assert!(near[0].message.contains("ReferenceNotFound") && near[0].message.contains("did you mean \"helpful\"?"));
        let advice = |elsewhere| found(&reward("r", "other", None), &elsewhere)[0].message.clone();
        assert!(advice(Elsewhere::default()).ends_with("found none; add its manifest with -f"));
        let validate = Elsewhere { can_be_allowed: true, ..Elsewhere::default() };
        assert!(advice(validate).ends_with("with -f, or pass --allow-missing-references"));
        let allowed = Elsewhere { anything: true, ..Elsewhere::default() };
        assert_eq!(found(&reward("r", "other", None), &allowed), []);
        let existing =
            Elsewhere { existing: [(Kind::PreferenceDataset, "other".to_owned())].into(), ..Elsewhere::default() };
        assert_eq!(found(&reward("r", "other", None), &existing), []);
    }

    #[test]
    fn a_reference_into_another_namespace_is_refused_even_when_missing_ones_are_allowed() {
        let set = [identity(Kind::PreferenceDataset, "d", "team-a")];
        let allowed = Elsewhere { anything: true, ..Elsewhere::default() };
        let found = missing(&reward("r", "d", Some("team-b")), &set, &[], &allowed);
        assert!(found[0].message.contains("namespace team-b") && found[0].message.contains("namespace team-a"));
    }

    #[test]
    fn a_reference_that_may_lead_to_a_document_with_a_fault_is_not_reported_too() {
        let unclear = |kind, name: Option<&str>| Unclear { kind, name: name.map(str::to_owned) };
        let is_reported =
            |unclear| !missing(&reward("r", "chosen", None), &[], &[unclear], &Elsewhere::default()).is_empty();
        assert!(!is_reported(unclear(None, None)));
        assert!(!is_reported(unclear(None, Some("chosen"))));
        assert!(!is_reported(unclear(Some(Kind::PreferenceDataset), None)));
        assert!(!is_reported(unclear(Some(Kind::PreferenceDataset), Some("Chosen_"))));
        assert!(is_reported(unclear(Some(Kind::PreferenceDataset), Some("another"))));
        assert!(is_reported(unclear(Some(Kind::PolicyTuning), None)));
    }

    #[test]
    fn equal_names_are_duplicates_only_within_a_kind_and_namespace() {
        let set = [
            identity(Kind::RewardModel, "a", ""),
            identity(Kind::PolicyTuning, "a", ""),
            identity(Kind::RewardModel, "a", "x"),
            identity(Kind::RewardModel, "a", ""),
        ];
        assert_eq!(duplicates(&set), [(3, 0)]);
    }

    #[test]
    fn what_is_referred_to_comes_first_and_the_rest_stays_as_written() {
        let all = [reward("r1", "d2", None), dataset("d1"), dataset("d2"), reward("r2", "d1", None)];
        assert_eq!(order(&all.iter().collect::<Vec<_>>()), [2, 0, 1, 3]);
    }
}
