//! How GitOps tools read our resources, told by the tools themselves: kstatus, Flux's evaluator with the shipped expressions,
//! and Argo CD's Lua with the shipped script (`tests/go/gitops`, built by `make setup-tests`).
//!
//! | question | file |
//! |---|---|
//! | Which statuses did the API server ever serve? | `record` |
//! | What do the tools say of them? | `checker` |
//! | What should they say? | `rules` |

mod checker;
mod record;
mod rules;

use std::collections::BTreeMap;

use serde_json::Value;

pub use checker::{ARGO_HEALTH, verdicts};
pub use record::Record;
pub use rules::{Verdict, wrong};

/// Has every object judged, and ends the test if a tool reads one of them wrongly. Gives how often each verdict was given.
pub fn judge(objects: &[Value]) -> BTreeMap<Verdict, usize> {
    let mut counts = BTreeMap::new();
    let mut found = Vec::new();
    for (object, verdict) in objects.iter().zip(verdicts(objects)) {
        let findings = wrong(object, &verdict);
        if !findings.is_empty() {
            let (metadata, status) = (&object["metadata"], &object["status"]);
            let (kind, name, generation) = (&object["kind"], &metadata["name"], &metadata["generation"]);
            found.push(format!("{kind}/{name} of generation {generation}: {}; {status}", findings.join("; ")));
        }
        *counts.entry(verdict).or_insert(0) += 1;
    }
    assert!(found.is_empty(), "{} of {} statuses are read wrongly: {found:#?}", found.len(), objects.len());
    counts
}
