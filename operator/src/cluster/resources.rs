//! How every resource stands, for the gauge of resources. Computes only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plumbline_crds::Kind;
use plumbline_crds::conditions::Reason;

use super::dependents::Id;

/// The leading reason of every resource that was reconciled and is not gone. A leader reconciles each when it begins.
#[derive(Debug, Default)]
pub struct Resources(Mutex<BTreeMap<Id, Reason>>);

impl Resources {
    /// A reconcile left a resource with this leading reason.
    pub fn set(&self, id: &Id, reason: Reason) {
        self.locked().insert(id.clone(), reason);
    }

    /// A resource is gone.
    pub fn remove(&self, id: &Id) {
        self.locked().remove(id);
    }

    /// Each.
    pub fn ids(&self) -> Vec<Id> {
        self.locked().keys().cloned().collect()
    }

    /// Kind and leading reason of each.
    pub fn reasons(&self) -> Vec<(Kind, Reason)> {
        self.locked().iter().map(|(id, reason)| (id.kind, *reason)).collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Id, Reason>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_counts_once_by_its_last_reason_until_it_is_gone() {
        let resources = Resources::default();
        let id = |name: &str| Id { namespace: "n".into(), kind: Kind::RewardModel, name: name.into() };
        resources.set(&id("a"), Reason::Pending);
        resources.set(&id("a"), Reason::Running);
        resources.set(&id("b"), Reason::Running);
        assert_eq!(resources.reasons(), [(Kind::RewardModel, Reason::Running); 2]);
        resources.remove(&id("a"));
        assert_eq!(resources.reasons().len(), 1);
    }
}
