//! How GitOps tools interpret our resources, according to the tools themselves: kstatus, Flux's evaluator with the
//! expressions in the examples, and Argo CD's Lua with the script in the examples (`tests/go/gitops`, built by `make
//! setup-tests`).
//!
//! | question | file |
//! |---|---|
//! | Which statuses has the API server returned? | `record` |
//! | How do the tools interpret them? | `checker` |
//! | How should they? | `rules` |

mod checker;
mod record;
mod rules;

use std::collections::BTreeMap;

use serde_json::Value;

pub use checker::{ARGO_HEALTH, verdicts};
pub use record::Record;
pub use rules::{Verdict, wrong};

/// Has the tools judge every object, and panics if one is misinterpreted. Returns the number of objects per verdict.
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
