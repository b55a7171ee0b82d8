//! Which resources name an object: so that they are looked at again when it changes, without listing anything. Computes
//! only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use plumbline_crds::Kind;

/// An object that a resource of the same namespace names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Referent {
    /// A resource of ours.
    Resource(Kind, String),
    /// A ConfigMap.
    ConfigMap(String),
    /// A PersistentVolumeClaim.
    Claim(String),
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Namespace.
    pub namespace: String,
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: String,
}

/// The index. Each reconcile of a resource renews its own entries.
#[derive(Debug, Default)]
pub struct Dependents(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    named_by: BTreeMap<(String, Referent), BTreeSet<Id>>,
    names: BTreeMap<Id, BTreeSet<Referent>>,
}

impl Dependents {
    /// Notes what a resource names, in place of what it named before.
    pub fn set(&self, id: &Id, referents: BTreeSet<Referent>) {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        index.forget(id);
        index.add(id, referents);
    }

    /// Notes more that a resource depends on: where the artifacts are that it names.
    pub fn add(&self, id: &Id, referents: impl IntoIterator<Item = Referent>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(id, referents);
    }

    /// The resources that name an object.
    pub fn of(&self, namespace: &str, referent: &Referent) -> Vec<Id> {
        let index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        index.named_by.get(&(namespace.to_owned(), referent.clone())).into_iter().flatten().cloned().collect()
    }
}

impl Index {
    fn add(&mut self, id: &Id, referents: impl IntoIterator<Item = Referent>) {
        for referent in referents {
            self.named_by.entry((id.namespace.clone(), referent.clone())).or_default().insert(id.clone());
            self.names.entry(id.clone()).or_default().insert(referent);
        }
    }

    fn forget(&mut self, id: &Id) {
        for referent in self.names.remove(id).unwrap_or_default() {
            let key = (id.namespace.clone(), referent);
            if let Some(set) = self.named_by.get_mut(&key) {
                set.remove(id);
                if set.is_empty() {
                    self.named_by.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        Id { namespace: "n".into(), kind: Kind::RewardModel, name: name.into() }
    }

    #[test]
    fn who_names_an_object_is_found_until_it_names_another() {
        let dependents = Dependents::default();
        let dataset = |name: &str| Referent::Resource(Kind::PreferenceDataset, name.into());
        let claim = Referent::Claim("c".into());
        let of = |namespace: &str, referent: &Referent| -> Vec<String> {
            dependents.of(namespace, referent).into_iter().map(|id| id.name).collect()
        };
        dependents.set(&id("a"), [dataset("d"), claim.clone()].into());
        dependents.set(&id("b"), [dataset("d")].into());
        assert_eq!(of("n", &dataset("d")), ["a", "b"]);
        assert_eq!(of("other", &dataset("d")), [""; 0]);
        let of_artifact = Referent::Claim("of-artifact".into());
        dependents.add(&id("a"), [of_artifact.clone()]);
        assert_eq!((of("n", &of_artifact), of("n", &claim)), (vec!["a".to_owned()], vec!["a".to_owned()]));
        dependents.set(&id("a"), [dataset("e")].into());
        assert_eq!(of("n", &of_artifact), [""; 0]);
        assert_eq!(of("n", &dataset("d")), ["b"]);
        assert_eq!(of("n", &claim), [""; 0]);
        dependents.set(&id("a"), BTreeSet::new());
        dependents.set(&id("b"), BTreeSet::new());
        let index = dependents.0.lock().unwrap();
        assert!(index.names.is_empty() && index.named_by.is_empty(), "nothing is kept of what is gone");
    }
}
